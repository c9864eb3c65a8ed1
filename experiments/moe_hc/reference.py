"""Inputs of a trial, and the float64 numpy reference that its outputs are checked against.

The reference is computed for some tokens and some experts only, so that it stays affordable at real shapes: the
outputs and token gradients of about 64 tokens, and the weight gradients of two experts over all tokens routed to them.
The choice is aimed at kernels with a fixed capacity, which drop work in the busiest expert first.

It knows nothing of jax or of any kernel: arrays in, arrays out. Formulas: `out = sum_k c_k * (silu(x G) * x U) D` over
the selected experts, where `w_up_gate` holds G and then U, and `w_down` holds D; gradients are those of
`sum(out * cotangent)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
RUN_TOKENS = 32  # consecutive tokens that share their experts under routing "runs"
SAMPLED_TOKENS = 64


class Inputs(NamedTuple):
    """Arguments of the timed function; a NamedTuple because JAX takes it as a pytree."""

    x: np.ndarray  # (tokens, hidden)
    selected_experts: np.ndarray  # (tokens, topk) int32, distinct within a token
    combine_weights: np.ndarray  # (tokens, topk), summing to one for each token
    w_up_gate: np.ndarray  # (experts, hidden, 2 * intermediate)
    w_down: np.ndarray  # (experts, intermediate, hidden)
    cotangent: np.ndarray  # (tokens, hidden)


@dataclass(frozen=True)
class Expected:
    """Reference values of some rows (along the first axis) of an output whose whole shape is `shape`."""

    shape: tuple[int, ...]
    rows: np.ndarray
    values: np.ndarray


def draw_inputs(
    *,
    tokens: int,
    hidden_dim: int,
    intermediate_dim: int,
    num_experts: int,
    topk: int,
    dtype: str,
    routing: str,
    seed: int,
) -> Inputs:
    """Draw inputs from `seed`, the same on every machine, scaled so that outputs are of order one.

    Routing is drawn last, so that "random" and "runs" share every other array.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(DTYPES[dtype])

    x = normal(tokens, hidden_dim)
    w_up_gate = normal(num_experts, hidden_dim, 2 * intermediate_dim, scale=hidden_dim**-0.5)
    w_down = normal(num_experts, intermediate_dim, hidden_dim, scale=intermediate_dim**-0.5)
    cotangent = normal(tokens, hidden_dim)
    combine_weights = rng.dirichlet(np.ones(topk), size=tokens).astype(DTYPES[dtype])

    run = RUN_TOKENS if routing == "runs" else 1
    scores = rng.random((-(-tokens // run), num_experts))
    selected_experts = np.repeat(np.argsort(scores, axis=1)[:, :topk], run, axis=0)[:tokens].astype(np.int32)
    return Inputs(x, selected_experts, combine_weights, w_up_gate, w_down, cotangent)


def expected_outputs(inputs: Inputs, *, backward: bool) -> dict[str, Expected]:
    """Reference of `out`, and with `backward` also of the gradients, keyed like the timed function's outputs."""
    tokens = _sampled_tokens(inputs.selected_experts)
    token_values = _token_reference(inputs, tokens, backward=backward)
    shapes = {"out": inputs.x.shape, "d_x": inputs.x.shape, "d_combine_weights": inputs.combine_weights.shape}
    expected = {name: Expected(shapes[name], tokens, values) for name, values in token_values.items()}
    if backward:
        experts = _sampled_experts(inputs.selected_experts)
        d_up_gate, d_down = zip(*(_expert_weight_gradients(inputs, expert) for expert in experts), strict=True)
        expected["d_w_up_gate"] = Expected(inputs.w_up_gate.shape, experts, np.stack(d_up_gate))
        expected["d_w_down"] = Expected(inputs.w_down.shape, experts, np.stack(d_down))
    return expected


def relative_errors(outputs: Mapping[str, np.ndarray], expected: Mapping[str, Expected]) -> dict[str, float]:
    """Maximum absolute error of each output divided by the maximum absolute reference value.

    An output with a non-finite value anywhere, also in rows that the reference leaves out, has an infinite error.
    """
    errors = {}
    for name, reference in expected.items():
        actual = np.asarray(outputs[name])
        if actual.shape != reference.shape:
            raise ValueError(f"output {name!r} has the wrong shape: expected {reference.shape}, found {actual.shape}")
        if np.isfinite(actual).all():
            difference = np.abs(actual[reference.rows].astype(np.float64) - reference.values)
            errors[name] = float(difference.max() / np.abs(reference.values).max())
        else:
            errors[name] = float("inf")
    return errors


def _sampled_experts(selected_experts: np.ndarray) -> np.ndarray:
    """The busiest expert and the least busy one that has any token."""
    experts, counts = np.unique(selected_experts, return_counts=True)
    return np.unique([experts[counts.argmax()], experts[counts.argmin()]])


def _sampled_tokens(selected_experts: np.ndarray) -> np.ndarray:
    """Evenly spread tokens with the first, the last, and the last of the busiest expert among them."""
    tokens = len(selected_experts)
    experts, counts = np.unique(selected_experts, return_counts=True)
    of_busiest = np.flatnonzero((selected_experts == experts[counts.argmax()]).any(axis=1))
    spread = np.linspace(0, tokens - 1, min(tokens, SAMPLED_TOKENS)).astype(int)
    return np.union1d(spread, of_busiest[-1:])


def _token_reference(inputs: Inputs, tokens: np.ndarray, *, backward: bool) -> dict[str, np.ndarray]:
    """Reference of the per-token outputs for `tokens`; each selected expert's weights are widened once."""
    x, cotangent, weights = (
        array[tokens].astype(np.float64) for array in (inputs.x, inputs.cotangent, inputs.combine_weights)
    )
    selected = inputs.selected_experts[tokens]
    out, d_x, d_combine_weights = np.zeros_like(x), np.zeros_like(x), np.zeros_like(weights)
    for expert in np.unique(selected):
        row, slot = np.nonzero(selected == expert)
        mlp = _ExpertMlp.of(inputs, expert)
        weight = weights[row, slot][:, None]
        expert_out = mlp.forward(x[row])
        out[row] += weight * expert_out
        if backward:
            d_combine_weights[row, slot] = (expert_out * cotangent[row]).sum(axis=1)
            d_up_gate = mlp.d_up_gate(x[row], weight * cotangent[row])
            d_x[row] += d_up_gate @ mlp.w_up_gate.T
    return {"out": out, "d_x": d_x, "d_combine_weights": d_combine_weights} if backward else {"out": out}


def _expert_weight_gradients(inputs: Inputs, expert: int) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of one expert's `w_up_gate` and `w_down`, over all tokens routed to it."""
    token, slot = np.nonzero(inputs.selected_experts == expert)
    mlp = _ExpertMlp.of(inputs, expert)
    x = inputs.x[token].astype(np.float64)
    d_out = inputs.combine_weights[token, slot].astype(np.float64)[:, None] * inputs.cotangent[token].astype(np.float64)
    return x.T @ mlp.d_up_gate(x, d_out), mlp.hidden(x).T @ d_out


@dataclass(frozen=True)
class _ExpertMlp:
    """One expert in float64; rows of tokens in, rows of tokens out."""

    w_up_gate: np.ndarray  # (hidden, 2 * intermediate)
    w_down: np.ndarray  # (intermediate, hidden)

    @classmethod
    def of(cls, inputs: Inputs, expert: int) -> "_ExpertMlp":
        return cls(inputs.w_up_gate[expert].astype(np.float64), inputs.w_down[expert].astype(np.float64))

    def hidden(self, x: np.ndarray) -> np.ndarray:
        gate, up = np.split(x @ self.w_up_gate, 2, axis=1)
        return gate * _sigmoid(gate) * up

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.hidden(x) @ self.w_down

    def d_up_gate(self, x: np.ndarray, d_out: np.ndarray) -> np.ndarray:
        """Gradient of the `(rows, 2 * intermediate)` product `x @ w_up_gate`, given that of the expert's output."""
        gate, up = np.split(x @ self.w_up_gate, 2, axis=1)
        sigmoid = _sigmoid(gate)
        d_hidden = d_out @ self.w_down.T
        d_gate = d_hidden * up * sigmoid * (1 + gate * (1 - sigmoid))
        d_up = d_hidden * gate * sigmoid
        return np.concatenate([d_gate, d_up], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # By tanh, because exp(-x) overflows for large negative x.
    return 0.5 * (1 + np.tanh(0.5 * x))
