"""The outer product of a LoRA, ``B[s, e] @ shrunk``, added to the base's result; and the sum over a token's experts.

A delta is a product in fp32, added to the base's value in fp32 and rounded once. Rows without an adapter are not
touched.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import (
    adapter_of,
    begin,
    count_of,
    groups_of,
    key_of,
    load_b,
    load_vectors,
    tile_of,
)


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
def _load_base(rows, is_row, block, N: tl.constexpr, SLICES: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the [ROWS, BLOCK_N] base values of a block of columns, nothing beyond the last; where, and which count."""
    piece, columns = _block_columns(block, N, BLOCK_N)
    at = rows + (piece * N + columns)[None, :]
    mask = is_row[:, None] & (columns < tl.where(piece < SLICES, N, 0))[None, :]
    return tl.load(at, mask=mask, other=0.0), at, mask


@triton.jit(do_not_specialize=["num_pairs"])
def expand(
    y, shrunk, b0, b1, ranks, key_or_ids, rows_or_slots, pairs_or_enabled, tile_counts, weight,
    num_pairs, stride_y, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, BY_PAIR: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr,
    RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Add the deltas of all tiles with an adapter to y; N is per slice."""
    blocks: tl.constexpr = SLICES * ((N + BLOCK_N - 1) // BLOCK_N)
    columns_of: tl.constexpr = SLICES * RANK
    offsets_r = tl.arange(0, BLOCK_R)
    tiles = count_of(tile_counts, num_pairs, 0, BY_PAIR)
    groups = groups_of(tiles, blocks, tl.num_programs(0))
    for item in range(tl.program_id(0), tiles * groups, tl.num_programs(0)):
        key, pairs, is_row = tile_of(
            item // groups, key_or_ids, rows_or_slots, pairs_or_enabled, EXPERTS, SLOTS, TOP_K, ROWS, BY_PAIR
        )
        if BY_PAIR:
            is_row = is_row & (key >= tl.zeros([ROWS], tl.int32))
        group = item % groups
        at_b, rank = adapter_of(key, ranks, stride_slot, stride_expert, EXPERTS, RANK, HAS_RANKS)
        part = _load_block(b0 + at_b, b1 + at_b, group, offsets_r, stride_out, rank, N, RANK, SLICES, BLOCK_N)
        scale = tl.full([ROWS], 1.0, tl.float32)
        if HAS_WEIGHT:
            scale = tl.load(weight + pairs, mask=is_row, other=0.0).to(tl.float32)
        rows = y + pairs[:, None].to(tl.int64) * stride_y
        begin(USE_PDL)
        base, at, mask = _load_base(rows, is_row, group, N, SLICES, BLOCK_N)
        first = load_vectors(shrunk, pairs, is_row, 0, offsets_r, rank, part.dtype, columns_of, CHUNKS, STRIDE_CHUNK)
        second = first
        if SLICES == 2:
            second = load_vectors(
                shrunk, pairs, is_row, RANK, offsets_r, rank, part.dtype, columns_of, CHUNKS, STRIDE_CHUNK
            )
        for block in range(group, blocks, groups):
            # What the next block needs is on its way while this one is worked on.
            next_part = _load_block(
                b0 + at_b, b1 + at_b, block + groups, offsets_r, stride_out, rank, N, RANK, SLICES, BLOCK_N
            )
            next_base, next_at, next_mask = _load_base(rows, is_row, block + groups, N, SLICES, BLOCK_N)
            vector = first
            if SLICES == 2:
                vector = tl.where(_block_columns(block, N, BLOCK_N)[0] == 0, first, second)
            delta = tl.dot(vector, tl.trans(part))
            if HAS_WEIGHT:
                delta *= scale[:, None]
            tl.store(at, (base.to(tl.float32) + delta).to(y.dtype.element_ty), mask=mask)
            part, base, at, mask = next_part, next_base, next_at, next_mask
    begin(USE_PDL)


@triton.jit
def expand_sum_by_pair(
    out, y, shrunk, b, ranks, ids, slots, enabled, weight,
    stride_out_row, stride_y, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    HAS_RANKS: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Add the deltas of one token's pairs and sum them, one block of columns: program (token, block).

    BLOCK_P is TOP_K or the next power of two. B of all pairs is one operand of BLOCK_P * BLOCK_N rows, so that all of
    it is read at once; of the product of each pair's vector with it, the pair's own part is kept.
    """
    token = tl.program_id(0)
    offsets_r = tl.arange(0, BLOCK_R)
    wide = tl.arange(0, BLOCK_P * BLOCK_N)
    which = wide // BLOCK_N
    columns = tl.program_id(1) * BLOCK_N + wide % BLOCK_N
    is_pair = which < TOP_K
    pairs = token * TOP_K + which
    expert = tl.load(ids + pairs, mask=is_pair, other=-1).to(tl.int32)
    is_read = is_pair & (expert >= 0) & (expert < EXPERTS) & (columns < N)
    key = key_of(ids, slots, enabled, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    has_adapter = key < SLOTS * EXPERTS
    slot = tl.load(slots + token).to(tl.int32)
    is_on = (slot >= 0) & (slot < SLOTS)
    slot = tl.where(is_on, slot, 0)
    rank = RANK
    if HAS_RANKS:
        rank = tl.load(ranks + slot)
    at_b = slot.to(tl.int64) * stride_slot + expert.to(tl.int64) * stride_expert + columns * stride_out
    part = load_b(b, at_b, offsets_r, 1, rank, is_read & has_adapter, RANK)
    scale = tl.load(weight + pairs, mask=is_pair, other=0.0).to(tl.float32)
    begin(USE_PDL)
    base = tl.load(y + pairs.to(tl.int64) * stride_y + columns, mask=is_read, other=0.0)
    rows = tl.arange(0, ROWS)
    own = tl.where(rows < TOP_K, token * TOP_K + rows, 0)
    own_key = key_of(ids, slots, enabled, own, rows < TOP_K, EXPERTS, SLOTS, TOP_K)
    is_row = (rows < TOP_K) & (own_key < SLOTS * EXPERTS)
    vectors = load_vectors(shrunk, own, is_row, 0, offsets_r, rank, part.dtype, RANK, CHUNKS, STRIDE_CHUNK)
    product = tl.dot(vectors, tl.trans(part))
    delta = tl.sum(tl.where(rows[:, None] == which[None, :], product, 0.0), axis=0) * scale
    value = tl.reshape((base.to(tl.float32) + delta).to(y.dtype.element_ty).to(tl.float32), [BLOCK_P, BLOCK_N])
    total = tl.zeros([BLOCK_N], tl.float32)
    for k in tl.static_range(TOP_K):
        total += tl.sum(tl.where((tl.arange(0, BLOCK_P) == k)[:, None], value, 0.0), axis=0)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = out + token.to(tl.int64) * stride_out_row + column
    tl.store(at, total.to(out.dtype.element_ty), mask=column < N)


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
