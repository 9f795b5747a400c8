"""Gate and up with their deltas, and the activation, in one pass: it replaces the base's own activation kernel.

Every row is written, those without an adapter too. Gate and up plus delta are rounded to the model's dtype before the
activation, as when each step had a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import gate_and_up, load_b, small_tile, sum_partials, true_rank, wait_for_inputs


@triton.jit
def load_gate_and_up(
    y, rows, is_row, block, stride_y, N: tl.constexpr, BLOCK_N: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Return [ROWS, BLOCK_N] gate and up of rows `rows`, of one block of the N columns of each."""
    at = y + rows[:, None] * stride_y
    if INTERLEAVED:
        wide = block * (2 * BLOCK_N) + tl.arange(0, 2 * BLOCK_N)
        tile = tl.load(at + wide[None, :], mask=is_row[:, None] & (wide < 2 * N)[None, :], other=0.0)
        return deinterleave(tile)
    else:
        columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = is_row[:, None] & (columns < N)[None, :]
        gate = tl.load(at + columns[None, :], mask=mask, other=0.0)
        return gate, tl.load(at + N + columns[None, :], mask=mask, other=0.0)


@triton.jit
def deinterleave(tile):
    """Split [ROWS, 2 * BLOCK_N] into its even and its odd columns."""
    return tl.split(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]))


@triton.jit
def delta_of_gate_and_up(
    first, second, b0, b1, block, offsets_r, stride_out, rank,
    N: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, BLOCK_N] fp32 deltas of gate and of up from the rank vectors, of B's dtype, of one or two slices."""
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < N
    if SLICES == 2:
        gate = tl.dot(first, tl.trans(load_b(b0, columns, offsets_r, stride_out, rank, is_column)))
        return gate, tl.dot(second, tl.trans(load_b(b1, columns, offsets_r, stride_out, rank, is_column)))
    elif INTERLEAVED:
        wide = block * (2 * BLOCK_N) + tl.arange(0, 2 * BLOCK_N)
        return deinterleave(tl.dot(first, tl.trans(load_b(b0, wide, offsets_r, stride_out, rank, wide < 2 * N))))
    else:
        gate = tl.dot(first, tl.trans(load_b(b0, columns, offsets_r, stride_out, rank, is_column)))
        up = tl.dot(first, tl.trans(load_b(b0, N + columns, offsets_r, stride_out, rank, is_column)))
        return gate, up


@triton.jit(do_not_specialize=["num_pairs"])
def activate_small(
    out, y, partial, b0, b1, ranks, ids, slots, enabled, row_of_pair, num_pairs,
    stride_out_row, stride_y, stride_slot, stride_expert, stride_out, alpha, limit, beta,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    SLICES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_RANKS: tl.constexpr, INTERLEAVED: tl.constexpr,
    SWIGLU_OAI: tl.constexpr, PRECISE: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Activate one tile of a small batch: program (pair, i) takes every num_programs(1)-th block of N columns."""
    pair = tl.program_id(0)
    key, pairs, count = small_tile(pair, ids, slots, enabled, num_pairs, EXPERTS, SLOTS, TOP_K, BLOCK_P, ROWS)
    if count == 0:
        return
    wait_for_inputs(USE_PDL)
    slot = tl.maximum(key, 0) // EXPERTS
    is_row = tl.arange(0, ROWS) < count
    offsets_r = tl.arange(0, BLOCK_R)
    rows = pairs.to(tl.int64)
    if HAS_ROWS:
        rows = tl.load(row_of_pair + pairs, mask=is_row, other=0).to(tl.int64)
    rank = true_rank(ranks, slot, RANK, HAS_RANKS)
    at_b = slot.to(tl.int64) * stride_slot + (tl.maximum(key, 0) % EXPERTS).to(tl.int64) * stride_expert
    has_adapter = tl.arange(0, ROWS) < tl.where(key >= 0, count, 0)
    rank = tl.where(key >= 0, rank, 0)
    columns_of: tl.constexpr = SLICES * RANK
    first = sum_partials(partial, pairs, has_adapter, 0, offsets_r, RANK, columns_of, CHUNKS, STRIDE_CHUNK)
    second = first
    if SLICES == 2:
        second = sum_partials(partial, pairs, has_adapter, RANK, offsets_r, RANK, columns_of, CHUNKS, STRIDE_CHUNK)
    dtype = b0.dtype.element_ty
    for block in range(tl.program_id(1), (N + BLOCK_N - 1) // BLOCK_N, tl.num_programs(1)):
        columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
        is_column = columns < N
        gate, up = load_gate_and_up(y, rows, is_row, block, stride_y, N, BLOCK_N, INTERLEAVED)
        if key >= 0:
            gate_delta, up_delta = delta_of_gate_and_up(
                first.to(dtype), second.to(dtype), b0 + at_b, b1 + at_b, block, offsets_r, stride_out, rank,
                N, BLOCK_N, SLICES, INTERLEAVED,
            )  # fmt: skip
            gate = (gate.to(tl.float32) + gate_delta).to(y.dtype.element_ty)
            up = (up.to(tl.float32) + up_delta).to(y.dtype.element_ty)
        activated = gate_and_up(gate, up, alpha, limit, beta, SWIGLU_OAI, PRECISE)
        at = out + rows[:, None] * stride_out_row + columns[None, :]
        tl.store(at, activated, mask=is_row[:, None] & is_column[None, :])


@triton.jit
def activate_tiled(
    out, y, shrunk, b0, b1, ranks, ordered, tile_key, tile_first, tile_rows, tile_counts, row_of_pair,
    stride_out_row, stride_y, stride_slot, stride_expert, stride_out, alpha, limit, beta,
    EXPERTS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, HAS_ROWS: tl.constexpr,
    HAS_RANKS: tl.constexpr, INTERLEAVED: tl.constexpr, SWIGLU_OAI: tl.constexpr, PRECISE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Activate all tiles of a planned batch, those without an adapter too."""
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    offsets_r = tl.arange(0, BLOCK_R)
    offsets_m = tl.arange(0, ROWS)
    for item in range(tl.program_id(0), tl.load(tile_counts + 1) * blocks, tl.num_programs(0)):
        tile = item // blocks
        columns = (item % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_column = columns < N
        key = tl.load(tile_key + tile)
        place = tl.load(tile_first + tile) + offsets_m
        is_row = offsets_m < tl.load(tile_rows + tile)
        pairs = tl.load(ordered + place, mask=is_row, other=0)
        rows = pairs.to(tl.int64)
        if HAS_ROWS:
            rows = tl.load(row_of_pair + pairs, mask=is_row, other=0).to(tl.int64)
        gate, up = load_gate_and_up(y, rows, is_row, item % blocks, stride_y, N, BLOCK_N, INTERLEAVED)
        if key >= 0:
            slot = key // EXPERTS
            rank = true_rank(ranks, slot, RANK, HAS_RANKS)
            at_b = slot.to(tl.int64) * stride_slot + (key % EXPERTS).to(tl.int64) * stride_expert
            at = shrunk + place[:, None].to(tl.int64) * (SLICES * RANK) + offsets_r[None, :]
            mask = is_row[:, None] & (offsets_r < RANK)[None, :]
            first = tl.load(at, mask=mask, other=0.0)
            second = first
            if SLICES == 2:
                second = tl.load(at + RANK, mask=mask, other=0.0)
            gate_delta, up_delta = delta_of_gate_and_up(
                first, second, b0 + at_b, b1 + at_b, item % blocks, offsets_r, stride_out, rank,
                N, BLOCK_N, SLICES, INTERLEAVED,
            )  # fmt: skip
            gate = (gate.to(tl.float32) + gate_delta).to(y.dtype.element_ty)
            up = (up.to(tl.float32) + up_delta).to(y.dtype.element_ty)
        activated = gate_and_up(gate, up, alpha, limit, beta, SWIGLU_OAI, PRECISE)
        at_out = out + rows[:, None] * stride_out_row + columns[None, :]
        tl.store(at_out, activated, mask=is_row[:, None] & is_column[None, :])
