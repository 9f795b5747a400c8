"""Gate and up with their deltas, and the activation, in one pass: it replaces the base's own activation kernel.

Every row is written, those without an adapter too. Gate and up plus delta are rounded to the model's dtype before the
activation, as when each step had a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import (
    adapter_of,
    begin,
    count_of,
    gate_and_up,
    groups_of,
    load_b,
    load_vectors,
    tile_of,
)


@triton.jit
def _load_gate_and_up(
    y, rows, is_row, block, stride_y, N: tl.constexpr, BLOCK_N: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Return [ROWS, BLOCK_N] gate and up of rows `rows`, of one block of the N columns of each, none beyond the last.

    Interleaved, each pair of them is read as one word, the first return value; the second means nothing.
    """
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = is_row[:, None] & (columns < N)[None, :]
    if INTERLEAVED:
        words = (y + rows[:, None] * stride_y).to(tl.pointer_type(tl.int32))
        word = tl.load(words + columns[None, :], mask=mask, other=0)
        return word, word
    else:  # noqa: RET505  (Triton compiles what follows a return, with other types)
        at = y + rows[:, None] * stride_y + columns[None, :]
        return tl.load(at, mask=mask, other=0.0), tl.load(at + N, mask=mask, other=0.0)


@triton.jit
def _unpack(first, second, dtype: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Return fp32 gate and up of what `_load_gate_and_up` returned."""
    if INTERLEAVED:
        low = (first & 0xFFFF).to(tl.int16).to(dtype, bitcast=True)
        high = ((first >> 16) & 0xFFFF).to(tl.int16).to(dtype, bitcast=True)
        return low.to(tl.float32), high.to(tl.float32)
    else:  # noqa: RET505
        return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def _load_parts(
    b0, b1, block, offsets_r, stride_out, rank,
    N: tl.constexpr, BLOCK_N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Return [BLOCK_N, BLOCK_R] B of gate and of up, of one block of the N columns of each, none beyond the last."""
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < N
    if SLICES == 2:
        gate = load_b(b0, columns, offsets_r, stride_out, rank, is_column, RANK)
        return gate, load_b(b1, columns, offsets_r, stride_out, rank, is_column, RANK)
    if INTERLEAVED:
        gate = load_b(b0, 2 * columns, offsets_r, stride_out, rank, is_column, RANK)
        return gate, load_b(b0, 2 * columns + 1, offsets_r, stride_out, rank, is_column, RANK)
    gate = load_b(b0, columns, offsets_r, stride_out, rank, is_column, RANK)
    return gate, load_b(b0, N + columns, offsets_r, stride_out, rank, is_column, RANK)


@triton.jit(do_not_specialize=["num_pairs"])
def activate(
    out, y, shrunk, b0, b1, ranks, key_or_ids, rows_or_slots, pairs_or_enabled, tile_counts, row_of_pair,
    num_pairs, stride_out_row, stride_y, stride_slot, stride_expert, stride_out, alpha, limit, beta,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, BY_PAIR: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr,
    RANK: tl.constexpr, SLICES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_RANKS: tl.constexpr,
    INTERLEAVED: tl.constexpr, SWIGLU_OAI: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Activate all tiles, those without an adapter too; N is the columns of gate, and of up."""
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    columns_of: tl.constexpr = SLICES * RANK
    offsets_r = tl.arange(0, BLOCK_R)
    tiles = count_of(tile_counts, num_pairs, 1, BY_PAIR)
    groups = groups_of(tiles, blocks, tl.num_programs(0))
    dtype = b0.dtype.element_ty
    for item in range(tl.program_id(0), tiles * groups, tl.num_programs(0)):
        key, pairs, is_row = tile_of(
            item // groups, key_or_ids, rows_or_slots, pairs_or_enabled, EXPERTS, SLOTS, TOP_K, ROWS, BY_PAIR
        )
        group = item % groups
        rows = pairs.to(tl.int64)
        if HAS_ROWS:
            rows = tl.load(row_of_pair + pairs, mask=is_row, other=-1).to(tl.int64)
            is_row = is_row & (rows >= 0)
        at_b, rank = adapter_of(key, ranks, stride_slot, stride_expert, EXPERTS, RANK, HAS_RANKS)
        gate_part, up_part = _load_parts(
            b0 + at_b, b1 + at_b, group, offsets_r, stride_out, rank, N, BLOCK_N, RANK, SLICES, INTERLEAVED
        )
        begin(USE_PDL)
        gate, up = _load_gate_and_up(y, rows, is_row, group, stride_y, N, BLOCK_N, INTERLEAVED)
        first = load_vectors(shrunk, pairs, is_row, 0, offsets_r, rank, dtype, columns_of, CHUNKS, STRIDE_CHUNK)
        second = first
        if SLICES == 2:
            second = load_vectors(shrunk, pairs, is_row, RANK, offsets_r, rank, dtype, columns_of, CHUNKS, STRIDE_CHUNK)
        for block in range(group, blocks, groups):
            # What the next block needs is on its way while this one is worked on.
            next_gate_part, next_up_part = _load_parts(
                b0 + at_b, b1 + at_b, block + groups, offsets_r, stride_out, rank, N, BLOCK_N, RANK, SLICES, INTERLEAVED
            )
            next_gate, next_up = _load_gate_and_up(y, rows, is_row, block + groups, stride_y, N, BLOCK_N, INTERLEAVED)
            wide_gate, wide_up = _unpack(gate, up, dtype, INTERLEAVED)
            # Without an adapter the deltas are +0: what comes out is equal, though a -0 may have become +0.
            wide_gate = (wide_gate + tl.dot(first, tl.trans(gate_part))).to(dtype)
            wide_up = (wide_up + tl.dot(second, tl.trans(up_part))).to(dtype)
            columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
            at = out + rows[:, None] * stride_out_row + columns[None, :]
            mask = is_row[:, None] & (columns < N)[None, :]
            tl.store(at, gate_and_up(wide_gate, wide_up, alpha, limit, beta, SWIGLU_OAI), mask=mask)
            gate, up, gate_part, up_part = next_gate, next_up, next_gate_part, next_up_part
    begin(USE_PDL)
