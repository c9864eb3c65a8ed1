"""The measure function of the thread: time one execution of a routed-expert MLP, and refuse to time a wrong one.

`measure(config)` is a generator. Before its first sample it proves two things about the very executable that it will
time: that the implementation asked for is the one that runs (Levanter falls back in silence), and that its outputs
equal a float64 reference with no assignment dropped. Then every `next` is one timed execution, so that two generators
can be interleaved in one process (candidate, baseline, candidate, ...). They share nothing but the device count.

Importing this module loads nothing heavy; jax, numpy and Levanter come in when a generator starts.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    from jax.extend.core import Jaxpr

    from experiments.moe_hc.reference import Inputs

    # (x, selected_experts, combine_weights, w_up_gate, w_down) -> (out, number of dropped assignments)
    Kernel = Callable[..., tuple[jax.Array, Any]]

# Names are repeated here, because the modules that own them load jax; a test holds the copies equal.
# Those that only today's Levanter has, over several devices and on one.
TODAYS_PARALLEL = ("ring_gather_combine", "ring_filtered", "fixed_all_to_all", "fixed_pooled_wave_all_to_all")
TODAYS_LOCAL = ("sonic_cute",)
OLDER_IMPLEMENTATIONS = ("ring", "ragged_all_to_all", "deepep", "scatter", "sonic")
LEVANTER_IMPLEMENTATIONS = OLDER_IMPLEMENTATIONS + TODAYS_PARALLEL + TODAYS_LOCAL
CANDIDATE_NAMES = ("dense", "ragged_gather", "blocked_batch", "blocked_scan")

_CHOICES = {
    "implementation": LEVANTER_IMPLEMENTATIONS + CANDIDATE_NAMES,
    "pass_mode": ("forward", "forward_backward"),
    "dtype": ("float32", "bfloat16"),
    "routing": ("random", "runs"),
}
_WARM_UP_EXECUTIONS = 3


@dataclass(frozen=True)
class MoeConfig:
    """One case of the hillclimb; with the default shapes, scatter takes about 10 ms forward on a two-core CPU.

    `routing` "random" draws each token's experts independently; "runs" gives 32 consecutive tokens the same experts.
    `expert_parallel` is the size of the mesh's "expert" axis; `capacity_factor` matters only above one.
    Raises ValueError on a field that is out of range.
    """

    implementation: str = "scatter"
    pass_mode: str = "forward"
    tokens: int = 512
    hidden_dim: int = 128
    intermediate_dim: int = 128
    num_experts: int = 8
    topk: int = 2
    dtype: str = "float32"
    routing: str = "random"
    expert_parallel: int = 1
    capacity_factor: float = 1.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            listed = ", ".join(repr(choice) for choice in choices)
            self._require(name, getattr(self, name) in choices, f"one of {listed}")
        for name in ("tokens", "hidden_dim", "intermediate_dim", "num_experts", "topk", "expert_parallel"):
            self._require(name, _is_int(getattr(self, name)) and getattr(self, name) > 0, "a positive integer")
        self._require("seed", _is_int(self.seed) and self.seed >= 0, "a non-negative integer")
        is_number = _is_int(self.capacity_factor) or isinstance(self.capacity_factor, float)
        self._require("capacity_factor", is_number and self.capacity_factor > 0, "a positive number")
        self._require("topk", self.topk <= self.num_experts, f"at most num_experts ({self.num_experts})")
        for name in ("tokens", "num_experts"):
            divides = getattr(self, name) % self.expert_parallel == 0
            self._require(name, divides, f"a multiple of expert_parallel ({self.expert_parallel})")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}, found {getattr(self, name)!r}")


def has_todays_kernels() -> bool:
    """Whether the Levanter that is installed has the implementations of today's Marin; it is not imported for that."""
    levanter = find_spec("levanter")
    assert levanter is not None and levanter.origin is not None, "Marin requires it"
    return Path(levanter.origin).with_name("grug").joinpath("_moe", "ep_ring_filtered.py").exists()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def measure(config: MoeConfig) -> Iterator[dict[str, float]]:
    """Yield `{"time_s", "max_rel_error"}` for ever: seconds of one execution, and the error that the check found.

    Raises RuntimeError before the first sample if the devices are not there, another implementation ran, an output is
    wrong, or an assignment was dropped. What the implementation itself raises comes through as it is.
    """
    import jax

    devices = _start_devices(config.expert_parallel)
    inputs = _draw_inputs(config)
    mesh = _expert_mesh(devices) if config.expert_parallel > 1 else None
    placement = devices[0] if mesh is None else jax.NamedSharding(mesh, jax.P("expert"))
    # One placement serves every array: the first axis is tokens or experts, and both are split over the mesh.
    arguments = jax.device_put(inputs, placement)

    traced = jax.jit(_timed_function(config, mesh)).trace(*arguments)
    if config.implementation in LEVANTER_IMPLEMENTATIONS:  # a candidate is called directly: nothing can replace it
        _assert_implementation(config, _primitives(traced.jaxpr.jaxpr))
    execute = traced.lower().compile()
    max_rel_error = _check(config, inputs, *execute(*arguments))
    for _ in range(_WARM_UP_EXECUTIONS):
        jax.block_until_ready(execute(*arguments))

    while True:
        start = time.perf_counter()
        jax.block_until_ready(execute(*arguments))
        yield {"time_s": time.perf_counter() - start, "max_rel_error": max_rel_error}


def _start_devices(count: int) -> list["jax.Device"]:
    """The first `count` devices; on CPU they are made by asking for them before the backend starts."""
    import jax

    # Refused once the backend has started with another setting; what it has is counted below.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.local_devices()
    # More CPU devices than asked for share the same cores, so that a time would mean something else.
    if len(devices) < count or (jax.default_backend() == "cpu" and len(devices) != count):
        raise RuntimeError(
            f"expert_parallel={count} needs {count} {jax.default_backend()} devices, found {len(devices)}; on CPU the "
            f"count is fixed when the JAX backend starts, so run this configuration in a fresh process"
        )
    return devices[:count]


def _draw_inputs(config: MoeConfig) -> "Inputs":
    from experiments.moe_hc.reference import draw_inputs

    not_drawn = ("implementation", "pass_mode", "expert_parallel", "capacity_factor")
    return draw_inputs(**{name: value for name, value in asdict(config).items() if name not in not_drawn})


def _expert_mesh(devices: list["jax.Device"]) -> "jax.sharding.Mesh":
    import jax

    # Levanter reads the batch's sharding from the types of the traced arrays, which only explicit axes carry.
    return jax.make_mesh((len(devices),), ("expert",), axis_types=(jax.sharding.AxisType.Explicit,), devices=devices)


def _kernel(config: MoeConfig, mesh: "jax.sharding.Mesh | None") -> "Kernel":
    if config.implementation in CANDIDATE_NAMES:
        if mesh is not None:
            raise ValueError(
                f"implementation {config.implementation!r} has no collectives: expected expert_parallel=1, "
                f"found {config.expert_parallel}"
            )
        from experiments.moe_hc.kernels import CANDIDATES

        candidate = CANDIDATES[config.implementation]
        return lambda *arguments: (candidate(*arguments), 0)

    from functools import partial

    from levanter.grug.grug_moe import moe_mlp

    # Two of today's have a second one, for what they send.
    pooled = {"pooled_transport_capacity_factor": config.capacity_factor} if has_todays_kernels() else {}
    return partial(
        moe_mlp,
        implementation=config.implementation,
        mesh=mesh,
        capacity_factor=config.capacity_factor,
        report_capacity_overflow=True,
        **pooled,
    )


def _timed_function(config: MoeConfig, mesh: "jax.sharding.Mesh | None") -> Callable[..., tuple[dict, Any]]:
    """What is timed: the arrays of `Inputs` in, `(outputs by name, number of dropped assignments)` out.

    "forward_backward" returns the output too, and the gradient of the combine weights, which trains the router:
    without them the compiler would leave out work that every training step does.
    """
    import jax

    kernel = _kernel(config, mesh)

    def forward(x, selected_experts, combine_weights, w_up_gate, w_down, cotangent):
        out, dropped = kernel(x, selected_experts, combine_weights, w_up_gate, w_down)
        return {"out": out}, dropped

    def forward_backward(x, selected_experts, combine_weights, w_up_gate, w_down, cotangent):
        def differentiable(x, combine_weights, w_up_gate, w_down):
            return kernel(x, selected_experts, combine_weights, w_up_gate, w_down)

        out, pull_back, dropped = jax.vjp(differentiable, x, combine_weights, w_up_gate, w_down, has_aux=True)
        names = ("d_x", "d_combine_weights", "d_w_up_gate", "d_w_down")
        return {"out": out, **dict(zip(names, pull_back(cotangent), strict=True))}, dropped

    return {"forward": forward, "forward_backward": forward_backward}[config.pass_mode]


def _primitives(jaxpr: "Jaxpr") -> set[str]:
    """Names of all primitives in a jaxpr and in the jaxprs inside it."""
    from jax.extend.core import subjaxprs

    names = {equation.primitive.name for equation in jaxpr.eqns}
    return names.union(*(_primitives(inner) for inner in subjaxprs(jaxpr)))


def _implementation_of(primitives: set[str]) -> str | None:
    """Which of Levanter's implementations a traced program is; each has primitives that those below it lack."""
    # The grouped matmul that most of them use: haliax's ragged_dot in XLA, or in Pallas on GPU and TPU.
    is_grouped = bool(primitives & {"ragged_dot_general", "pallas_call"})
    if "ragged_all_to_all" in primitives:
        return "ragged_all_to_all"
    if "ffi_call" in primitives:
        return "deepep"
    if "all_to_all" in primitives:
        # One of the two fixed ones recomputes its waves in the backward pass.
        fixed = "fixed_pooled_wave_all_to_all" if "remat2" in primitives else "fixed_all_to_all"
        return "ring_filtered" if is_grouped else fixed
    if {"all_gather", "reduce_scatter"} <= primitives:
        return "ring_gather_combine" if "scatter" in primitives else "ring"
    if "triton_kernel_call" in primitives:
        return "sonic"
    if any("cutlass" in name for name in primitives):
        return "sonic_cute"
    return "scatter" if is_grouped else None


def _assert_implementation(config: MoeConfig, primitives: set[str]) -> None:
    ran = _implementation_of(primitives)
    if ran != config.implementation:
        hint = ""
        if config.expert_parallel == 1 and config.implementation not in ("scatter", "sonic", "sonic_cute"):
            hint = "; it needs expert_parallel above 1, without which Levanter falls back"
        found = ran or "no known implementation"
        raise RuntimeError(f"implementation {config.implementation!r} was asked for but {found} ran{hint}")


def _tolerance(dtype: str, backend: str) -> float:
    """Largest error that rounding explains, relative to the largest reference value.

    Right implementations stay below 2e-6 in float32 and 1.5e-2 in bfloat16 on CPU. On GPU and TPU the matmul units
    round float32 operands (to TF32 or bfloat16) by default, so float32 is no better than bfloat16 there.
    """
    return 1e-4 if dtype == "float32" and backend == "cpu" else 3e-2


def _check(config: MoeConfig, inputs: "Inputs", outputs: dict[str, "jax.Array"], dropped: Any) -> float:
    """Return the largest relative error of all outputs, or refuse the trial."""
    import jax

    from experiments.moe_hc.reference import expected_outputs, relative_errors

    # One count, or one for each side of the transport.
    count = sum(int(part) for part in jax.tree.leaves(dropped))
    if count:
        raise RuntimeError(
            f"implementation {config.implementation!r} dropped {count} of {config.tokens * config.topk} "
            f"assignments at capacity_factor={config.capacity_factor}, expected none; raise capacity_factor"
        )
    expected = expected_outputs(inputs, backward=config.pass_mode == "forward_backward")
    errors = relative_errors(jax.device_get(outputs), expected)
    worst = max(errors, key=errors.__getitem__)
    tolerance = _tolerance(config.dtype, jax.default_backend())
    if not errors[worst] <= tolerance:
        raise RuntimeError(
            f"implementation {config.implementation!r} is wrong: {worst} has a relative error of {errors[worst]:.2g}, "
            f"expected at most {tolerance:g} for {config.dtype} on {jax.default_backend()}"
        )
    return errors[worst]
