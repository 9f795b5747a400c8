"""Kernels that sort a large batch by adapter and expert: a stable counting sort, and the list of its tiles.

Counts are made with atomics, whose order leaves no trace in a count; places are computed, so the order is that of the
pairs. Pairs without an adapter come last, under the key KEYS: an operation that leaves them alone stops before them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import pair_keys


@triton.jit
def _block_keys(
    ids, slots, enabled, pairs, is_pair, EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr
):
    key = pair_keys(ids, slots, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    is_on = tl.load(enabled + tl.maximum(key, 0) // EXPERTS, mask=key >= 0, other=0) != 0
    return tl.where(is_on, key, SLOTS * EXPERTS)


@triton.jit(do_not_specialize=["num_pairs"])
def count_keys(
    ids, slots, enabled, histograms, num_pairs,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the histogram of keys of each block of BLOCK pairs, [blocks, KEYS + 1]."""
    width: tl.constexpr = SLOTS * EXPERTS + 1
    row = histograms + tl.program_id(0) * width
    for start in range(0, width, 1024):
        column = start + tl.arange(0, 1024)
        tl.store(row + column, tl.zeros([1024], tl.int32), mask=column < width)
    tl.debug_barrier()
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    key = _block_keys(ids, slots, enabled, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    tl.atomic_add(row + key, tl.full([BLOCK], 1, tl.int32), mask=is_pair, sem="relaxed")


@triton.jit(do_not_specialize=["num_blocks"])
def scan_blocks(histograms, totals, num_blocks, WIDTH: tl.constexpr, BLOCK_KEYS: tl.constexpr):
    """Turn each key's counts, block after block, into how many come before the block; write the totals, [WIDTH]."""
    key = tl.program_id(0) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    is_key = key < WIDTH
    total = tl.zeros([BLOCK_KEYS], tl.int32)
    for start in range(0, num_blocks, 32):
        block = start + tl.arange(0, 32)
        at = histograms + block[:, None] * WIDTH + key[None, :]
        mask = (block < num_blocks)[:, None] & is_key[None, :]
        counts = tl.load(at, mask=mask, other=0)
        tl.store(at, tl.cumsum(counts, 0) - counts + total[None, :], mask=mask)
        total += tl.sum(counts, axis=0)
    tl.store(totals + key, total, mask=is_key)


@triton.jit
def scan_keys(totals, group_start, tile_start, tile_counts, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Write where each key's pairs and tiles start, [WIDTH + 1] each; how many tiles have an adapter, and how many all.

    `totals` may be `tile_start`: each part is read before it is written.
    """
    pairs_before = 0
    tiles_before = 0
    for start in range(0, WIDTH, 1024):
        key = start + tl.arange(0, 1024)
        is_key = key < WIDTH
        counts = tl.load(totals + key, mask=is_key, other=0)
        tiles = (counts + ROWS - 1) // ROWS
        tl.debug_barrier()
        first_tile = tiles_before + tl.cumsum(tiles, 0) - tiles
        tl.store(group_start + key, pairs_before + tl.cumsum(counts, 0) - counts, mask=is_key)
        tl.store(tile_start + key, first_tile, mask=is_key)
        tl.store(tile_counts + key * 0, first_tile, mask=key == WIDTH - 1)
        pairs_before += tl.sum(counts)
        tiles_before += tl.sum(tiles)
    tl.store(group_start + WIDTH, pairs_before)
    tl.store(tile_counts + 1, tiles_before)


@triton.jit(do_not_specialize=["num_pairs"])
def place_pairs(
    ids, slots, enabled, histograms, group_start, tile_start, ordered, tile_key, tile_first, tile_rows, num_pairs,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the pairs in order of key, [pairs], and for each tile its key, first place and number of pairs."""
    keys: tl.constexpr = SLOTS * EXPERTS
    first_pair = tl.program_id(0) * BLOCK
    pairs = first_pair + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    key = _block_keys(ids, slots, enabled, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    before = tl.zeros([BLOCK], tl.int32)
    for start in range(0, BLOCK, 32):
        others = first_pair + start + tl.arange(0, 32)
        other_key = _block_keys(ids, slots, enabled, others, others < num_pairs, EXPERTS, SLOTS, TOP_K)
        is_before = (other_key[None, :] == key[:, None]) & (others[None, :] < pairs[:, None])
        before += tl.sum(is_before.to(tl.int32), axis=1)
    place = before + tl.load(histograms + tl.program_id(0) * (keys + 1) + key, mask=is_pair, other=0)
    start = tl.load(group_start + key, mask=is_pair, other=0)
    size = tl.load(group_start + key + 1, mask=is_pair, other=0) - start
    tl.store(ordered + start + place, pairs, mask=is_pair)
    leads = is_pair & (place % ROWS == 0)
    tile = tl.load(tile_start + key, mask=leads, other=0) + place // ROWS
    tl.store(tile_key + tile, tl.where(key < keys, key, -1), mask=leads)
    tl.store(tile_first + tile, start + place, mask=leads)
    tl.store(tile_rows + tile, tl.minimum(size - place, ROWS), mask=leads)
