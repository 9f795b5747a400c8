"""Launches of the kernels for one batch: plan, shrink, expand.

A plan cuts a batch into tiles once for both projections; in the smallest batches each pair is one. Every other kernel
is a fixed set of programs that loops over the tiles there are: all that varies from batch to batch is an ordinary
argument or a count on the device, so a bucket of batch sizes is compiled once. A *small* batch is bound by latency, and
its shrink is spread over programs that leave partial sums; in a larger one each tile is summed by one program.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from loractl_kernels._triton import activating, expanding, planning, shrinking
from loractl_kernels._triton.configs import Launch, launch_for
from loractl_kernels.errors import BackendError
from loractl_kernels.operands import (
    FEW_PAIRS,
    HIST_PAIRS,
    MAX_CHUNKS,
    RANKED_PAIRS,
    SMALL_PAIRS,
    Adapters,
    Plan,
    Routing,
    Scratch,
    Shrunk,
    aligned,
    rows_of_tile,
    tile_bound,
)
from loractl_kernels.reference import Gate, Gating

_CHUNK_UNIT = 128
_RANKED_FEW = 256
_RANKED = {False: (16, 256, 4), True: (8, 1024, 8)}  # more than so many pairs: (pairs a program, others at once, warps)
_SUM_COLUMNS = 32
_SUM_PAIRS = 8  # the most whose B one program of `expand_sum_by_pair` holds in registers


def is_small(routing: Routing) -> bool:
    """Whether a shrink of the batch leaves partial sums."""
    return routing.pairs <= SMALL_PAIRS


def plan(routing: Routing) -> Routing:
    """Cut the batch into tiles, in the scratch; see `ops.route`."""
    keys, pairs = _keys(routing), routing.pairs
    p = Plan.within(_scratch(routing), pairs, keys)
    if pairs == 0 or routing.is_by_pair:
        return replace(routing, plan=p)
    operands = (routing.topk_ids, routing.token_slot, routing.slot_enabled)
    pdl = _pdl(routing)
    common: dict[str, Any] = {"EXPERTS": routing.experts, "SLOTS": routing.slots, "TOP_K": routing.top_k, **pdl}
    rows = rows_of_tile(pairs)
    tiles = (p.tile_key, p.tile_rows, p.tile_pairs)
    if pairs <= FEW_PAIRS:
        planning.plan_few[(1,)](
            *operands, *tiles, p.tile_counts, pairs, **common, BLOCK=FEW_PAIRS, ROWS=rows, num_warps=4
        )
        return replace(routing, plan=p)
    if pairs <= RANKED_PAIRS:
        _rank(routing, p, tiles, common)
        return replace(routing, plan=p)
    blocks = _cdiv(pairs, HIST_PAIRS)
    planning.count_keys[(blocks,)](*operands, p.histograms, p.pair_key, pairs, **common, BLOCK=HIST_PAIRS, num_warps=4)
    planning.scan_blocks[(_cdiv(keys + 1, 64),)](
        p.histograms, p.tile_start, blocks, WIDTH=keys + 1, BLOCK_KEYS=64, **pdl, num_warps=4
    )
    planning.scan_keys[(1,)](
        p.tile_start, p.group_start, p.tile_start, p.tile_counts, WIDTH=keys + 1, ROWS=rows, **pdl, num_warps=4
    )
    planning.place_pairs[(blocks,)](
        p.histograms, p.pair_key, p.group_start, p.tile_start, *tiles, pairs, **pdl,
        KEYS=keys, BLOCK=HIST_PAIRS, ROWS=rows, num_warps=8,
    )  # fmt: skip
    return replace(routing, plan=p)


def _rank(routing: Routing, p: Plan, tiles: tuple[Tensor, ...], common: dict[str, Any]) -> None:
    """Plan by comparing each pair with each."""
    pairs = routing.pairs
    place, before_and_size = p.histograms.split([aligned(pairs), p.histograms.numel() - aligned(pairs)])
    block, others, warps = _RANKED[pairs > _RANKED_FEW]
    grid = (_cdiv(pairs, block),)
    sizes: dict[str, Any] = {"BLOCK": block, "OTHERS": others, "ROWS": rows_of_tile(pairs), "num_warps": warps}
    planning.rank_pairs[grid](
        routing.topk_ids, routing.token_slot, routing.slot_enabled, p.pair_key, place, before_and_size, pairs,
        **common, **sizes,
    )  # fmt: skip
    planning.tile_ranked[grid](
        p.pair_key, place, before_and_size, *tiles, p.tile_counts, pairs, KEYS=_keys(routing), **sizes, **_pdl(routing)
    )


def shrink(x: Tensor, adapters: Adapters, routing: Routing, row_of_pair: Tensor | None, *, is_second: bool) -> Shrunk:
    """Launch the inner product; see `ops.shrink`."""
    memory = _scratch(routing).shrunk[int(is_second)]
    shrunk = Shrunk(memory if is_small(routing) else memory.view(x.dtype))
    if routing.pairs == 0:
        return shrunk
    a = adapters.a
    launch, chunk = _launch("shrink", adapters, routing, x.device), chunk_columns(adapters.in_features)
    # Steps end where chunks end: in the tiled kernel because they divide them, in the small one because it stops there.
    wide = min(launch.block_k, _power_of_two(chunk)) if is_small(routing) else math.gcd(launch.block_k, chunk)
    arguments = (
        *(x, a[0], a[-1], *_tiles(adapters, routing), _or(row_of_pair, routing), shrunk.values, routing.pairs),
        *(x.stride(0), a[0].stride(0), a[0].stride(1), a[0].stride(2)),
    )
    constants: dict[str, Any] = {
        "K": adapters.in_features,
        "PER_TOKEN": x.shape[0] == routing.tokens and routing.top_k > 1, "HAS_ROWS": row_of_pair is not None,
        "CHUNK": chunk, "BLOCK_K": wide, "STAGES": launch.num_stages,
        "num_warps": launch.num_warps, **_constants(adapters, routing),
    }  # fmt: skip
    bound = _tile_bound(routing)
    if is_small(routing):
        grid = (bound, chunks(adapters.in_features))
        shrinking.shrink_small[grid](
            *arguments, **constants, STRIDE_CHUNK=_stride_chunk(adapters), PLAN_IS_OLD=is_second
        )
    else:
        shrinking.shrink_tiled[(_programs(launch, bound, x.device),)](*arguments, **constants)
    return shrunk


def expand_add(y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, pair_weight: Tensor | None) -> None:
    """Launch the outer product into `y`; see `ops.expand_add`."""
    if routing.pairs == 0:
        return
    b = adapters.b
    launch = _launch("expand", adapters, routing, y.device)
    blocks = len(b) * _cdiv(b[0].shape[2], launch.block_n)
    expanding.expand[(_programs(launch, _tile_bound(routing) * blocks, y.device),)](
        y, shrunk.values, b[0], b[-1], *_tiles(adapters, routing), _or(pair_weight, routing), routing.pairs,
        y.stride(0), b[0].stride(0), b[0].stride(1), b[0].stride(2), N=b[0].shape[2],
        HAS_WEIGHT=pair_weight is not None, BLOCK_N=launch.block_n, **_constants(adapters, routing),
        **_partials(adapters, routing), num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


def expand_activate(
    out: Tensor,
    y: Tensor,
    shrunk: Shrunk,
    adapters: Adapters,
    routing: Routing,
    gating: Gating,
    row_of_pair: Tensor | None,
) -> None:
    """Launch the outer product of gate and up with the activation; see `ops.expand_activate`."""
    if gating.gate not in (Gate.SILU, Gate.SWIGLU_OAI):
        raise BackendError(f"the Triton back end activates silu and swiglu_oai, and this layer has {gating.gate}")
    if routing.pairs == 0:
        return
    b, n = adapters.b, adapters.out_features // 2
    launch = _launch("activate", adapters, routing, y.device)
    programs = _programs(launch, _tile_bound(routing) * _cdiv(n, launch.block_n), y.device)
    activating.activate[(programs,)](
        out, y, shrunk.values, b[0], b[-1], *_tiles(adapters, routing), _or(row_of_pair, routing), routing.pairs,
        out.stride(0), y.stride(0), b[0].stride(0), b[0].stride(1), b[0].stride(2), gating.alpha,
        gating.limit, gating.beta, N=n, HAS_ROWS=row_of_pair is not None, INTERLEAVED=gating.is_interleaved,
        SWIGLU_OAI=gating.gate is Gate.SWIGLU_OAI, BLOCK_N=launch.block_n,
        **_constants(adapters, routing), **_partials(adapters, routing), num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )  # fmt: skip


def expand_sum(
    out: Tensor, y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, pair_weight: Tensor
) -> None:
    """Launch the outer product with the sum over k; see `ops.expand_sum`."""
    if routing.pairs == 0:
        return
    n = adapters.out_features
    if routing.is_by_pair and routing.top_k <= _SUM_PAIRS and len(adapters.b) == 1:
        b, constants = adapters.b[0], _constants(adapters, routing) | _partials(adapters, routing)
        del constants["SLICES"], constants["BY_PAIR"]
        expanding.expand_sum_by_pair[(routing.tokens, _cdiv(n, _SUM_COLUMNS))](
            out, y, shrunk.values, b, _or(adapters.ranks, routing), routing.topk_ids, routing.token_slot,
            routing.slot_enabled, pair_weight, out.stride(0), y.stride(0), b.stride(0), b.stride(1), b.stride(2), N=n,
            BLOCK_N=_SUM_COLUMNS,
            BLOCK_P=_power_of_two(routing.top_k), **constants, num_warps=4,
        )  # fmt: skip
        return
    expand_add(y, shrunk, adapters, routing, pair_weight)
    launch = _launch("sum", adapters, routing, y.device)
    expanding.sum_pairs[(routing.tokens, _cdiv(n, launch.block_n))](
        out, y, routing.topk_ids, out.stride(0), y.stride(0), EXPERTS=routing.experts, TOP_K=routing.top_k, N=n,
        BLOCK_N=launch.block_n, num_warps=launch.num_warps, **_pdl(routing),
    )  # fmt: skip


def _cdiv(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up; Triton's own takes microseconds a call."""
    return -(-dividend // divisor)


def _power_of_two(least: int) -> int:
    """Return the smallest power of two from `least` up."""
    return 1 << (least - 1).bit_length()


@lru_cache
def chunk_columns(in_features: int) -> int:
    """Return how many columns of the input one chunk of a shrink sums."""
    units = _cdiv(in_features, _CHUNK_UNIT)
    return _cdiv(units, MAX_CHUNKS) * _CHUNK_UNIT


def chunks(in_features: int) -> int:
    """Return how many chunks there are."""
    return _cdiv(in_features, chunk_columns(in_features))


def _tiles(adapters: Adapters, routing: Routing) -> tuple[Tensor, ...]:
    """Return the true ranks and the tiles, as every kernel that works on tiles takes them."""
    p, ranks = routing.plan, _or(adapters.ranks, routing)
    if p is None:
        raise BackendError("the batch has no plan: make it with ops.route and the Triton back end")
    if routing.is_by_pair:
        return (ranks, routing.topk_ids, routing.token_slot, routing.slot_enabled, p.tile_counts)
    return (ranks, p.tile_key, p.tile_rows, p.tile_pairs, p.tile_counts)


def _constants(adapters: Adapters, routing: Routing) -> dict[str, Any]:
    """Return what a kernel is compiled for that the layer decides."""
    return {
        "EXPERTS": routing.experts, "SLOTS": routing.slots, "TOP_K": routing.top_k, "BY_PAIR": routing.is_by_pair,
        "RANK": adapters.rank, "SLICES": len(adapters.a),
        "HAS_RANKS": adapters.ranks is not None, "BLOCK_R": max(16, _power_of_two(adapters.rank)),
        "ROWS": rows_of_tile(routing.pairs), **_pdl(routing),
    }  # fmt: skip


def _partials(adapters: Adapters, routing: Routing) -> dict[str, Any]:
    """Return how the rank vectors of a batch lie in memory."""
    count = chunks(adapters.in_features) if is_small(routing) else 0
    return {"CHUNKS": count, "STRIDE_CHUNK": _stride_chunk(adapters)}


def _stride_chunk(adapters: Adapters) -> int:
    return SMALL_PAIRS * adapters.columns


def _scratch(routing: Routing) -> Scratch:
    if routing.scratch is None:
        raise BackendError("the batch has no scratch: make it with ops.route and the Triton back end")
    return routing.scratch


def _keys(routing: Routing) -> int:
    return routing.slots * routing.experts


def _tile_bound(routing: Routing) -> int:
    if routing.is_by_pair:
        return routing.pairs
    return min(tile_bound(routing.pairs, _keys(routing)), routing.pairs)


def _or(operand: Tensor | None, routing: Routing) -> Tensor:
    """Return `operand`, or any tensor in its place where the kernel does not read it."""
    return routing.topk_ids if operand is None else operand


def _launch(kernel: str, adapters: Adapters, routing: Routing, device: torch.device) -> Launch:
    return launch_for(
        f"{kernel}_small" if is_small(routing) else f"{kernel}_tiled",
        pairs=routing.pairs,
        in_features=adapters.in_features,
        out_features=adapters.out_features,
        columns=adapters.columns,
        device=device,
    )


def _programs(launch: Launch, bound: int, device: torch.device) -> int:
    return min(bound, launch.programs_per_sm * _processors(device))


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _pdl(routing: Routing) -> dict[str, Any]:
    """Return the switches of programmatic dependent launch, which Hopper brought."""
    use_pdl = not routing.side and _has_pdl(routing.topk_ids.device)
    return {"USE_PDL": True, "launch_pdl": True} if use_pdl else {"USE_PDL": False}


@lru_cache
def _has_pdl(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9
