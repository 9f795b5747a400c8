"""LoRA on linear layers: two launches for a small batch, and a plan of one launch more for a large one.

Kernels read tiles: up to ROWS tokens of one adapter. A program of a small batch finds its tile by itself; a large batch
is sorted by one kernel first, and a fixed set of programs loops over the tiles there are. K is summed in chunks of
CHUNK columns, fp32 within a chunk and then chunk after chunk, by one device function for both, so that a token's result
has the same bits in every batch. All that varies from batch to batch is an ordinary argument that the kernels are not
specialised on, or a count on the device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from loractl_kernels._triton.tiles import begin, true_rank
from loractl_kernels.dense import (
    MAX_SLICES,
    SPLIT_TOKENS,
    TILE_ROWS,
    DenseAdapters,
    DenseScratch,
    bins_of,
    bucket_of,
    is_small,
    padded_columns,
    tile_bound,
)
from loractl_kernels.operands import MAX_CHUNKS

_SMALL_ROWS = 16
_CHUNK_UNIT = 128
_PLAN_TOKENS = 2048
_WIDE_COLUMNS = 128

SHRINK_SMALL = {"BLOCK_K": 64, "STAGES": 6, "num_warps": 4}
EXPAND_SMALL = {16: (64, 2), 64: (64, 2), 256: (128, 4)}  # tokens: (BLOCK_N, num_warps)
SHRINK_TILED = {"BLOCK_K": 64, "STAGES": 4, "num_warps": 4}
EXPAND_TILED = {True: (64, 256, 4), False: (128, 512, 4)}  # partial sums are left: (BLOCK_N, SPAN, num_warps)
PROGRAMS_PER_SM = 8


@triton.jit
def _pick(index, first, second, third, fourth, SLICES: tl.constexpr):
    """Return the operand of slice `index`, a number or a block of numbers."""
    picked = first
    if SLICES > 1:
        picked = tl.where(index == 1, second, picked)
    if SLICES > 2:
        picked = tl.where(index == 2, third, picked)
    if SLICES > 3:
        picked = tl.where(index == 3, fourth, picked)
    return picked


@triton.jit
def _small_tile(
    tile, slots_ptr, num_tokens, SLOTS: tl.constexpr, BINS: tl.constexpr, BLOCK_T: tl.constexpr, ROWS: tl.constexpr
):
    """Find a tile of a small batch without any plan: adapters in order of slot, their tokens in order.

    Returns:
        slot; [ROWS] tokens; how many of them count, 0 beyond the last tile.
    """
    offsets = tl.arange(0, BLOCK_T)
    slot = tl.load(slots_ptr + offsets, mask=offsets < num_tokens, other=-1).to(tl.int32)
    bins = tl.arange(0, BINS)
    counts = tl.sum((slot[None, :] == bins[:, None]).to(tl.int32), axis=1)
    counts = tl.where(bins < SLOTS, counts, 0)
    tiles = (counts + ROWS - 1) // ROWS
    ends = tl.cumsum(tiles, 0)
    found = tl.sum((ends <= tile).to(tl.int32))
    skipped = (tile - tl.sum(tl.where(bins == found, ends - tiles, 0))) * ROWS
    left = tl.sum(tl.where(bins == found, counts, 0)) - skipped
    is_same = slot == found
    rank = tl.cumsum(is_same.to(tl.int32), 0) - 1 - skipped
    is_row = is_same[None, :] & (rank[None, :] == tl.arange(0, ROWS)[:, None])
    tokens = tl.sum(tl.where(is_row, offsets[None, :], 0), axis=1)
    return found, tokens, tl.where(found < SLOTS, tl.minimum(left, ROWS), 0)


@triton.jit
def _project(
    x_ptr, a0_ptr, a1_ptr, a2_ptr, a3_ptr, tokens, is_row, slot, rank, first_column, first_k, end_k, stride_x_token,
    K: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, BLOCK_C] fp32 sums over columns `first_k` to `end_k`, chunk after chunk; A is 0 beyond the rank."""
    column = first_column + tl.arange(0, BLOCK_C)
    offsets_r = column % BLOCK_R
    at_slot = slot.to(tl.int64) * (RANK * K)
    if BLOCK_C == BLOCK_R:
        a = _pick(first_column // BLOCK_R, a0_ptr, a1_ptr, a2_ptr, a3_ptr, SLICES) + at_slot
        a_rows = a + offsets_r * K
    else:
        a_rows = _pick(column // BLOCK_R, a0_ptr, a1_ptr, a2_ptr, a3_ptr, SLICES) + at_slot + offsets_r * K
    is_rank = (offsets_r < rank) & (column < SLICES * BLOCK_R)
    x_rows = x_ptr + tokens.to(tl.int64) * stride_x_token
    total = tl.zeros([ROWS, BLOCK_C], tl.float32)
    part = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for start in tl.range(first_k, end_k, BLOCK_K, num_stages=STAGES):
        offsets_k = start + tl.arange(0, BLOCK_K)
        is_k = (offsets_k < end_k)[None, :]
        inputs = tl.load(x_rows[:, None] + offsets_k[None, :], mask=is_row[:, None] & is_k, other=0.0)
        weights = tl.load(a_rows[:, None] + offsets_k[None, :], mask=is_rank[:, None] & is_k, other=0.0)
        part = tl.dot(inputs, tl.trans(weights), part)
        is_end = ((start + BLOCK_K) % CHUNK == 0) | (start + BLOCK_K >= end_k)
        total = tl.where(is_end, total + part, total)
        part = tl.where(is_end, 0.0, part)
    return total


@triton.jit
def _columns_of(
    item, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, SPAN: tl.constexpr,
    SLICES: tl.constexpr,
):  # fmt: skip
    """Return the slice of the `item`-th span of columns, where the slice starts, the span's first column in it.

    A span does not cross slices; the last is how many columns the slice has.
    """
    end0: tl.constexpr = (N0 + SPAN - 1) // SPAN
    end1: tl.constexpr = end0 + (N1 + SPAN - 1) // SPAN
    end2: tl.constexpr = end1 + (N2 + SPAN - 1) // SPAN
    piece = 0
    if SLICES > 1:
        piece += tl.where(item >= end0, 1, 0)
    if SLICES > 2:
        piece += tl.where(item >= end1, 1, 0)
    if SLICES > 3:
        piece += tl.where(item >= end2, 1, 0)
    first = _pick(piece, 0, N0, N0 + N1, N0 + N1 + N2, SLICES)
    start = (item - _pick(piece, 0, end0, end1, end2, SLICES)) * SPAN
    return piece, first, start, _pick(piece, N0, N1, N2, N3, SLICES)


@triton.jit
def _load_b(b_ptr, columns, size, rank, RANK: tl.constexpr, HAS_RANKS: tl.constexpr, BLOCK_R: tl.constexpr):
    """Return the [BLOCK_N, BLOCK_R] part of a slice's B, 0 beyond the rank.

    The load's mask ends at a multiple of 8, so that it stays 16 bytes wide where the rank is known at run time alone.
    What it takes up to 7 columns beyond the rank is dropped before any use.
    """
    offsets_r = tl.arange(0, BLOCK_R)
    is_loaded = (offsets_r < (rank + 7) // 8 * 8) & (offsets_r < RANK)
    mask = (columns < size)[:, None] & is_loaded[None, :]
    weights = tl.load(b_ptr + columns[:, None] * RANK + offsets_r[None, :], mask=mask, other=0.0)
    if HAS_RANKS:
        weights = tl.where((offsets_r < rank)[None, :], weights, 0.0)
    return weights


@triton.jit
def _load_vectors(
    partial_ptr, tokens, is_row, piece, dtype: tl.constexpr,
    SLICES: tl.constexpr, CHUNKS: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, BLOCK_R] rank vectors of a slice: the partial sums, added up in their order and rounded."""
    columns_of: tl.constexpr = SLICES * BLOCK_R
    at = partial_ptr + tokens[:, None].to(tl.int64) * (CHUNKS * columns_of) + piece * BLOCK_R
    at += tl.arange(0, BLOCK_R)[None, :]
    vectors = tl.load(at, mask=is_row[:, None], other=0.0)
    for chunk in tl.static_range(1, CHUNKS):
        vectors += tl.load(at + chunk * columns_of, mask=is_row[:, None], other=0.0)
    return vectors.to(dtype)


@triton.jit(do_not_specialize=["num_tokens"], do_not_specialize_on_alignment=["slots_ptr"])
def _shrink_small_kernel(
    x_ptr,  # [tokens, K]
    a0_ptr, a1_ptr, a2_ptr, a3_ptr,  # [slots, 1, RANK, K] each
    ranks_ptr,  # [slots] int32
    slots_ptr,  # [tokens] integer
    partial_ptr,  # [tokens, CHUNKS, SLICES * BLOCK_R] fp32
    num_tokens, stride_x_token,
    K: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr, BLOCK_R: tl.constexpr, SLOTS: tl.constexpr, BINS: tl.constexpr, BLOCK_T: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write one chunk's partial sums of one tile and slice.

    Grid: (tiles at most, CHUNKS, SLICES).
    """
    begin(USE_PDL)
    slot, tokens, count = _small_tile(tl.program_id(0), slots_ptr, num_tokens, SLOTS, BINS, BLOCK_T, ROWS)
    if count == 0:
        return
    chunk = tl.program_id(1)
    first_column = tl.program_id(2) * BLOCK_R
    is_row = tl.arange(0, ROWS) < count
    rank = true_rank(ranks_ptr, slot, RANK, HAS_RANKS)
    total = _project(
        x_ptr, a0_ptr, a1_ptr, a2_ptr, a3_ptr, tokens, is_row, slot, rank, first_column, chunk * CHUNK,
        tl.minimum(chunk * CHUNK + CHUNK, K), stride_x_token, K, RANK, SLICES, BLOCK_R, BLOCK_R, BLOCK_K, CHUNK, STAGES,
        ROWS,
    )  # fmt: skip
    row = tokens[:, None] * (CHUNKS * SLICES * BLOCK_R) + chunk * (SLICES * BLOCK_R)
    at = partial_ptr + row + first_column + tl.arange(0, BLOCK_R)[None, :]
    tl.store(at, total, mask=is_row[:, None])


@triton.jit(do_not_specialize=["num_tokens"], do_not_specialize_on_alignment=["slots_ptr"])
def _expand_small_kernel(
    y_ptr,  # [tokens, N0 + N1 + N2 + N3]
    partial_ptr,  # [tokens, CHUNKS, SLICES * BLOCK_R] fp32
    b0_ptr, b1_ptr, b2_ptr, b3_ptr,  # [slots, 1, N, RANK] each
    ranks_ptr,  # [slots] int32
    slots_ptr,  # [tokens] integer
    num_tokens, scale, stride_y_token,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr,
    RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr, CHUNKS: tl.constexpr, BLOCK_R: tl.constexpr,
    SLOTS: tl.constexpr, BINS: tl.constexpr, BLOCK_T: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    """Add the deltas of one tile in one block of columns.

    Grid: (tiles at most, blocks of columns of all slices). Slots and B are read before the wait: they are
    older than the shrink, which has waited for all before it.
    """
    slot, tokens, count = _small_tile(tl.program_id(0), slots_ptr, num_tokens, SLOTS, BINS, BLOCK_T, ROWS)
    if count == 0:
        begin(USE_PDL)
        return
    is_row = tl.arange(0, ROWS) < count
    rank = true_rank(ranks_ptr, slot, RANK, HAS_RANKS)
    piece, first, start, size = _columns_of(tl.program_id(1), N0, N1, N2, N3, BLOCK_N, SLICES)
    columns = start + tl.arange(0, BLOCK_N)
    b = _pick(piece, b0_ptr, b1_ptr, b2_ptr, b3_ptr, SLICES) + slot.to(tl.int64) * RANK * size
    weights = _load_b(b, columns, size, rank, RANK, HAS_RANKS, BLOCK_R)
    begin(USE_PDL)
    at = y_ptr + first + tokens[:, None].to(tl.int64) * stride_y_token + columns[None, :]
    mask = is_row[:, None] & (columns < size)[None, :]
    base = tl.load(at, mask=mask, other=0.0)
    vectors = _load_vectors(partial_ptr, tokens, is_row, piece, weights.dtype, SLICES, CHUNKS, BLOCK_R)
    delta = tl.dot(vectors, tl.trans(weights)) * scale
    tl.store(at, (base.to(tl.float32) + delta).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_tokens"], do_not_specialize_on_alignment=["slots_ptr"])
def _plan_kernel(
    slots_ptr,  # [tokens] integer
    count_ptr,  # [1] int32: places of the list of tiles
    tile_slot_ptr, tile_first_ptr, tile_rows_ptr,  # [places] int32: slot, first place in `ordered`, tokens (0: none)
    ordered_ptr,  # [tokens] int32: tokens in order of slot
    num_tokens,
    SLOTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_TILES: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Sort a batch by adapter, stably and without atomics.

    Grid: (SLOTS,). The program of slot s counts the tokens of lower slots and of its own, L and C, and owns the places
    ``L // ROWS + s`` up to ``(L + C) // ROWS + s`` of the list of tiles: enough for its tiles, and one may stay empty.
    """
    begin(USE_PDL)
    own = tl.program_id(0)
    lower_counts = tl.zeros([BLOCK_T], tl.int32)
    own_counts = tl.zeros([BLOCK_T], tl.int32)
    for start in range(0, num_tokens, BLOCK_T):
        offsets = start + tl.arange(0, BLOCK_T)
        slot = tl.load(slots_ptr + offsets, mask=offsets < num_tokens, other=-1).to(tl.int32)
        lower_counts += ((slot >= 0) & (slot < own)).to(tl.int32)
        own_counts += (slot == own).to(tl.int32)
    lower = tl.sum(lower_counts)
    count = tl.sum(own_counts)
    first_tile = lower // ROWS + own
    next_tile = (lower + count) // ROWS + own + 1
    for start in range(first_tile, next_tile, BLOCK_TILES):
        tile = start + tl.arange(0, BLOCK_TILES)
        skipped = (tile - first_tile) * ROWS
        is_tile = tile < next_tile
        tl.store(tile_slot_ptr + tile, tl.zeros([BLOCK_TILES], tl.int32) + own, mask=is_tile)
        tl.store(tile_first_ptr + tile, lower + skipped, mask=is_tile)
        tl.store(tile_rows_ptr + tile, tl.minimum(tl.maximum(count - skipped, 0), ROWS), mask=is_tile)
    if own == SLOTS - 1:
        tl.store(count_ptr, next_tile)
    if count == 0:
        return
    placed = lower
    for start in range(0, num_tokens, BLOCK_T):
        offsets = start + tl.arange(0, BLOCK_T)
        slot = tl.load(slots_ptr + offsets, mask=offsets < num_tokens, other=-1).to(tl.int32)
        is_own = (slot == own).to(tl.int32)
        tl.store(ordered_ptr + placed + tl.cumsum(is_own, 0) - 1, offsets, mask=is_own != 0)
        placed += tl.sum(is_own)


@triton.jit
def _shrink_tiled_kernel(
    x_ptr,  # [tokens, K]
    a0_ptr, a1_ptr, a2_ptr, a3_ptr,  # [slots, 1, RANK, K] each
    ranks_ptr,  # [slots] int32
    count_ptr, tile_slot_ptr, tile_first_ptr, tile_rows_ptr, ordered_ptr,  # the plan
    partial_ptr,  # [tokens, CHUNKS, SLICES * BLOCK_R] fp32
    stride_x_token,
    K: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write the rank vectors of all tiles, or the partial sums of CHUNKS parts.

    Grid: any; program p takes every num_programs-th (tile, part, block of BLOCK_C columns). CHUNKS is 1 where one
    program sums all of K.
    """
    begin(USE_PDL)
    columns_of: tl.constexpr = SLICES * BLOCK_R
    blocks: tl.constexpr = (columns_of + BLOCK_C - 1) // BLOCK_C
    offsets_m = tl.arange(0, ROWS)
    for item in range(tl.program_id(0), tl.load(count_ptr) * (CHUNKS * blocks), tl.num_programs(0)):
        tile = item // (CHUNKS * blocks)
        chunk = item // blocks % CHUNKS
        first_column = item % blocks * BLOCK_C
        rows = tl.load(tile_rows_ptr + tile)
        slot = tl.load(tile_slot_ptr + tile)
        place = tl.load(tile_first_ptr + tile) + offsets_m
        if rows > 0:
            is_row = offsets_m < rows
            tokens = tl.load(ordered_ptr + place, mask=is_row, other=0)
            rank = true_rank(ranks_ptr, slot, RANK, HAS_RANKS)
            first_k = chunk * CHUNK
            end_k = tl.minimum(first_k + CHUNK, K) if CHUNKS > 1 else K
            total = _project(
                x_ptr, a0_ptr, a1_ptr, a2_ptr, a3_ptr, tokens, is_row, slot, rank, first_column, first_k, end_k,
                stride_x_token, K, RANK, SLICES, BLOCK_R, BLOCK_C, BLOCK_K, CHUNK, STAGES, ROWS,
            )  # fmt: skip
            column = first_column + tl.arange(0, BLOCK_C)
            row = tokens[:, None].to(tl.int64) * (CHUNKS * columns_of) + chunk * columns_of
            mask = is_row[:, None] & (column < columns_of)[None, :]
            tl.store(partial_ptr + row + column[None, :], total, mask=mask)


@triton.jit
def _expand_tiled_kernel(
    y_ptr,  # [tokens, N0 + N1 + N2 + N3]
    partial_ptr,  # [tokens, CHUNKS, SLICES * BLOCK_R] fp32
    b0_ptr, b1_ptr, b2_ptr, b3_ptr,  # [slots, 1, N, RANK] each
    ranks_ptr,  # [slots] int32
    count_ptr, tile_slot_ptr, tile_first_ptr, tile_rows_ptr, ordered_ptr,  # the plan
    scale, stride_y_token,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, SPANS: tl.constexpr,
    RANK: tl.constexpr, SLICES: tl.constexpr, HAS_RANKS: tl.constexpr, CHUNKS: tl.constexpr, BLOCK_R: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, SPAN: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Add the deltas of all tiles. Grid: any; program p takes every num_programs-th (tile, span of SPAN columns)."""
    begin(USE_PDL)
    offsets_m = tl.arange(0, ROWS)
    for item in range(tl.program_id(0), tl.load(count_ptr) * SPANS, tl.num_programs(0)):
        tile = item // SPANS
        rows = tl.load(tile_rows_ptr + tile)
        slot = tl.load(tile_slot_ptr + tile)
        place = tl.load(tile_first_ptr + tile) + offsets_m
        if rows > 0:
            is_row = offsets_m < rows
            tokens = tl.load(ordered_ptr + place, mask=is_row, other=0)
            rank = true_rank(ranks_ptr, slot, RANK, HAS_RANKS)
            piece, first, start, size = _columns_of(item % SPANS, N0, N1, N2, N3, SPAN, SLICES)
            b = _pick(piece, b0_ptr, b1_ptr, b2_ptr, b3_ptr, SLICES) + slot.to(tl.int64) * RANK * size
            vectors = _load_vectors(partial_ptr, tokens, is_row, piece, b.dtype.element_ty, SLICES, CHUNKS, BLOCK_R)
            rows_y = y_ptr + first + tokens[:, None].to(tl.int64) * stride_y_token
            for offset in range(start, tl.minimum(start + SPAN, size), BLOCK_N):
                columns = offset + tl.arange(0, BLOCK_N)
                mask = is_row[:, None] & (columns < size)[None, :]
                base = tl.load(rows_y + columns[None, :], mask=mask, other=0.0)
                weights = _load_b(b, columns, size, rank, RANK, HAS_RANKS, BLOCK_R)
                delta = tl.dot(vectors, tl.trans(weights)) * scale
                tl.store(rows_y + columns[None, :], (base.to(tl.float32) + delta).to(y_ptr.dtype.element_ty), mask=mask)


def add_lora_linear(
    y: Tensor,
    x: Tensor,
    adapters: DenseAdapters,
    token_slot: Tensor,
    scale: float,
    scratch: DenseScratch,
    *,
    is_planned: bool,
) -> None:
    """Launch the kernels of one layer; see `loractl_kernels.dense.add_lora_linear`."""
    if x.shape[0] == 0:
        return
    if is_small(x.shape[0], adapters.slots):
        _add_small(y, x, adapters, token_slot, scale, scratch)
        return
    if not is_planned:
        plan(token_slot, adapters.slots, scratch)
    _add_tiled(y, x, adapters, scale, scratch)


def plan(token_slot: Tensor, slots: int, scratch: DenseScratch) -> None:
    """Sort a large batch by adapter, into the scratch; nothing to do for a small one."""
    tokens = token_slot.shape[0]
    if is_small(tokens, slots):
        return
    use_pdl = _has_pdl(token_slot.device)
    _plan_kernel[(slots,)](
        token_slot, *_plan_of(scratch), tokens, SLOTS=slots, BLOCK_T=_PLAN_TOKENS, BLOCK_TILES=256, ROWS=TILE_ROWS,
        USE_PDL=use_pdl, num_warps=8, **_pdl(use_pdl),
    )  # fmt: skip


def _add_small(
    y: Tensor, x: Tensor, adapters: DenseAdapters, token_slot: Tensor, scale: float, scratch: DenseScratch
) -> None:
    tokens, use_pdl = x.shape[0], _has_pdl(x.device)
    tiles = min(tokens, tokens // _SMALL_ROWS + adapters.slots)
    ranks = scratch.ints if adapters.ranks is None else adapters.ranks
    chunks = chunks_of(adapters.in_features)
    bucket = bucket_of(tokens)
    common = _common(adapters) | {
        "SLOTS": adapters.slots, "BINS": bins_of(adapters.slots), "BLOCK_T": bucket, "ROWS": _SMALL_ROWS,
        "CHUNKS": chunks, "USE_PDL": use_pdl, **_pdl(use_pdl),
    }  # fmt: skip
    _shrink_small_kernel[(tiles, chunks, len(adapters.a))](
        x, *_four(adapters.a), ranks, token_slot, scratch.shrunk, tokens, _row_stride(x),
        K=adapters.in_features, CHUNK=chunk_columns(adapters.in_features), **common, **SHRINK_SMALL,
    )  # fmt: skip
    block_n, num_warps = EXPAND_SMALL[bucket]
    _expand_small_kernel[(tiles, _spans(adapters, block_n))](
        y, scratch.shrunk, *_four(adapters.b), ranks, token_slot, tokens, scale, _row_stride(y),
        **_sizes(adapters), **common, BLOCK_N=block_n, num_warps=_warps(adapters, num_warps),
    )  # fmt: skip


def _add_tiled(y: Tensor, x: Tensor, adapters: DenseAdapters, scale: float, scratch: DenseScratch) -> None:
    tokens, use_pdl = x.shape[0], _has_pdl(x.device)
    planned = _plan_of(scratch)
    ranks = scratch.ints if adapters.ranks is None else adapters.ranks
    chunks = chunks_of(adapters.in_features) if tokens <= SPLIT_TOKENS else 1
    columns = padded_columns(len(adapters.a), adapters.rank)
    wide = _power_of_two(columns)
    block_c = wide if wide <= _WIDE_COLUMNS else columns // len(adapters.a)
    tiles = tile_bound(tokens, adapters.slots)
    most = PROGRAMS_PER_SM * _processors(x.device)
    common = _common(adapters) | {"CHUNKS": chunks, "ROWS": TILE_ROWS, "USE_PDL": use_pdl, **_pdl(use_pdl)}
    _shrink_tiled_kernel[(min(most, tiles * chunks * _ceil(columns, block_c)),)](
        x, *_four(adapters.a), ranks, *planned, scratch.shrunk, _row_stride(x),
        K=adapters.in_features, CHUNK=chunk_columns(adapters.in_features), BLOCK_C=block_c, **common, **SHRINK_TILED,
    )  # fmt: skip
    block_n, span, num_warps = EXPAND_TILED[chunks > 1]
    block_n = min(block_n, 64) if adapters.rank > 64 else block_n
    spans = _spans(adapters, span)
    _expand_tiled_kernel[(min(most, tiles * spans),)](
        y, scratch.shrunk, *_four(adapters.b), ranks, *planned, scale, _row_stride(y), **_sizes(adapters), SPANS=spans,
        **common, BLOCK_N=block_n, SPAN=span, num_warps=_warps(adapters, num_warps),
    )  # fmt: skip


def chunk_columns(in_features: int) -> int:
    """Return how many columns of the input one chunk of a shrink sums."""
    return _ceil(_ceil(in_features, _CHUNK_UNIT), MAX_CHUNKS) * _CHUNK_UNIT


def chunks_of(in_features: int) -> int:
    """Return how many chunks there are."""
    return _ceil(in_features, chunk_columns(in_features))


def _plan_of(scratch: DenseScratch) -> tuple[Tensor, ...]:
    """Return the parts of a plan: count; slot, first place and rows of each tile; tokens in order of slot."""
    places = tile_bound(scratch.max_tokens, scratch.max_slots)
    return torch.split(scratch.ints, [1, places, places, places, scratch.max_tokens])


def _common(adapters: DenseAdapters) -> dict[str, Any]:
    return {
        "RANK": adapters.rank, "SLICES": len(adapters.a), "HAS_RANKS": adapters.ranks is not None,
        "BLOCK_R": padded_columns(1, adapters.rank),
    }  # fmt: skip


def _sizes(adapters: DenseAdapters) -> dict[str, int]:
    sizes = adapters.out_slices + (0,) * (MAX_SLICES - len(adapters.b))
    return {f"N{index}": size for index, size in enumerate(sizes)}


def _warps(adapters: DenseAdapters, num_warps: int) -> int:
    """Return how many warps hold the rank vectors; those of a wide stack would not fit in the registers of as few."""
    return num_warps * 2 if adapters.rank > 64 else num_warps


def _spans(adapters: DenseAdapters, span: int) -> int:
    return sum(_ceil(size, span) for size in adapters.out_slices)


def _four(stacks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return four operands, the last again and again for slices that the layer does not have."""
    return stacks + stacks[-1:] * (MAX_SLICES - len(stacks))


def _row_stride(matrix: Tensor) -> int:
    """Return the stride of rows, and for one row, whose stride may be anything, what it would be."""
    return matrix.stride(0) if matrix.shape[0] > 1 else matrix.shape[1]


def _ceil(size: int, unit: int) -> int:
    return -(-size // unit)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@lru_cache
def _has_pdl(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def _pdl(use_pdl: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"launch_pdl": True} if use_pdl else {}
