"""The inner product of a LoRA, ``A[s, e] @ x``: one kernel for small batches, one for larger ones.

Both sum over K in the same chunks of CHUNK columns, fp32 within a chunk and then chunk after chunk, so that a pair's
rank vector has the same bits in every batch. The small one spreads the chunks over programs and leaves partial sums;
the tiled one adds them up itself.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import adapter_of, begin, count_of, load_a, tile_of


@triton.jit
def _input_rows(row_of_pair, pairs, is_row, TOP_K: tl.constexpr, PER_TOKEN: tl.constexpr, HAS_ROWS: tl.constexpr):
    if PER_TOKEN:
        return (pairs // TOP_K).to(tl.int64)
    if HAS_ROWS:
        return tl.load(row_of_pair + pairs, mask=is_row, other=0).to(tl.int64)
    return pairs.to(tl.int64)


@triton.jit(do_not_specialize=["num_pairs"])
def shrink_small(
    x, a0, a1, ranks, key_or_ids, rows_or_slots, pairs_or_enabled, tile_counts, row_of_pair, shrunk,
    num_pairs, stride_x, stride_slot, stride_expert, stride_rank,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, BY_PAIR: tl.constexpr, TOP_K: tl.constexpr,
    K: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, PER_TOKEN: tl.constexpr, HAS_ROWS: tl.constexpr,
    HAS_RANKS: tl.constexpr, CHUNK: tl.constexpr,
    STRIDE_CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr,
    STAGES: tl.constexpr, PLAN_IS_OLD: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write partial sums of one chunk of K for one tile: program (tile, chunk); [chunks, pairs, SLICES * RANK] fp32.

    PLAN_IS_OLD says that the plan is not what the kernel before this one wrote, so that it may be read ahead.
    """
    if not PLAN_IS_OLD:
        begin(USE_PDL)
    tile = tl.program_id(0)
    chunk = tl.program_id(1)
    is_tile = tile < count_of(tile_counts, num_pairs, 0, BY_PAIR)
    key, pairs, is_row = tile_of(
        tile, key_or_ids, rows_or_slots, pairs_or_enabled, EXPERTS, SLOTS, TOP_K, ROWS, BY_PAIR
    )
    if PLAN_IS_OLD:
        begin(USE_PDL)
    if not is_tile:
        return
    if BY_PAIR:  # noqa: SIM102  (the first is known to the compiler, the second to the program)
        if key < 0:
            return
    at_a, rank = adapter_of(key, ranks, stride_slot, stride_expert, EXPERTS, RANK, HAS_RANKS)
    rows = _input_rows(row_of_pair, pairs, is_row, TOP_K, PER_TOKEN, HAS_ROWS)
    offsets_r = tl.arange(0, BLOCK_R)
    end = tl.minimum(chunk * CHUNK + CHUNK, K)
    first = tl.zeros([ROWS, BLOCK_R], tl.float32)
    second = tl.zeros([ROWS, BLOCK_R], tl.float32)
    for start in tl.range(0, CHUNK, BLOCK_K, num_stages=STAGES):
        offsets_k = chunk * CHUNK + start + tl.arange(0, BLOCK_K)
        mask = (is_row & (rows >= 0))[:, None] & (offsets_k < end)[None, :]
        inputs = tl.load(x + rows[:, None] * stride_x + offsets_k[None, :], mask=mask, other=0.0)
        first = tl.dot(inputs, tl.trans(load_a(a0 + at_a, offsets_r, offsets_k, stride_rank, rank, end)), first)
        if SLICES == 2:
            second = tl.dot(inputs, tl.trans(load_a(a1 + at_a, offsets_r, offsets_k, stride_rank, rank, end)), second)
    at = shrunk + chunk * STRIDE_CHUNK + pairs[:, None] * (SLICES * RANK) + offsets_r[None, :]
    mask = is_row[:, None] & (offsets_r < RANK)[None, :]
    tl.store(at, first, mask=mask)
    if SLICES == 2:
        tl.store(at + RANK, second, mask=mask)


@triton.jit(do_not_specialize=["num_pairs"])
def shrink_tiled(
    x, a0, a1, ranks, key_or_ids, rows_or_slots, pairs_or_enabled, tile_counts, row_of_pair, shrunk,
    num_pairs, stride_x, stride_slot, stride_expert, stride_rank,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, BY_PAIR: tl.constexpr, TOP_K: tl.constexpr,
    K: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, PER_TOKEN: tl.constexpr, HAS_ROWS: tl.constexpr,
    HAS_RANKS: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write the rank vectors of all tiles, [pairs, SLICES * RANK] of x's dtype."""
    begin(USE_PDL)
    offsets_r = tl.arange(0, BLOCK_R)
    for tile in range(tl.program_id(0), count_of(tile_counts, num_pairs, 0, BY_PAIR), tl.num_programs(0)):
        key, pairs, is_row = tile_of(
            tile, key_or_ids, rows_or_slots, pairs_or_enabled, EXPERTS, SLOTS, TOP_K, ROWS, BY_PAIR
        )
        at_a, rank = adapter_of(key, ranks, stride_slot, stride_expert, EXPERTS, RANK, HAS_RANKS)
        rows = _input_rows(row_of_pair, pairs, is_row, TOP_K, PER_TOKEN, HAS_ROWS)
        first = tl.zeros([ROWS, BLOCK_R], tl.float32)
        second = tl.zeros([ROWS, BLOCK_R], tl.float32)
        first_chunk = tl.zeros([ROWS, BLOCK_R], tl.float32)
        second_chunk = tl.zeros([ROWS, BLOCK_R], tl.float32)
        for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            offsets_k = start + tl.arange(0, BLOCK_K)
            mask = (is_row & (rows >= 0))[:, None] & (offsets_k < K)[None, :]
            inputs = tl.load(x + rows[:, None] * stride_x + offsets_k[None, :], mask=mask, other=0.0)
            part = load_a(a0 + at_a, offsets_r, offsets_k, stride_rank, rank, K)
            first_chunk = tl.dot(inputs, tl.trans(part), first_chunk)
            is_end = ((start + BLOCK_K) % CHUNK == 0) | (start + BLOCK_K >= K)
            first = tl.where(is_end, first + first_chunk, first)
            first_chunk = tl.where(is_end, 0.0, first_chunk)
            if SLICES == 2:
                part = load_a(a1 + at_a, offsets_r, offsets_k, stride_rank, rank, K)
                second_chunk = tl.dot(inputs, tl.trans(part), second_chunk)
                second = tl.where(is_end, second + second_chunk, second)
                second_chunk = tl.where(is_end, 0.0, second_chunk)
        at = shrunk + pairs[:, None].to(tl.int64) * (SLICES * RANK) + offsets_r[None, :]
        mask = is_row[:, None] & (offsets_r < RANK)[None, :]
        tl.store(at, first.to(shrunk.dtype.element_ty), mask=mask)
        if SLICES == 2:
            tl.store(at + RANK, second.to(shrunk.dtype.element_ty), mask=mask)
