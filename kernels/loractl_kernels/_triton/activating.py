"""Gate and up with their deltas, and the activation, in one pass: it replaces the base's own activation kernel.

Every row is written, those without an adapter too. Gate and up plus delta are rounded to the model's dtype before the
activation, as when each step had a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import begin, gate_and_up, groups_of, load_b, load_vectors, tile_of, true_rank


@triton.jit
def _load_gate_and_up(
    y, rows, is_row, block, stride_y, N: tl.constexpr, BLOCK_N: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Return [ROWS, BLOCK_N] gate and up of rows `rows`, of one block of the N columns of each."""
    at = y + rows[:, None] * stride_y
    if INTERLEAVED:
        wide = block * (2 * BLOCK_N) + tl.arange(0, 2 * BLOCK_N)
        tile = tl.load(at + wide[None, :], mask=is_row[:, None] & (wide < 2 * N)[None, :], other=0.0)
        return _deinterleave(tile)
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = is_row[:, None] & (columns < N)[None, :]
    gate = tl.load(at + columns[None, :], mask=mask, other=0.0)
    return gate, tl.load(at + N + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _deinterleave(tile):
    """Split [ROWS, 2 * BLOCK_N] into its even and its odd columns."""
    return tl.split(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]))


@triton.jit
def _deltas(
    first, second, b0, b1, block, offsets_r, stride_out, rank,
    N: tl.constexpr, BLOCK_N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, BLOCK_N] fp32 deltas of gate and of up from the rank vectors of one or two slices."""
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < N
    if SLICES == 2:
        gate = tl.dot(first, tl.trans(load_b(b0, columns, offsets_r, stride_out, rank, is_column, RANK)))
        return gate, tl.dot(second, tl.trans(load_b(b1, columns, offsets_r, stride_out, rank, is_column, RANK)))
    if INTERLEAVED:
        wide = block * (2 * BLOCK_N) + tl.arange(0, 2 * BLOCK_N)
        return _deinterleave(tl.dot(first, tl.trans(load_b(b0, wide, offsets_r, stride_out, rank, wide < 2 * N, RANK))))
    gate = tl.dot(first, tl.trans(load_b(b0, columns, offsets_r, stride_out, rank, is_column, RANK)))
    up = tl.dot(first, tl.trans(load_b(b0, N + columns, offsets_r, stride_out, rank, is_column, RANK)))
    return gate, up


@triton.jit
def activate(
    out, y, shrunk, b0, b1, ranks, tile_key, tile_rows, tile_pairs, tile_counts, row_of_pair,
    stride_out_row, stride_y, stride_slot, stride_expert, stride_out, alpha, limit, beta,
    EXPERTS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, HAS_ROWS: tl.constexpr,
    HAS_RANKS: tl.constexpr, INTERLEAVED: tl.constexpr, SWIGLU_OAI: tl.constexpr, CHUNKS: tl.constexpr,
    STRIDE_CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    """Activate all tiles, those without an adapter too; N is the columns of gate, and of up."""
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    offsets_r = tl.arange(0, BLOCK_R)
    tiles = tl.load(tile_counts + 1)
    groups = groups_of(tiles, blocks, tl.num_programs(0))
    dtype = b0.dtype.element_ty
    for item in range(tl.program_id(0), tiles * groups, tl.num_programs(0)):
        key, pairs, is_row = tile_of(item // groups, tile_key, tile_rows, tile_pairs, ROWS)
        rows = pairs.to(tl.int64)
        if HAS_ROWS:
            rows = tl.load(row_of_pair + pairs, mask=is_row, other=-1).to(tl.int64)
            is_row = is_row & (rows >= 0)
        slot = tl.maximum(key, 0) // EXPERTS
        rank = tl.where(key >= 0, true_rank(ranks, slot, RANK, HAS_RANKS), 0)
        at_b = slot.to(tl.int64) * stride_slot + (tl.maximum(key, 0) % EXPERTS).to(tl.int64) * stride_expert
        begin(USE_PDL)
        columns_of: tl.constexpr = SLICES * RANK
        first = load_vectors(shrunk, pairs, is_row, 0, offsets_r, rank, dtype, columns_of, CHUNKS, STRIDE_CHUNK)
        second = first
        if SLICES == 2:
            second = load_vectors(shrunk, pairs, is_row, RANK, offsets_r, rank, dtype, columns_of, CHUNKS, STRIDE_CHUNK)
        for block in range(item % groups, blocks, groups):
            gate, up = _load_gate_and_up(y, rows, is_row, block, stride_y, N, BLOCK_N, INTERLEAVED)
            gate_delta, up_delta = _deltas(
                first,
                second,
                b0 + at_b,
                b1 + at_b,
                block,
                offsets_r,
                stride_out,
                rank,
                N,
                BLOCK_N,
                RANK,
                SLICES,
                INTERLEAVED,
            )
            # Without an adapter the deltas are +0: what comes out is equal, though a -0 may have become +0.
            gate = (gate.to(tl.float32) + gate_delta).to(dtype)
            up = (up.to(tl.float32) + up_delta).to(dtype)
            columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
            at = out + rows[:, None] * stride_out_row + columns[None, :]
            mask = is_row[:, None] & (columns < N)[None, :]
            tl.store(at, gate_and_up(gate, up, alpha, limit, beta, SWIGLU_OAI), mask=mask)
    begin(USE_PDL)
