"""The experts' own GEMM with the adapters' deltas added before it stores.

The grid, the loop over K and the tiles' sizes are those of vLLM 0.32.0's ``fused_moe_kernel`` without quantisation
(Apache-2.0), whose tuned sizes therefore hold here too. A tile has pairs of one expert and of any adapters.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from loractl_kernels._triton.tiles import load_b, load_vectors, true_rank
from loractl_kernels.grouped import ExpertTiles, GemmLaunch
from loractl_kernels.operands import Adapters, Routing, Shrunk

_WARP = 32
_THREAD_VALUES, _REGISTERS = 64, 128
"""A thread that has up to so many values of a tile makes do with so many registers, as without deltas it would: two
programs of 256 threads then share a processor, and one works while the other waits for its rank vectors."""


@triton.jit
def _finite(part, dtype: tl.constexpr):
    """Return `part` with the largest finite value in place of what is infinite or NaN: times 0 that is 0."""
    largest = 3.3895313892515355e38 if dtype == tl.bfloat16 else 65504.0
    wide = part.to(tl.float32)
    return tl.where(tl.abs(wide) <= largest, wide, largest).to(dtype)


@triton.jit
def _add_deltas(
    total, shrunk, b0, b1, ranks, token_slot, slot_enabled, pairs, is_pair, expert, columns,
    stride_slot, stride_expert, stride_out,
    SLOTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr,
    HAS_RANKS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Return a tile with the deltas of its pairs, one adapter after the other.

    All rows go through the product, those of other adapters with rank vectors of 0, so that it is summed where the
    tile is: a second tile of the size would leave room for half as many programs. A weight of one adapter that is
    infinite or NaN reaches its own rows, as a huge one, and no others.
    """
    slot = tl.load(token_slot + pairs // TOP_K, mask=is_pair, other=-1).to(tl.int32)
    has_slot = (slot >= 0) & (slot < SLOTS)
    is_on = tl.load(slot_enabled + slot, mask=has_slot, other=0) != 0
    left = tl.where(is_on, slot, SLOTS)
    current = tl.min(left)
    offsets_r = tl.arange(0, BLOCK_R)
    half: tl.constexpr = N // SLICES
    pieces: tl.constexpr = 1 if half % BLOCK_N == 0 else SLICES
    while current < SLOTS:
        is_own = left == current
        true = true_rank(ranks, current, RANK, HAS_RANKS)
        at = current.to(tl.int64) * stride_slot + expert * stride_expert
        for offset in tl.static_range(pieces):
            piece = tl.min(columns) // half + offset
            own_column = columns - piece * half
            is_there = (own_column >= 0) & (own_column < half)
            rank = tl.where(piece < SLICES, true, 0)
            b = b0
            if SLICES == 2:  # noqa: SIM102  (the first is known to the compiler, the second to the program)
                if piece == 1:
                    b = b1
            vectors = load_vectors(shrunk, pairs, is_own, piece * RANK, offsets_r, rank, dtype, SLICES * RANK, 0, 0)
            part = load_b(b + at, own_column, offsets_r, stride_out, rank, is_there, RANK)
            total = tl.dot(vectors, tl.trans(_finite(part, dtype)), total)
        left = tl.where(is_own, SLOTS, left)
        current = tl.min(left)
    return total


@triton.jit(do_not_specialize=["padded_bound", "num_pairs"])
def gemm_with_deltas(
    y, x, w, sorted_pairs, tile_expert, padded, pair_weight, shrunk, b0, b1, ranks, token_slot, slot_enabled,
    padded_bound, num_pairs, stride_y, stride_x, stride_w_expert, stride_w_row, stride_slot, stride_expert, stride_out,
    EXPERTS: tl.constexpr, SLOTS: tl.constexpr, TOP_K: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    RANK: tl.constexpr, SLICES: tl.constexpr, PER_TOKEN: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    HAS_RANKS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """Write ``y[pair] = weight * (W[e] @ x + B[s, e] @ shrunk[pair])``, one [BLOCK_M, BLOCK_N] tile a program."""
    tiles_m = (padded_bound + BLOCK_M - 1) // BLOCK_M
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    group = tl.program_id(0) // (GROUP_M * tiles_n)
    within = tl.program_id(0) % (GROUP_M * tiles_n)
    rows_of_group = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    tile = group * GROUP_M + within % rows_of_group
    block = within // rows_of_group
    if tile * BLOCK_M >= tl.load(padded):
        return
    pairs = tl.load(sorted_pairs + tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    is_pair = pairs < num_pairs
    expert = tl.load(tile_expert + tile).to(tl.int64)
    columns = block * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < N
    at_y = y + pairs[:, None] * stride_y + columns[None, :]
    is_stored = is_pair[:, None] & is_column[None, :]
    if (expert < 0) | (expert >= EXPERTS):
        tl.store(at_y, tl.zeros([BLOCK_M, BLOCK_N], y.dtype.element_ty), mask=is_stored)
        return

    rows = pairs
    if PER_TOKEN:
        rows = pairs // TOP_K
    offsets_k = tl.arange(0, BLOCK_K)
    at_x = x + rows[:, None] * stride_x + offsets_k[None, :]
    at_w = w + expert * stride_w_expert + (columns % N)[None, :] * stride_w_row + offsets_k[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        is_k = offsets_k < K - start
        part = tl.load(at_x, mask=is_pair[:, None] & is_k[None, :], other=0.0)
        total += tl.dot(part, tl.load(at_w, mask=is_k[:, None], other=0.0))
        at_x += BLOCK_K
        at_w += BLOCK_K

    total = _add_deltas(
        total, shrunk, b0, b1, ranks, token_slot, slot_enabled, pairs, is_pair, expert, columns,
        stride_slot, stride_expert, stride_out, SLOTS, TOP_K, N, RANK, SLICES, HAS_RANKS, BLOCK_R, BLOCK_N,
        x.dtype.element_ty,
    )  # fmt: skip
    if HAS_WEIGHT:
        total *= tl.load(pair_weight + pairs, mask=is_pair, other=0.0).to(tl.float32)[:, None]
    tl.store(at_y, total.to(y.dtype.element_ty), mask=is_stored)


def launch(
    y: Tensor, x: Tensor, w: Tensor, tiles: ExpertTiles, shrunk: Shrunk, adapters: Adapters, routing: Routing,
    sizes: GemmLaunch, pair_weight: Tensor | None,
) -> None:  # fmt: skip
    """Launch the GEMM; see `loractl_kernels.grouped.gemm_with_deltas`."""
    b, out_features = adapters.b, adapters.out_features
    padded_bound = tiles.pairs.shape[0]
    unread = routing.topk_ids
    constants: dict[str, Any] = {
        "EXPERTS": routing.experts, "SLOTS": routing.slots, "TOP_K": routing.top_k, "N": out_features,
        "K": adapters.in_features, "RANK": adapters.rank, "SLICES": len(b),
        "PER_TOKEN": x.shape[0] == routing.tokens and routing.top_k > 1, "HAS_WEIGHT": pair_weight is not None,
        "HAS_RANKS": adapters.ranks is not None, "BLOCK_R": max(16, 1 << (adapters.rank - 1).bit_length()),
        "BLOCK_M": sizes.block_m, "BLOCK_N": sizes.block_n, "BLOCK_K": sizes.block_k, "GROUP_M": sizes.group_m,
        "num_warps": sizes.num_warps, "num_stages": sizes.num_stages,
    }  # fmt: skip
    if sizes.block_m * sizes.block_n <= _THREAD_VALUES * _WARP * sizes.num_warps:
        constants["maxnreg"] = _REGISTERS
    gemm_with_deltas[(-(-padded_bound // sizes.block_m) * -(-out_features // sizes.block_n),)](
        y, x, w, tiles.pairs, tiles.expert, tiles.padded, unread if pair_weight is None else pair_weight, shrunk.values,
        b[0], b[-1], unread if adapters.ranks is None else adapters.ranks, routing.token_slot, routing.slot_enabled,
        padded_bound, routing.pairs, y.stride(0), x.stride(0), w.stride(0), w.stride(1), b[0].stride(0), b[0].stride(1),
        b[0].stride(2), **constants,
    )  # fmt: skip
