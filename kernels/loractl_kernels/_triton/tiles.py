"""Device functions that the kernels share: who works on which rows, and the two small products of a LoRA.

A *tile* is up to ROWS pairs of one adapter and one expert. Rows per tile stay under 64, so that `tl.dot` becomes
mma.sync: wgmma with A in registers, which taller tiles would use, is miscompiled in pipelined loops by ptxas before
13.3 (triton issues 9433 and 11781), and one instruction everywhere is what makes a row's result the same in every
batch.

Kernels find their tiles through four operands: of a planned batch the plan's ``tile_key``, ``tile_rows``,
``tile_pairs`` and ``tile_counts``; of one whose tiles are single pairs (BY_PAIR) the experts' ids, the tokens' slots
and which slots are on, and the fourth is not read.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def begin(USE_PDL: tl.constexpr):
    """Wait until the kernel before this one has finished, and let the next one be launched meanwhile.

    With programmatic dependent launch a kernel may be resident before its predecessor has ended. Every program of every
    kernel here waits before it lets the next one start, so what is older than the predecessor has ended: weights and an
    older plan may be read before `begin`, and nothing else. To wait again costs nothing.
    """
    if USE_PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def key_of(ids, slots, enabled, pairs, is_pair, EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr):
    """Return slot * EXPERTS + expert of `pairs`; SLOTS * EXPERTS for no adapter, no expert, or a slot that is off."""
    expert = tl.load(ids + pairs, mask=is_pair, other=-1).to(tl.int32)
    slot = tl.load(slots + pairs // TOP_K, mask=is_pair, other=-1).to(tl.int32)
    has_adapter = (slot >= 0) & (slot < SLOTS) & (expert >= 0) & (expert < EXPERTS)
    is_on = tl.load(enabled + slot, mask=has_adapter, other=0) != 0
    return tl.where(is_on, slot * EXPERTS + expert, SLOTS * EXPERTS)


@triton.jit
def count_of(tile_counts, num_pairs, AT: tl.constexpr, BY_PAIR: tl.constexpr):
    """Return how many tiles there are, with an adapter (AT 0) or in all (AT 1)."""
    if BY_PAIR:
        return num_pairs
    else:  # noqa: RET505  (Triton compiles what follows a return, and may find another type there)
        return tl.load(tile_counts + AT)


@triton.jit
def tile_of(
    tile, key_or_ids, rows_or_slots, pairs_or_enabled,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, ROWS: tl.constexpr, BY_PAIR: tl.constexpr,
):  # fmt: skip
    """Return a tile's key, -1 for no adapter; its [ROWS] pairs; and which of them count."""
    offsets = tl.arange(0, ROWS)
    if BY_PAIR:
        key = key_of(key_or_ids, rows_or_slots, pairs_or_enabled, tile, tile >= 0, EXPERTS, SLOTS, TOP_K)
        is_row = offsets == 0
        return tl.where(key < SLOTS * EXPERTS, key, -1), tl.where(is_row, tile, 0), is_row
    else:  # noqa: RET505
        is_row = offsets < tl.load(rows_or_slots + tile)
        # Read before the number of rows is known; what lies beyond it is never used.
        pairs = tl.load(pairs_or_enabled + tile * ROWS + offsets)
        return tl.load(key_or_ids + tile), tl.where(is_row, pairs, 0), is_row


@triton.jit
def groups_of(tiles, blocks, programs):
    """Return over how many programs the blocks of columns of each tile are spread, so that all have work."""
    return tl.minimum(blocks, tl.maximum(programs // tl.maximum(tiles, 1), 1))


@triton.jit
def adapter_of(
    key, ranks, stride_slot, stride_expert, EXPERTS: tl.constexpr, RANK: tl.constexpr, HAS_RANKS: tl.constexpr
):
    """Return where an adapter's matrix of `key` begins in its stack, and its true rank, 0 for no adapter."""
    slot = tl.maximum(key, 0) // EXPERTS
    at = slot.to(tl.int64) * stride_slot + (tl.maximum(key, 0) % EXPERTS).to(tl.int64) * stride_expert
    return at, tl.where(key >= 0, true_rank(ranks, slot, RANK, HAS_RANKS), 0)


@triton.jit
def true_rank(ranks, slot, RANK: tl.constexpr, HAS_RANKS: tl.constexpr):
    """Return how many of the stack's RANK rows belong to the adapter in `slot`."""
    if HAS_RANKS:
        return tl.load(ranks + slot)
    return RANK


@triton.jit
def load_a(a, offsets_r, offsets_k, stride_rank, rank, end_k):
    """Return the [BLOCK_R, BLOCK_K] part of A; rows beyond the rank are 0 and never read."""
    mask = (offsets_r < rank)[:, None] & (offsets_k < end_k)[None, :]
    return tl.load(a + offsets_r[:, None] * stride_rank + offsets_k[None, :], mask=mask, other=0.0)


@triton.jit
def load_b(b, offsets_n, offsets_r, stride_out, rank, is_column, RANK: tl.constexpr):
    """Return the [BLOCK_N, BLOCK_R] part of B; columns beyond the rank are 0, whatever lies there.

    Up to 7 columns beyond it are read, so that every read is 16 bytes wide.
    """
    is_read = offsets_r < tl.minimum((rank + 7) // 8 * 8, RANK)
    at = b + offsets_n[:, None] * stride_out + offsets_r[None, :]
    part = tl.load(at, mask=is_column[:, None] & is_read[None, :], other=0.0)
    return tl.where((offsets_r < rank)[None, :], part, 0.0).to(part.dtype)


@triton.jit
def load_vectors(
    shrunk, pairs, is_row, first_column, offsets_r, rank, dtype: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr,
):  # fmt: skip
    """Return the [pairs, BLOCK_R] rank vectors of dtype; of CHUNKS > 0 partial sums, added in their order."""
    mask = is_row[:, None] & (offsets_r < rank)[None, :]
    at = shrunk + pairs.to(tl.int64)[:, None] * COLUMNS + first_column + offsets_r[None, :]
    total = tl.load(at, mask=mask, other=0.0)
    for chunk in tl.static_range(1, CHUNKS):
        total += tl.load(at + chunk * STRIDE_CHUNK, mask=mask, other=0.0)
    return total.to(dtype)


@triton.jit
def gate_and_up(gate, up, alpha, limit, beta, SWIGLU_OAI: tl.constexpr):
    """Return the activation of gate and up (both of the model's dtype), rounded where vLLM's CUDA kernels round."""
    dtype = gate.dtype
    gate = gate.to(tl.float32)
    up = up.to(tl.float32)
    if SWIGLU_OAI:
        gate = tl.minimum(gate, limit)
        up = tl.maximum(tl.minimum(up, limit), -limit)
        return ((up + beta) * gate / (1.0 + tl.exp(-gate * alpha))).to(dtype)
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype)
    return (silu.to(tl.float32) * up).to(dtype)
