"""The down projection's deltas and the sum over a token's experts, in one pass: it replaces the base's own sum.

Pairs are added in order of k in fp32, each rounded to the model's dtype first, as when the sum had a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loractl_kernels._triton.tiles import load_b, pair_keys, sum_partials, true_rank, wait_for_inputs


@triton.jit
def sum_small(
    out, y, partial, b0, ranks, ids, slots, enabled, weight,
    stride_out_row, stride_y, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    HAS_RANKS: tl.constexpr, HAS_WEIGHT: tl.constexpr, CHUNKS: tl.constexpr, STRIDE_CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Write one block of columns of one token: program (token, block).

    The rank vector of a pair fills all ROWS rows of the product, of which the first is kept: the same instruction as in
    a tile of ROWS pairs, so the same bits.
    """
    token = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < N
    offsets_r = tl.arange(0, BLOCK_R)
    wait_for_inputs(USE_PDL)
    row = tl.arange(0, ROWS)
    total = tl.zeros([BLOCK_N], tl.float32)
    for k in tl.static_range(TOP_K):
        pair = token * TOP_K + k
        key = pair_keys(ids, slots, pair, True, EXPERTS, SLOTS, TOP_K)
        is_routed = tl.load(ids + pair) >= 0
        slot = tl.maximum(key, 0) // EXPERTS
        has_adapter = (key >= 0) & (tl.load(enabled + slot) != 0)
        rank = tl.where(has_adapter, true_rank(ranks, slot, RANK, HAS_RANKS), 0)
        at_b = slot.to(tl.int64) * stride_slot + (tl.maximum(key, 0) % EXPERTS).to(tl.int64) * stride_expert
        part = load_b(b0 + at_b, columns, offsets_r, stride_out, rank, is_column)
        is_row = row < tl.where(has_adapter, ROWS, 0)
        vector = sum_partials(partial, row * 0 + pair, is_row, 0, offsets_r, RANK, RANK, CHUNKS, STRIDE_CHUNK)
        product = tl.dot(vector.to(part.dtype), tl.trans(part))
        delta = tl.sum(tl.where((row == 0)[:, None], product, 0.0), axis=0)
        if HAS_WEIGHT:
            delta *= tl.load(weight + pair).to(tl.float32)
        base = tl.load(y + pair.to(tl.int64) * stride_y + columns, mask=columns < tl.where(is_routed, N, 0), other=0.0)
        updated = (base.to(tl.float32) + delta).to(base.dtype)
        total += tl.where(has_adapter, updated, base).to(tl.float32)
    tl.store(out + token.to(tl.int64) * stride_out_row + columns, total.to(out.dtype.element_ty), mask=is_column)


@triton.jit
def sum_pairs(
    out, y, ids, stride_out_row, stride_y, TOP_K: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Write one block of columns of one token from [pairs, N] y: program (token, block)."""
    token = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < N
    total = tl.zeros([BLOCK_N], tl.float32)
    for k in tl.static_range(TOP_K):
        pair = token * TOP_K + k
        mask = columns < tl.where(tl.load(ids + pair) >= 0, N, 0)
        total += tl.load(y + pair.to(tl.int64) * stride_y + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token.to(tl.int64) * stride_out_row + columns, total.to(out.dtype.element_ty), mask=is_column)
