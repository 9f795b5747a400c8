"""The outer product of a LoRA, ``B[s, e] @ shrunk``, added to the base's result: kernels for small and planned batches.

A delta is a product in fp32, added to the base's value in fp32 and rounded once. Rows without an adapter are not
touched. The kernels that also activate are in `activating.py`, those that sum over k in `summing.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import (
    let_next_start,
    load_b,
    small_tile,
    sum_partials,
    true_rank,
    wait_for_inputs,
)


@triton.jit
def add_rows(y, weight, delta, pairs, is_row, columns, is_column, stride_y, HAS_WEIGHT: tl.constexpr):
    """Add [ROWS, BLOCK_N] fp32 `delta`, times the pairs' weights, to rows `pairs` of y."""
    if HAS_WEIGHT:
        delta *= tl.load(weight + pairs, mask=is_row, other=0.0).to(tl.float32)[:, None]
    at = y + pairs[:, None].to(tl.int64) * stride_y + columns[None, :]
    mask = is_row[:, None] & is_column[None, :]
    base = tl.load(at, mask=mask, other=0.0)
    tl.store(at, (base.to(tl.float32) + delta).to(y.dtype.element_ty), mask=mask)


@triton.jit
def block_columns(block, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the slice that a block of columns belongs to, and its [BLOCK_N] columns there."""
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    return block // blocks, (block % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def load_block(
    b0, b1, block, offsets_r, stride_out, rank, N: tl.constexpr, SLICES: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Return B's part for a block of columns; all 0, and nothing read, for a block beyond the last."""
    piece, columns = block_columns(block, N, BLOCK_N)
    b = b0
    if SLICES == 2:
        if piece == 1:
            b = b1
    return load_b(b, columns, offsets_r, stride_out, rank, columns < tl.where(piece < SLICES, N, 0))


@triton.jit(do_not_specialize=["num_pairs"])
def expand_small(
    y, partial, b0, b1, ranks, ids, slots, enabled, weight, num_pairs,
    stride_y, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    SLICES: tl.constexpr, HAS_RANKS: tl.constexpr, HAS_WEIGHT: tl.constexpr, CHUNKS: tl.constexpr,
    STRIDE_CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
    ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Add the deltas of one tile: program (pair, i) takes every num_programs(1)-th block of columns; N is per slice."""
    pair = tl.program_id(0)
    key, pairs, count = small_tile(pair, ids, slots, enabled, num_pairs, EXPERTS, SLOTS, TOP_K, BLOCK_P, ROWS)
    if (key < 0) | (count == 0):
        return
    slot = key // EXPERTS
    is_row = tl.arange(0, ROWS) < count
    offsets_r = tl.arange(0, BLOCK_R)
    rank = true_rank(ranks, slot, RANK, HAS_RANKS)
    at_b = slot.to(tl.int64) * stride_slot + (key % EXPERTS).to(tl.int64) * stride_expert
    blocks: tl.constexpr = SLICES * ((N + BLOCK_N - 1) // BLOCK_N)
    step = tl.num_programs(1)
    part = load_block(b0 + at_b, b1 + at_b, tl.program_id(1), offsets_r, stride_out, rank, N, SLICES, BLOCK_N)
    wait_for_inputs(USE_PDL)
    columns_of: tl.constexpr = SLICES * RANK
    first = sum_partials(partial, pairs, is_row, 0, offsets_r, RANK, columns_of, CHUNKS, STRIDE_CHUNK).to(part.dtype)
    second = first
    if SLICES == 2:
        wide = sum_partials(partial, pairs, is_row, RANK, offsets_r, RANK, columns_of, CHUNKS, STRIDE_CHUNK)
        second = wide.to(part.dtype)
    for block in range(tl.program_id(1), blocks, step):
        piece, columns = block_columns(block, N, BLOCK_N)
        delta = tl.dot(tl.where(piece == 0, first, second), tl.trans(part))
        part = load_block(b0 + at_b, b1 + at_b, block + step, offsets_r, stride_out, rank, N, SLICES, BLOCK_N)
        add_rows(y + piece * N, weight, delta, pairs, is_row, columns, columns < N, stride_y, HAS_WEIGHT)
    let_next_start(USE_PDL)


@triton.jit
def expand_tiled(
    y, shrunk, b0, b1, ranks, ordered, tile_key, tile_first, tile_rows, tile_counts, weight,
    stride_y, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add the deltas of all tiles of a planned batch; N is per slice."""
    blocks: tl.constexpr = SLICES * ((N + BLOCK_N - 1) // BLOCK_N)
    offsets_r = tl.arange(0, BLOCK_R)
    offsets_m = tl.arange(0, ROWS)
    work = tl.load(tile_counts) * blocks
    for item in range(tl.program_id(0), work, tl.num_programs(0)):
        tile = item // blocks
        piece, columns = block_columns(item % blocks, N, BLOCK_N)
        key = tl.load(tile_key + tile)
        place = tl.load(tile_first + tile) + offsets_m
        is_row = offsets_m < tl.load(tile_rows + tile)
        slot = key // EXPERTS
        rank = true_rank(ranks, slot, RANK, HAS_RANKS)
        pairs = tl.load(ordered + place, mask=is_row, other=0)
        at_b = slot.to(tl.int64) * stride_slot + (key % EXPERTS).to(tl.int64) * stride_expert
        part = load_block(b0 + at_b, b1 + at_b, item % blocks, offsets_r, stride_out, rank, N, SLICES, BLOCK_N)
        at = shrunk + place[:, None].to(tl.int64) * (SLICES * RANK) + piece * RANK + offsets_r[None, :]
        vector = tl.load(at, mask=is_row[:, None] & (offsets_r < RANK)[None, :], other=0.0)
        delta = tl.dot(vector, tl.trans(part))
        add_rows(y + piece * N, weight, delta, pairs, is_row, columns, columns < N, stride_y, HAS_WEIGHT)
