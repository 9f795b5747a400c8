"""The outer product of a LoRA, ``B[s, e] @ shrunk``, added to the base's result; and the sum over a token's experts.

A delta is a product in fp32, added to the base's value in fp32 and rounded once. Rows without an adapter are not
touched.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import begin, groups_of, load_b, load_vectors, tile_of, true_rank


@triton.jit
def _block_columns(block, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the slice that a block of columns belongs to, and its [BLOCK_N] columns there."""
    blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    return block // blocks, (block % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def _load_block(
    b0,
    b1,
    block,
    offsets_r,
    stride_out,
    rank,
    N: tl.constexpr,
    RANK: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return B's part for a block of columns; all 0, and nothing read, for a block beyond the last."""
    piece, columns = _block_columns(block, N, BLOCK_N)
    b = b0
    if SLICES == 2:  # noqa: SIM102  (the first is known to the compiler, the second to the program)
        if piece == 1:
            b = b1
    return load_b(b, columns, offsets_r, stride_out, rank, columns < tl.where(piece < SLICES, N, 0), RANK)


@triton.jit
def expand(
    y, shrunk, b0, b1, ranks, tile_key, tile_rows, tile_pairs, tile_counts, weight,
    stride_y, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Add the deltas of all tiles with an adapter to y; N is per slice."""
    blocks: tl.constexpr = SLICES * ((N + BLOCK_N - 1) // BLOCK_N)
    offsets_r = tl.arange(0, BLOCK_R)
    tiles = tl.load(tile_counts)
    groups = groups_of(tiles, blocks, tl.num_programs(0))
    for item in range(tl.program_id(0), tiles * groups, tl.num_programs(0)):
        key, pairs, is_row = tile_of(item // groups, tile_key, tile_rows, tile_pairs, ROWS)
        group = item % groups
        slot = key // EXPERTS
        rank = true_rank(ranks, slot, RANK, HAS_RANKS)
        at_b = slot.to(tl.int64) * stride_slot + (key % EXPERTS).to(tl.int64) * stride_expert
        part = _load_block(b0 + at_b, b1 + at_b, group, offsets_r, stride_out, rank, N, RANK, SLICES, BLOCK_N)
        begin(USE_PDL)
        columns_of: tl.constexpr = SLICES * RANK
        first = load_vectors(shrunk, pairs, is_row, 0, offsets_r, rank, part.dtype, columns_of, CHUNKS, STRIDE_CHUNK)
        second = first
        if SLICES == 2:
            second = load_vectors(
                shrunk, pairs, is_row, RANK, offsets_r, rank, part.dtype, columns_of, CHUNKS, STRIDE_CHUNK
            )
        scale = tl.full([ROWS], 1.0, tl.float32)
        if HAS_WEIGHT:
            scale = tl.load(weight + pairs, mask=is_row, other=0.0).to(tl.float32)
        rows = y + pairs[:, None].to(tl.int64) * stride_y
        for block in range(group, blocks, groups):
            piece, columns = _block_columns(block, N, BLOCK_N)
            at = rows + (piece * N + columns)[None, :]
            mask = is_row[:, None] & (columns < N)[None, :]
            base = tl.load(at, mask=mask, other=0.0)
            vector = first
            if SLICES == 2:
                vector = tl.where(piece == 0, first, second)
            delta = tl.dot(vector, tl.trans(part))
            part = _load_block(
                b0 + at_b, b1 + at_b, block + groups, offsets_r, stride_out, rank, N, RANK, SLICES, BLOCK_N
            )
            if HAS_WEIGHT:
                delta *= scale[:, None]
            tl.store(at, (base.to(tl.float32) + delta).to(y.dtype.element_ty), mask=mask)
    begin(USE_PDL)


@triton.jit
def sum_pairs(
    out, y, ids, stride_out_row, stride_y,
    EXPERTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write one block of columns of one token from [pairs, N] y: program (token, block)."""
    begin(USE_PDL)
    token = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N], tl.float32)
    for k in tl.static_range(TOP_K):
        pair = token * TOP_K + k
        expert = tl.load(ids + pair)
        mask = columns < tl.where((expert >= 0) & (expert < EXPERTS), N, 0)
        total += tl.load(y + pair.to(tl.int64) * stride_y + columns, mask=mask, other=0.0).to(tl.float32)
    at = out + token.to(tl.int64) * stride_out_row + columns
    tl.store(at, total.to(out.dtype.element_ty), mask=columns < N)
