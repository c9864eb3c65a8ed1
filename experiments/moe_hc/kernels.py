"""Our own candidate kernels for Levanter's routed-expert MLP.

Every candidate has the signature `(x, selected_experts, combine_weights, w_up_gate, w_down) -> out`, with shapes
`(tokens, hidden)`, `(tokens, topk)`, `(tokens, topk)`, `(experts, hidden, 2 * intermediate)` (gate first, then up),
`(experts, intermediate, hidden)` and `(tokens, hidden)`. All are exact (no assignment is ever dropped), have static
shapes under jit, and are differentiable in everything but `selected_experts`. They are local: no collectives.

What they compete with: on CPU, haliax's `ragged_dot` is `jax.lax.ragged_dot_general`, which JAX lowers to a masked
dense matmul of every assignment with every expert. So Levanter's scatter does `tokens * topk * experts` rows of work
where `tokens * topk` would do, and then adds the rows back to their tokens with a scatter.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from haliax.nn.ragged_dot import ragged_dot

# Rows in a block of one expert. Fewer rows waste less padding, more rows make each matmul more efficient; on CPU, with
# about a hundred assignments for each expert, 32 and 64 were equally fast and 128 slower.
BLOCK_ROWS = 64


def dense(x, selected_experts, combine_weights, w_up_gate, w_down):
    """Run every token through every expert, weighted by zero where it isn't routed.

    That is `tokens * experts` rows: `topk` times less than scatter on CPU, in two large matmuls without sort, gather
    or scatter. It may win with few experts; the `(tokens, experts, 2 * intermediate)` activations rule it out for many.
    """
    routed = jax.nn.one_hot(selected_experts, w_up_gate.shape[0], dtype=x.dtype)
    expert_weights = jnp.einsum("tk,tke->te", combine_weights.astype(x.dtype), routed)
    hidden = _gated(jnp.einsum("td,edf->tef", x, w_up_gate)) * expert_weights[:, :, None]
    return jnp.einsum("tei,eid->td", hidden, w_down)


def ragged_gather(x, selected_experts, combine_weights, w_up_gate, w_down):
    """Levanter's scatter with one change: combine by gather in place of scatter-add.

    A token's `topk` rows are fetched through the inverse permutation and summed, so no two writes meet. It may win
    where scatter-add is the cost, as on an accelerator; on CPU the expanded matmul dominates both.
    """
    tokens, topk = selected_experts.shape
    assigned = selected_experts.reshape(-1)
    order = jnp.argsort(assigned)
    group_sizes = jnp.bincount(assigned, length=w_up_gate.shape[0]).astype(jnp.int32)
    hidden = _gated(ragged_dot(x[order // topk], w_up_gate, group_sizes))
    rows = ragged_dot(hidden, w_down, group_sizes)
    return _combine(rows, jnp.argsort(order).reshape(tokens, topk), combine_weights)


def blocked_batch(x, selected_experts, combine_weights, w_up_gate, w_down):
    """Cut the sorted assignments into blocks of one expert each; one batched matmul over all blocks.

    The work is `tokens * topk` rows and at most one block of padding for each expert, whatever the routing. The
    weights are copied once for each block, so it pays while they are small beside the activations.
    """
    return _blocked(_batch_matmul, x, selected_experts, combine_weights, w_up_gate, w_down)


def blocked_scan(x, selected_experts, combine_weights, w_up_gate, w_down):
    """The blocks of `blocked_batch`, one after the other, reading each block's weights in place.

    It copies no weights, so its memory doesn't grow with the number of blocks; the price is a sequential loop, which
    a CPU with few cores hardly feels and an accelerator does.
    """
    return _blocked(_scan_matmul, x, selected_experts, combine_weights, w_up_gate, w_down)


CANDIDATES: dict[str, Callable[..., jax.Array]] = {
    "dense": dense,
    "ragged_gather": ragged_gather,
    "blocked_batch": blocked_batch,
    "blocked_scan": blocked_scan,
}


def _gated(up_gate):
    gate, up = jnp.split(up_gate, 2, axis=-1)
    return jax.nn.silu(gate) * up


def _combine(rows, row_of_assignment, combine_weights):
    """Sum each token's rows with its weights; `row_of_assignment` is `(tokens, topk)`, every row named once at most."""
    picked = rows.at[row_of_assignment].get(unique_indices=True)
    return jnp.einsum("tkd,tk->td", picked, combine_weights.astype(rows.dtype))


class _BlockLayout(NamedTuple):
    expert_of_block: jax.Array  # (blocks,)
    row_of_assignment: jax.Array  # (tokens, topk)
    token_of_row: jax.Array  # (blocks * BLOCK_ROWS,); `tokens`, which is no token, in padding rows


def _block_layout(selected_experts, num_experts: int) -> _BlockLayout:
    tokens, topk = selected_experts.shape
    assigned = selected_experts.reshape(-1)
    assignments = tokens * topk
    # Each expert rounds up to whole blocks; this bound holds for any routing, so the shape is static.
    num_blocks = -(-assignments // BLOCK_ROWS) + num_experts

    order = jnp.argsort(assigned)
    group_sizes = jnp.bincount(assigned, length=num_experts).astype(jnp.int32)
    group_starts = jnp.cumsum(group_sizes) - group_sizes
    group_blocks = -(-group_sizes // BLOCK_ROWS)
    first_blocks = jnp.cumsum(group_blocks) - group_blocks

    sorted_experts = assigned[order]
    rank_in_group = jnp.arange(assignments) - group_starts[sorted_experts]
    sorted_rows = first_blocks[sorted_experts] * BLOCK_ROWS + rank_in_group
    return _BlockLayout(
        expert_of_block=jnp.repeat(jnp.arange(num_experts), group_blocks, total_repeat_length=num_blocks),
        row_of_assignment=sorted_rows[jnp.argsort(order)].reshape(tokens, topk),
        token_of_row=jnp.full(num_blocks * BLOCK_ROWS, tokens).at[sorted_rows].set(order // topk),
    )


def _blocked(block_matmul, x, selected_experts, combine_weights, w_up_gate, w_down):
    layout = _block_layout(selected_experts, w_up_gate.shape[0])
    rows = x.at[layout.token_of_row].get(mode="fill", fill_value=0)
    blocks = rows.reshape(-1, BLOCK_ROWS, x.shape[1])
    hidden = _gated(block_matmul(blocks, w_up_gate, layout.expert_of_block))
    out_blocks = block_matmul(hidden, w_down, layout.expert_of_block)
    return _combine(out_blocks.reshape(rows.shape), layout.row_of_assignment, combine_weights)


def _batch_matmul(blocks, weights, expert_of_block):
    return jnp.einsum("nbd,ndf->nbf", blocks, weights[expert_of_block])


@jax.custom_vjp
def _scan_matmul(blocks, weights, expert_of_block):
    """Multiply block n, `(BLOCK_ROWS, in)`, by `weights[expert_of_block[n]]`, `(in, out)`.

    The gradient is written out because JAX's own would add a full-size weight gradient at every step of the loop;
    this one updates a single expert of the accumulator in place, in float32 also for bfloat16 weights.
    """
    return jax.lax.map(lambda block: block[0] @ weights[block[1]], (blocks, expert_of_block))


def _scan_matmul_forward(blocks, weights, expert_of_block):
    return _scan_matmul(blocks, weights, expert_of_block), (blocks, weights, expert_of_block)


def _scan_matmul_backward(saved, d_out):
    blocks, weights, expert_of_block = saved

    def one_block(d_weights, step):
        block, d_block_out, expert = step
        d_expert = jnp.matmul(block.T, d_block_out, preferred_element_type=jnp.float32)
        return d_weights.at[expert].add(d_expert), d_block_out @ weights[expert].T

    start = jnp.zeros(weights.shape, jnp.float32)
    d_weights, d_blocks = jax.lax.scan(one_block, start, (blocks, d_out, expert_of_block))
    return d_blocks, d_weights.astype(weights.dtype), None


_scan_matmul.defvjp(_scan_matmul_forward, _scan_matmul_backward)
