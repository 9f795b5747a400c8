"""Kernels that sort the pairs of a batch by expert: one launch for up to RANKED_PAIRS pairs, two for more.

Places are computed by comparing pairs, never by atomics, so that the order within an expert is that of the batch. Some
programs place pairs, and beside them the rest write one part of one table each from the experts' counts, which they
make for themselves: to count anew costs less than to wait for another launch. What is compiled depends on the layer and
on the bucket of the batch's size alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from loractl_kernels._triton.tiles import begin
from loractl_kernels.expert_sort import COUNTED_PAIRS, RANKED_PAIRS, TILE_SIZES, ExpertSort, is_ranked

_RANKED = {64: (16, 64, 4), 256: (32, 256, 4), RANKED_PAIRS: (16, 1024, 8)}  # pairs: (BLOCK, OTHERS, warps)
_COUNTED_BLOCK = 128
_COUNTED_OTHERS = 256
_TILES = 128
_MOST_COMPARED = 1 << 14  # elements of a block of pairs or tiles against experts


@triton.jit
def _keys(ids_ptr, pairs, end, EXPERTS: tl.constexpr, BINS: tl.constexpr):
    """Return each pair's expert, BINS where its id is no expert's, and BINS + 1 from pair `end` on.

    An id is compared at its own width: the lower half of one of 64 bits could be another expert's.
    """
    expert = tl.load(ids_ptr + pairs, mask=pairs < end, other=-1)
    key = tl.where((expert >= 0) & (expert < EXPERTS), expert.to(tl.int32), BINS)
    return tl.where(pairs < end, key, BINS + 1)


@triton.jit
def _count(ids_ptr, first, end, EXPERTS: tl.constexpr, BINS: tl.constexpr, CHUNK: tl.constexpr):
    """Return how many of the pairs from `first` to `end` go to each of BINS experts."""
    bins = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    for start in tl.range(first, end, CHUNK):
        key = _keys(ids_ptr, start + tl.arange(0, CHUNK), end, EXPERTS, BINS)
        counts += tl.sum((key[:, None] == bins[None, :]).to(tl.int32), axis=0)
    return counts


@triton.jit
def _sum_groups(counts_ptr, groups, own, BINS: tl.constexpr, ROWS: tl.constexpr):
    """Return how many pairs each expert has in all groups, and in those before the group `own`."""
    bins = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    before = tl.zeros([BINS], tl.int32)
    for start in tl.range(0, groups, ROWS):
        group = start + tl.arange(0, ROWS)
        at = counts_ptr + group[:, None] * BINS + bins[None, :]
        part = tl.load(at, mask=(group < groups)[:, None], other=0)
        counts += tl.sum(part, axis=0)
        before += tl.sum(tl.where((group < own)[:, None], part, 0), axis=0)
    return counts, before


@triton.jit
def _write_table(
    counts, program, expert_rows_ptr, starts_ptr, tiles_ptr, num_tiles, stride_tiles_size,
    EXPERTS: tl.constexpr, BINS: tl.constexpr, SIZES: tl.constexpr, FIRST_ROWS: tl.constexpr, TILES: tl.constexpr,
    STRIDE_STARTS: tl.constexpr,
):  # fmt: skip
    """Write one part of the tables of [BINS] `counts`.

    Program 0 writes the counts and where each expert's rows start; program 1 + size + SIZES * part writes TILES places
    of the list of tiles of one size, and part 0 also where each expert's tiles start.
    """
    bins = tl.arange(0, BINS)
    size = (program + SIZES - 1) % SIZES
    part = (program - 1) // SIZES
    row = tl.where(program == 0, 0, 1 + size)
    rows = tl.where(program == 0, 1, FIRST_ROWS << size)
    lengths = (counts + rows - 1) // rows
    ends = tl.cumsum(lengths, 0)
    total = tl.sum(lengths)
    if program <= SIZES:
        tl.store(starts_ptr + row * STRIDE_STARTS + bins, ends - lengths, mask=bins < EXPERTS)
        tl.store(starts_ptr + row * STRIDE_STARTS + EXPERTS, total)
    if program == 0:
        tl.store(expert_rows_ptr + bins, counts, mask=bins < EXPERTS)
    else:
        tiles = part * TILES + tl.arange(0, TILES)
        is_past = ends[:, None] <= tiles[None, :]
        expert = tl.sum(is_past.to(tl.int32), axis=0)
        block = tiles - tl.max(tl.where(is_past, ends[:, None], 0), axis=0)
        packed = tl.where(tiles < total, (block << 16) + expert, -1)
        tl.store(tiles_ptr + size * stride_tiles_size + tiles, packed, mask=tiles < num_tiles)


@triton.jit
def _write_places(
    key, pairs, place, weights_ptr, pair_of_row_ptr, row_of_pair_ptr, row_weight_ptr, num_pairs, BINS: tl.constexpr
):
    """Write where `pairs` go. Places are a permutation, so that every row is written, those of no expert as -1."""
    is_pair = pairs < num_pairs
    has_expert = key < BINS
    weight = tl.load(weights_ptr + pairs, mask=is_pair & has_expert, other=0.0)
    tl.store(row_of_pair_ptr + pairs, tl.where(has_expert, place, -1), mask=is_pair)
    tl.store(pair_of_row_ptr + place, tl.where(has_expert, pairs, -1), mask=is_pair)
    tl.store(row_weight_ptr + place, weight.to(row_weight_ptr.dtype.element_ty), mask=is_pair)


@triton.jit(
    do_not_specialize=["num_pairs", "num_tables", "num_tiles", "stride_tiles_size"],
    do_not_specialize_on_alignment=["ids_ptr", "weights_ptr"],
)
def sort_ranked_kernel(
    ids_ptr,  # [pairs] integer
    weights_ptr,  # [pairs] floating
    pair_of_row_ptr, row_of_pair_ptr,  # [pairs] int32 each
    row_weight_ptr,  # [pairs] bf16
    expert_rows_ptr,  # [EXPERTS] int32
    starts_ptr,  # [1 + SIZES, STRIDE_STARTS] int32
    tiles_ptr,  # [SIZES, stride_tiles_size] int32
    num_pairs, num_tables, num_tiles, stride_tiles_size,
    EXPERTS: tl.constexpr, BINS: tl.constexpr, SIZES: tl.constexpr, FIRST_ROWS: tl.constexpr,
    STRIDE_STARTS: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr, CHUNK: tl.constexpr, TILES: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    """Sort a batch by comparing each pair with each.

    Grid: (num_tables + blocks of BLOCK pairs,); the first programs write the tables, the rest places.
    """
    begin(USE_PDL)
    program = tl.program_id(0)
    if program < num_tables:
        counts = _count(ids_ptr, 0, num_pairs, EXPERTS, BINS, CHUNK)
        _write_table(
            counts, program, expert_rows_ptr, starts_ptr, tiles_ptr, num_tiles, stride_tiles_size,
            EXPERTS, BINS, SIZES, FIRST_ROWS, TILES, STRIDE_STARTS,
        )  # fmt: skip
    else:
        pairs = (program - num_tables) * BLOCK + tl.arange(0, BLOCK)
        key = _keys(ids_ptr, pairs, num_pairs, EXPERTS, BINS)
        place = tl.zeros([BLOCK], tl.int32)
        for start in tl.range(0, num_pairs, OTHERS):
            others = start + tl.arange(0, OTHERS)
            other = _keys(ids_ptr, others, num_pairs, EXPERTS, BINS)
            # No two pairs have the same key and number, which together are the order.
            is_before = (other * 65536 + others)[:, None] < (key * 65536 + pairs)[None, :]
            place += tl.sum(is_before.to(tl.int32), axis=0)
        _write_places(key, pairs, place, weights_ptr, pair_of_row_ptr, row_of_pair_ptr, row_weight_ptr, num_pairs, BINS)


@triton.jit(do_not_specialize=["num_pairs"], do_not_specialize_on_alignment=["ids_ptr"])
def count_groups_kernel(
    ids_ptr,  # [pairs] integer
    counts_ptr,  # [groups, BINS] int32
    num_pairs,
    EXPERTS: tl.constexpr, BINS: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write how many pairs each expert has in one group of GROUP pairs.

    Grid: (groups,).
    """
    begin(USE_PDL)
    group = tl.program_id(0)
    end = tl.minimum(group * GROUP + GROUP, num_pairs)
    counts = _count(ids_ptr, group * GROUP, end, EXPERTS, BINS, CHUNK)
    tl.store(counts_ptr + group * BINS + tl.arange(0, BINS), counts)


@triton.jit(
    do_not_specialize=["num_pairs", "num_groups", "num_tables", "num_tiles", "stride_tiles_size"],
    do_not_specialize_on_alignment=["ids_ptr", "weights_ptr"],
)
def sort_counted_kernel(
    ids_ptr,  # [pairs] integer
    weights_ptr,  # [pairs] floating
    counts_ptr,  # [groups, BINS] int32, by count_groups_kernel
    pair_of_row_ptr, row_of_pair_ptr,  # [pairs] int32 each
    row_weight_ptr,  # [pairs] bf16
    expert_rows_ptr,  # [EXPERTS] int32
    starts_ptr,  # [1 + SIZES, STRIDE_STARTS] int32
    tiles_ptr,  # [SIZES, stride_tiles_size] int32
    num_pairs, num_groups, num_tables, num_tiles, stride_tiles_size,
    EXPERTS: tl.constexpr, BINS: tl.constexpr, SIZES: tl.constexpr, FIRST_ROWS: tl.constexpr,
    STRIDE_STARTS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr, ROWS: tl.constexpr,
    TILES: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Sort a batch whose groups of GROUP pairs have been counted: a pair is compared with those of its group alone.

    Grid: (num_tables + blocks of BLOCK pairs,); the first programs write the tables, the rest places.
    """
    begin(USE_PDL)
    program = tl.program_id(0)
    first = (program - num_tables) * BLOCK
    own = tl.maximum(first, 0) // GROUP
    counts, before = _sum_groups(counts_ptr, num_groups, own, BINS, ROWS)
    if program < num_tables:
        _write_table(
            counts, program, expert_rows_ptr, starts_ptr, tiles_ptr, num_tiles, stride_tiles_size,
            EXPERTS, BINS, SIZES, FIRST_ROWS, TILES, STRIDE_STARTS,
        )  # fmt: skip
    else:
        pairs = first + tl.arange(0, BLOCK)
        key = _keys(ids_ptr, pairs, num_pairs, EXPERTS, BINS)
        starts = tl.cumsum(counts, 0) - counts + before
        is_own = tl.arange(0, BINS)[:, None] == key[None, :]
        place = tl.sum(tl.where(is_own, starts[:, None], 0), axis=0)
        # Behind the rows of experts come the pairs without one, of which each group has what its experts have not.
        without = tl.sum(counts) + own * GROUP - tl.sum(before)
        place = tl.where(key < BINS, place, without)
        for start in tl.range(own * GROUP, tl.minimum(first + BLOCK, num_pairs), OTHERS):
            others = start + tl.arange(0, OTHERS)
            other = _keys(ids_ptr, others, num_pairs, EXPERTS, BINS)
            is_before = (other[:, None] == key[None, :]) & (others[:, None] < pairs[None, :])
            place += tl.sum(is_before.to(tl.int32), axis=0)
        _write_places(key, pairs, place, weights_ptr, pair_of_row_ptr, row_of_pair_ptr, row_weight_ptr, num_pairs, BINS)


def sort_by_expert(topk_ids: Tensor, topk_weights: Tensor, out: ExpertSort, counts: Tensor) -> None:
    """Launch the sort into `out`; `counts` is [groups, bins] int32 of a batch that is not ranked."""
    pairs, experts = topk_ids.numel(), out.expert_rows.shape[0]
    bins, sizes, num_tiles = counts.shape[1], len(TILE_SIZES), out.tiles.shape[1]
    tables = 1 + sizes * max(1, triton.cdiv(num_tiles, _TILES))
    outputs = (out.pair_of_row, out.row_of_pair, out.row_weight, out.expert_rows, out.starts, out.tiles)
    stride_tiles = out.tiles.stride(0)
    use_pdl = _has_pdl(topk_ids.device)
    common: dict[str, Any] = {"EXPERTS": experts, "BINS": bins, "USE_PDL": use_pdl} | _pdl(use_pdl)
    tabled = {
        "SIZES": sizes, "FIRST_ROWS": TILE_SIZES[0], "TILES": _TILES, "STRIDE_STARTS": out.starts.stride(0),
    }  # fmt: skip
    if is_ranked(pairs, experts):
        bucket = next(bucket for bucket in _RANKED if pairs <= bucket)
        block, others, warps = _RANKED[bucket]
        sort_ranked_kernel[(tables + triton.cdiv(pairs, block),)](
            topk_ids, topk_weights, *outputs, pairs, tables, num_tiles, stride_tiles, **tabled, **common,
            BLOCK=block, OTHERS=others, CHUNK=_chunk(others, bins), num_warps=warps,
        )  # fmt: skip
        return
    groups = counts.shape[0]
    count_groups_kernel[(groups,)](
        topk_ids, counts, pairs, **common, GROUP=COUNTED_PAIRS, CHUNK=_chunk(COUNTED_PAIRS, bins), num_warps=8
    )
    sort_counted_kernel[(tables + triton.cdiv(pairs, _COUNTED_BLOCK),)](
        topk_ids, topk_weights, counts, *outputs, pairs, groups, tables, num_tiles, stride_tiles, **tabled, **common,
        GROUP=COUNTED_PAIRS, BLOCK=_COUNTED_BLOCK, OTHERS=_COUNTED_OTHERS, ROWS=_chunk(64, bins), num_warps=8,
    )  # fmt: skip


def _chunk(most: int, bins: int) -> int:
    """Return how many rows of `bins` elements a program holds at once."""
    return max(16, min(most, _MOST_COMPARED // bins))


@lru_cache
def _has_pdl(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def _pdl(use_pdl: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"launch_pdl": True} if use_pdl else {}
