"""Kernels that cut a batch into tiles: by comparing each pair with each, or where they are many by a counting sort.

Counts are made with atomics, whose order leaves no trace in a count; places are computed, so the order is that of the
pairs. Pairs without an adapter come last, under the key KEYS: an operation that leaves them alone stops before them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import begin, key_of


@triton.jit(do_not_specialize=["num_pairs"])
def plan_few(
    ids, slots, enabled, tile_key, tile_rows, tile_pairs, tile_counts, num_pairs,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    """Plan up to BLOCK pairs with one program, by comparing each with each."""
    begin(USE_PDL)
    keys: tl.constexpr = SLOTS * EXPERTS
    pairs = tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    key = key_of(ids, slots, enabled, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    mine = tl.expand_dims(key, 1)
    other = tl.expand_dims(tl.where(is_pair, key, keys + 1), 0)
    is_before = (other == mine) & (pairs[None, :] < pairs[:, None])
    before = tl.sum(is_before.to(tl.int32), axis=1)
    size = tl.sum((other == mine).to(tl.int32), axis=1)
    place = before + tl.sum((other < mine).to(tl.int32), axis=1)
    leads = is_pair & (before % ROWS == 0)
    # As many leaders are at or before a pair's place as there are tiles up to its own.
    leader = tl.expand_dims(tl.where(leads, place, BLOCK), 0)
    tile = tl.sum((leader <= tl.expand_dims(place, 1)).to(tl.int32), axis=1) - 1
    tl.store(tile_pairs + tile * ROWS + before % ROWS, pairs, mask=is_pair)
    tl.store(tile_key + tile, tl.where(key < keys, key, -1), mask=leads)
    tl.store(tile_rows + tile, tl.minimum(size - before, ROWS), mask=leads)
    tl.store(tile_counts, tl.sum((leads & (key < keys)).to(tl.int32)))
    tl.store(tile_counts + 1, tl.sum(leads.to(tl.int32)))


@triton.jit(do_not_specialize=["num_pairs"])
def rank_pairs(
    ids, slots, enabled, pair_key, place, before_and_size, num_pairs,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr,
    ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Compare BLOCK pairs with all: write each pair's key, its place in order of key, and where in its group it is.

    The place is [pairs], times 4, plus 2 if the pair leads a tile, plus 1 if that tile has an adapter.
    """
    begin(USE_PDL)
    keys: tl.constexpr = SLOTS * EXPERTS
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    key = key_of(ids, slots, enabled, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    lower = tl.zeros([BLOCK], tl.int32)
    before = tl.zeros([BLOCK], tl.int32)
    size = tl.zeros([BLOCK], tl.int32)
    for start in tl.range(0, num_pairs, OTHERS):
        others = start + tl.arange(0, OTHERS)
        is_other = others < num_pairs
        other = tl.where(is_other, key_of(ids, slots, enabled, others, is_other, EXPERTS, SLOTS, TOP_K), keys + 1)
        is_same = other[None, :] == key[:, None]
        lower += tl.sum((other[None, :] < key[:, None]).to(tl.int32), axis=1)
        before += tl.sum((is_same & (others[None, :] < pairs[:, None])).to(tl.int32), axis=1)
        size += tl.sum(is_same.to(tl.int32), axis=1)
    leads = (before % ROWS == 0).to(tl.int32)
    tl.store(pair_key + pairs, key, mask=is_pair)
    tl.store(place + pairs, (lower + before) * 4 + leads * 2 + leads * (key < keys).to(tl.int32), mask=is_pair)
    tl.store(before_and_size + pairs * 2, before, mask=is_pair)
    tl.store(before_and_size + pairs * 2 + 1, size, mask=is_pair)


@triton.jit(do_not_specialize=["num_pairs"])
def tile_ranked(
    pair_key, place, before_and_size, tile_key, tile_rows, tile_pairs, tile_counts, num_pairs,
    KEYS: tl.constexpr, BLOCK: tl.constexpr, OTHERS: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write the tiles of ranked pairs: each is the number of leaders at or before the pair's place, less one."""
    begin(USE_PDL)
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    own = tl.load(place + pairs, mask=is_pair, other=0)
    key = tl.load(pair_key + pairs, mask=is_pair, other=KEYS)
    before = tl.load(before_and_size + pairs * 2, mask=is_pair, other=0)
    size = tl.load(before_and_size + pairs * 2 + 1, mask=is_pair, other=0)
    tile = tl.full([BLOCK], -1, tl.int32)
    tiles = 0
    tiles_with_adapter = 0
    for start in tl.range(0, num_pairs, OTHERS):
        others = start + tl.arange(0, OTHERS)
        other = tl.load(place + others, mask=others < num_pairs, other=0)
        leads = other // 2 % 2 == 1
        tile += tl.sum((leads[None, :] & ((other // 4)[None, :] <= (own // 4)[:, None])).to(tl.int32), axis=1)
        tiles += tl.sum(leads.to(tl.int32))
        tiles_with_adapter += tl.sum(other % 2)
    tl.store(tile_pairs + tile * ROWS + before % ROWS, pairs, mask=is_pair)
    is_leader = is_pair & (before % ROWS == 0)
    tl.store(tile_key + tile, tl.where(key < KEYS, key, -1), mask=is_leader)
    tl.store(tile_rows + tile, tl.minimum(size - before, ROWS), mask=is_leader)
    if tl.program_id(0) == 0:
        tl.store(tile_counts, tiles_with_adapter)
        tl.store(tile_counts + 1, tiles)


@triton.jit(do_not_specialize=["num_pairs"])
def count_keys(
    ids, slots, enabled, histograms, pair_key, num_pairs,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write each pair's key, and the histogram of keys of each block of BLOCK pairs, [blocks, KEYS + 1]."""
    begin(USE_PDL)
    width: tl.constexpr = SLOTS * EXPERTS + 1
    row = histograms + tl.program_id(0) * width
    for start in range(0, width, 1024):
        column = start + tl.arange(0, 1024)
        tl.store(row + column, tl.zeros([1024], tl.int32), mask=column < width)
    tl.debug_barrier()
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    key = key_of(ids, slots, enabled, pairs, is_pair, EXPERTS, SLOTS, TOP_K)
    tl.store(pair_key + pairs, key, mask=is_pair)
    tl.atomic_add(row + key, tl.full([BLOCK], 1, tl.int32), mask=is_pair, sem="relaxed")


@triton.jit(do_not_specialize=["num_blocks"])
def scan_blocks(histograms, totals, num_blocks, WIDTH: tl.constexpr, BLOCK_KEYS: tl.constexpr, USE_PDL: tl.constexpr):
    """Turn each key's counts, block after block, into how many come before the block; write the totals, [WIDTH]."""
    begin(USE_PDL)
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
def scan_keys(
    totals, group_start, tile_start, tile_counts, WIDTH: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr
):
    """Write where each key's pairs and tiles start, [WIDTH + 1] each; how many tiles have an adapter, and how many all.

    `totals` may be `tile_start`: each part is read before it is written.
    """
    begin(USE_PDL)
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
    histograms, pair_key, group_start, tile_start, tile_key, tile_rows, tile_pairs, num_pairs,
    KEYS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write the pairs of each tile, its key and how many pairs it has."""
    begin(USE_PDL)
    first_pair = tl.program_id(0) * BLOCK
    pairs = first_pair + tl.arange(0, BLOCK)
    is_pair = pairs < num_pairs
    key = tl.load(pair_key + pairs, mask=is_pair, other=KEYS)
    before = tl.load(histograms + tl.program_id(0) * (KEYS + 1) + key, mask=is_pair, other=0)
    size = tl.load(group_start + key + 1, mask=is_pair, other=0) - tl.load(group_start + key, mask=is_pair, other=0)
    first_tile = tl.load(tile_start + key, mask=is_pair, other=0)
    for start in tl.range(0, BLOCK, 32):
        others = first_pair + start + tl.arange(0, 32)
        other = tl.load(pair_key + others, mask=others < num_pairs, other=-1)
        is_before = (other[None, :] == key[:, None]) & (others[None, :] < pairs[:, None])
        before += tl.sum(is_before.to(tl.int32), axis=1)
    tile = first_tile + before // ROWS
    tl.store(tile_pairs + tile * ROWS + before % ROWS, pairs, mask=is_pair)
    leads = is_pair & (before % ROWS == 0)
    tl.store(tile_key + tile, tl.where(key < KEYS, key, -1), mask=leads)
    tl.store(tile_rows + tile, tl.minimum(size - before, ROWS), mask=leads)
