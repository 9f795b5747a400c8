"""Device functions that the kernels share: who works on which rows, and the two small products of a LoRA.

A *tile* is up to ROWS pairs of one adapter and one expert. Rows per tile stay under 64, so that `tl.dot` becomes
mma.sync: wgmma with A in registers, which taller tiles would use, is miscompiled in pipelined loops by ptxas before 13.3
(triton issues 9433 and 11781), and one instruction everywhere is what makes a row's result the same in every batch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wait_for_inputs(USE_PDL: tl.constexpr):
    """Wait until the kernel before this one has finished; with programmatic dependent launch alone it may not have."""
    if USE_PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def let_next_start(USE_PDL: tl.constexpr):
    """Let the next kernel start now, so that its launch and what it reads ahead overlap with this one."""
    if USE_PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def pair_keys(ids, slots, offsets, is_pair, EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr):
    """Return slot * EXPERTS + expert of the pairs at `offsets`, -1 where there is no adapter or no expert."""
    expert = tl.load(ids + offsets, mask=is_pair, other=-1).to(tl.int32)
    slot = tl.load(slots + offsets // TOP_K, mask=is_pair, other=-1).to(tl.int32)
    has_adapter = (slot >= 0) & (slot < SLOTS) & (expert >= 0) & (expert < EXPERTS)
    return tl.where(has_adapter, slot * EXPERTS + expert, -1)


@triton.jit
def small_tile(
    pair, ids, slots, enabled, num_pairs,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK_P: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Find the tile that `pair` leads in a small batch, without any plan.

    Of the pairs with one key, every ROWS-th leads; the others have no work.

    Returns:
        key of the pair, -1 for none or a slot that is off; [ROWS] pairs of the tile; how many of them count, 0 where
        `pair` leads no tile.
    """
    offsets = tl.arange(0, BLOCK_P)
    is_pair = offsets < num_pairs
    keys = pair_keys(ids, slots, offsets, is_pair, EXPERTS, SLOTS, TOP_K)
    key = tl.sum(tl.where(offsets == pair, keys, 0))
    is_same = is_pair & (keys == key)
    position = tl.sum((is_same & (offsets < pair)).to(tl.int32))
    rank = tl.cumsum(is_same.to(tl.int32), 0) - 1 - position
    total = tl.sum(is_same.to(tl.int32)) - position
    row = tl.arange(0, ROWS)
    is_row = is_same[None, :] & (rank[None, :] == row[:, None])
    pairs = tl.sum(tl.where(is_row, offsets[None, :], 0), axis=1)
    count = tl.where(position % ROWS == 0, tl.minimum(total, ROWS), 0)
    is_on = tl.load(enabled + tl.maximum(key, 0) // EXPERTS, mask=key >= 0, other=0) != 0
    return tl.where(is_on, key, -1), pairs, count


@triton.jit
def true_rank(ranks, slot, RANK: tl.constexpr, HAS_RANKS: tl.constexpr):
    """Return how many of the stack's RANK rows belong to the adapter in `slot`."""
    if HAS_RANKS:
        return tl.load(ranks + slot)
    else:
        return RANK


@triton.jit
def load_a(a, offsets_r, offsets_k, stride_rank, rank, end_k):
    """Return the [BLOCK_R, BLOCK_K] part of A; rows beyond the rank are 0 and never read."""
    mask = (offsets_r < rank)[:, None] & (offsets_k < end_k)[None, :]
    return tl.load(a + offsets_r[:, None] * stride_rank + offsets_k[None, :], mask=mask, other=0.0)


@triton.jit
def load_b(b, offsets_n, offsets_r, stride_out, rank, is_column):
    """Return the [BLOCK_N, BLOCK_R] part of B; columns beyond the rank are 0 and never read."""
    mask = is_column[:, None] & (offsets_r < rank)[None, :]
    return tl.load(b + offsets_n[:, None] * stride_out + offsets_r[None, :], mask=mask, other=0.0)


@triton.jit
def sum_partials(
    partial, pairs, is_row, first_column, offsets_r,
    RANK: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, BLOCK_R] fp32 rank vectors: the chunks' partial sums in their order."""
    mask = is_row[:, None] & (offsets_r < RANK)[None, :]
    at = partial + pairs[:, None] * COLUMNS + first_column + offsets_r[None, :]
    total = tl.load(at, mask=mask, other=0.0)
    for chunk in tl.static_range(1, CHUNKS):
        total += tl.load(at + chunk * STRIDE_CHUNK, mask=mask, other=0.0)
    return total


@triton.jit
def gate_and_up(gate, up, alpha, limit, beta, SWIGLU_OAI: tl.constexpr, PRECISE: tl.constexpr):
    """Return the activation of gate and up (both of the model's dtype), rounded where vLLM's CUDA kernels round.

    PRECISE takes the exponential and the division that nvcc takes without fast math.
    """
    dtype = gate.dtype
    wide_gate = gate.to(tl.float32)
    wide_up = up.to(tl.float32)
    if SWIGLU_OAI:
        wide_gate = tl.minimum(wide_gate, limit)
        wide_up = tl.maximum(tl.minimum(wide_up, limit), -limit)
        return divide((wide_up + beta) * wide_gate, 1.0 + exponential(-wide_gate * alpha, PRECISE), PRECISE).to(dtype)
    else:
        silu = divide(wide_gate, 1.0 + exponential(-wide_gate, PRECISE), PRECISE).to(dtype)
        return (silu.to(tl.float32) * wide_up).to(dtype)


@triton.jit
def exponential(x, PRECISE: tl.constexpr):
    """Return e to the x."""
    if PRECISE:
        return tl.extra.cuda.libdevice.exp(x)
    else:
        return tl.exp(x)


@triton.jit
def divide(x, y, PRECISE: tl.constexpr):
    """Return x / y."""
    if PRECISE:
        return tl.div_rn(x, y)
    else:
        return x / y
