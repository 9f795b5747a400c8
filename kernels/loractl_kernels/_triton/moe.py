"""Launches of the kernels for one batch: plan, shrink, expand.

A batch of up to SMALL_PAIRS pairs is *small*: two launches a projection, latency bound. A larger one is *planned*: its
pairs are sorted once for both projections, and every kernel is a fixed set of programs that loops over the tiles there
are. All that varies from batch to batch is an ordinary argument of the kernels or a count on the device, so a bucket of
batch sizes is compiled once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from loractl_kernels._triton import activating, expanding, planning, shrinking, summing
from loractl_kernels._triton.configs import Launch, launch_for
from loractl_kernels.errors import BackendError
from loractl_kernels.operands import (
    HIST_PAIRS,
    MAX_CHUNKS,
    SMALL_PAIRS,
    TILE_ROWS,
    Adapters,
    Plan,
    Routing,
    Shrunk,
    tile_bound,
)
from loractl_kernels.reference import Gate, Gating

SMALL_ROWS = 16
_CHUNK_UNIT = 128
_SMALL_BUCKETS = (16, 64, SMALL_PAIRS)


def is_small(routing: Routing) -> bool:
    """Whether the batch needs no plan."""
    return routing.pairs <= SMALL_PAIRS


def plan(routing: Routing) -> Routing:
    """Sort a large batch by adapter and expert, into the scratch, and say so; nothing to do for a small one."""
    if is_small(routing):
        return routing
    assert routing.scratch is not None
    p = Plan.within(routing.scratch, routing.pairs, _keys(routing))
    common: dict[str, Any] = {"EXPERTS": routing.experts, "SLOTS": routing.slots, "TOP_K": routing.top_k}
    blocks, width = triton.cdiv(routing.pairs, HIST_PAIRS), routing.slots * routing.experts + 1
    ids, slots, enabled = routing.topk_ids, routing.token_slot, routing.slot_enabled
    planning.count_keys[(blocks,)](
        ids, slots, enabled, p.histograms, routing.pairs, **common, BLOCK=HIST_PAIRS, num_warps=4
    )
    planning.scan_blocks[(triton.cdiv(width, 64),)](
        p.histograms, p.tile_start, blocks, WIDTH=width, BLOCK_KEYS=64, num_warps=4
    )
    planning.scan_keys[(1,)](
        p.tile_start, p.group_start, p.tile_start, p.tile_counts, WIDTH=width, ROWS=TILE_ROWS, num_warps=4
    )
    planning.place_pairs[(blocks,)](
        ids, slots, enabled, p.histograms, p.group_start, p.tile_start, p.ordered, p.tile_key, p.tile_first,
        p.tile_rows, routing.pairs, **common, BLOCK=HIST_PAIRS, ROWS=TILE_ROWS, num_warps=8,
    )  # fmt: skip
    return replace(routing, plan=p)


def shrink(
    x: Tensor, adapters: Adapters, routing: Routing, row_of_pair: Tensor | None, *, is_second: bool
) -> Shrunk:
    """Launch the inner product; see `ops.shrink`."""
    assert routing.scratch is not None
    memory = routing.scratch.shrunk[int(is_second)]
    a = adapters.a
    launch = _launch("shrink", adapters, routing, x.device)
    operands = (x, a[0], a[-1], _or(adapters.ranks, routing))
    strides = (x.stride(0), a[0].stride(0), a[0].stride(1), a[0].stride(2))
    constants: dict[str, Any] = {
        "EXPERTS": routing.experts, "TOP_K": routing.top_k, "K": adapters.in_features, "RANK": adapters.rank,
        "SLICES": len(a), "PER_TOKEN": x.shape[0] == routing.tokens and routing.top_k > 1,
        "HAS_ROWS": row_of_pair is not None, "HAS_RANKS": adapters.ranks is not None,
        "CHUNK": chunk_columns(adapters.in_features), "BLOCK_R": _padded_rank(adapters), "BLOCK_K": launch.block_k,
        "STAGES": launch.num_stages, "num_warps": launch.num_warps,
    }  # fmt: skip
    rows = _or(row_of_pair, routing)
    if routing.pairs == 0:
        return Shrunk(memory)
    if is_small(routing):
        use_pdl = _has_pdl(x.device)
        shrinking.shrink_small[(routing.pairs, chunks(adapters.in_features))](
            *operands, routing.topk_ids, routing.token_slot, routing.slot_enabled, rows, memory, routing.pairs,
            *strides, **constants, SLOTS=routing.slots, STRIDE_CHUNK=SMALL_PAIRS * adapters.columns,
            BLOCK_P=_bucket(routing), ROWS=SMALL_ROWS, USE_PDL=use_pdl, **_pdl(use_pdl),
        )  # fmt: skip
        return Shrunk(memory)
    p = _planned(routing)
    values = memory.view(x.dtype)
    shrinking.shrink_tiled[(_programs(launch, tile_bound(routing.pairs, _keys(routing)), x.device),)](
        *operands, p.ordered, p.tile_key, p.tile_first, p.tile_rows, p.tile_counts, rows, values, *strides,
        **constants, ROWS=TILE_ROWS,
    )  # fmt: skip
    return Shrunk(values)


def expand_add(
    y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, pair_weight: Tensor | None
) -> None:
    """Launch the outer product into `y`; see `ops.expand_add`."""
    if routing.pairs == 0:
        return
    b = adapters.b
    launch = _launch("expand", adapters, routing, y.device)
    operands = (y, shrunk.values, b[0], b[-1], _or(adapters.ranks, routing))
    weight = _or(pair_weight, routing)
    strides = (y.stride(0), b[0].stride(0), b[0].stride(1), b[0].stride(2))
    constants: dict[str, Any] = {
        "EXPERTS": routing.experts, "N": b[0].shape[2], "RANK": adapters.rank, "SLICES": len(b),
        "HAS_RANKS": adapters.ranks is not None, "HAS_WEIGHT": pair_weight is not None,
        "BLOCK_R": _padded_rank(adapters), "BLOCK_N": launch.block_n, "num_warps": launch.num_warps,
    }  # fmt: skip
    blocks = len(b) * triton.cdiv(b[0].shape[2], launch.block_n)
    if is_small(routing):
        use_pdl = _has_pdl(y.device)
        expanding.expand_small[(routing.pairs, _column_programs(launch, routing, blocks, y.device))](
            *operands, routing.topk_ids, routing.token_slot, routing.slot_enabled, weight, routing.pairs, *strides,
            **constants, **_small_constants(adapters, routing), BLOCK_P=_bucket(routing), USE_PDL=use_pdl,
            **_pdl(use_pdl),
        )  # fmt: skip
        return
    p = _planned(routing)
    expanding.expand_tiled[(_programs(launch, tile_bound(routing.pairs, _keys(routing)) * blocks, y.device),)](
        *operands, p.ordered, p.tile_key, p.tile_first, p.tile_rows, p.tile_counts, weight, *strides, **constants,
        ROWS=TILE_ROWS, num_stages=launch.num_stages,
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
    operands = (out, y, shrunk.values, b[0], b[-1], _or(adapters.ranks, routing))
    rows = _or(row_of_pair, routing)
    strides = (out.stride(0), y.stride(0), b[0].stride(0), b[0].stride(1), b[0].stride(2))
    numbers = (gating.alpha, gating.limit, gating.beta)
    constants: dict[str, Any] = {
        "EXPERTS": routing.experts, "N": n, "RANK": adapters.rank, "SLICES": len(b),
        "HAS_ROWS": row_of_pair is not None, "HAS_RANKS": adapters.ranks is not None,
        "INTERLEAVED": gating.is_interleaved, "SWIGLU_OAI": gating.gate is Gate.SWIGLU_OAI,
        "PRECISE": y.device.type == "cuda", "BLOCK_R": _padded_rank(adapters), "BLOCK_N": launch.block_n,
        "num_warps": launch.num_warps,
    }  # fmt: skip
    blocks = triton.cdiv(n, launch.block_n)
    if is_small(routing):
        activating.activate_small[(routing.pairs, _column_programs(launch, routing, blocks, y.device))](
            *operands, routing.topk_ids, routing.token_slot, routing.slot_enabled, rows, routing.pairs, *strides,
            *numbers, **constants, **_small_constants(adapters, routing), BLOCK_P=_bucket(routing), USE_PDL=False,
        )  # fmt: skip
        return
    p = _planned(routing)
    activating.activate_tiled[(_programs(launch, tile_bound(routing.pairs, _keys(routing)) * blocks, y.device),)](
        *operands, p.ordered, p.tile_key, p.tile_first, p.tile_rows, p.tile_counts, rows, *strides, *numbers,
        **constants, ROWS=TILE_ROWS, num_stages=launch.num_stages,
    )  # fmt: skip


def expand_sum(
    out: Tensor, y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, pair_weight: Tensor | None
) -> None:
    """Launch the outer product with the sum over k; see `ops.expand_sum`."""
    if routing.pairs == 0:
        return
    n = adapters.out_features
    launch = _launch("sum", adapters, routing, y.device)
    grid = (routing.tokens, triton.cdiv(n, launch.block_n))
    if len(adapters.b) == 1 and is_small(routing):
        b = adapters.b[0]
        summing.sum_small[grid](
            out, y, shrunk.values, b, _or(adapters.ranks, routing), routing.topk_ids, routing.token_slot,
            routing.slot_enabled, _or(pair_weight, routing), out.stride(0), y.stride(0), b.stride(0), b.stride(1),
            b.stride(2), EXPERTS=routing.experts, N=n, RANK=adapters.rank, HAS_RANKS=adapters.ranks is not None,
            HAS_WEIGHT=pair_weight is not None, BLOCK_R=_padded_rank(adapters), BLOCK_N=launch.block_n,
            **_small_constants(adapters, routing), USE_PDL=False, num_warps=launch.num_warps,
        )  # fmt: skip
        return
    expand_add(y, shrunk, adapters, routing, pair_weight)
    summing.sum_pairs[grid](
        out, y, routing.topk_ids, out.stride(0), y.stride(0), TOP_K=routing.top_k, N=n, BLOCK_N=launch.block_n,
        num_warps=launch.num_warps,
    )  # fmt: skip


def chunk_columns(in_features: int) -> int:
    """Return how many columns of the input one chunk of a shrink sums."""
    units = triton.cdiv(in_features, _CHUNK_UNIT)
    return triton.cdiv(units, MAX_CHUNKS) * _CHUNK_UNIT


def chunks(in_features: int) -> int:
    """Return how many chunks there are."""
    return triton.cdiv(in_features, chunk_columns(in_features))


def _planned(routing: Routing) -> Plan:
    assert routing.plan is not None
    return routing.plan


def _keys(routing: Routing) -> int:
    return routing.slots * routing.experts


def _or(operand: Tensor | None, routing: Routing) -> Tensor:
    """Return `operand`, or any tensor in its place where the kernel does not read it."""
    return routing.topk_ids if operand is None else operand


def _bucket(routing: Routing) -> int:
    return next(bucket for bucket in _SMALL_BUCKETS if routing.pairs <= bucket)


def _padded_rank(adapters: Adapters) -> int:
    return max(16, triton.next_power_of_2(adapters.rank))


def _small_constants(adapters: Adapters, routing: Routing) -> dict[str, Any]:
    return {
        "SLOTS": routing.slots, "TOP_K": routing.top_k, "CHUNKS": chunks(adapters.in_features),
        "STRIDE_CHUNK": SMALL_PAIRS * adapters.columns, "ROWS": SMALL_ROWS,
    }  # fmt: skip


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


def _column_programs(launch: Launch, routing: Routing, blocks: int, device: torch.device) -> int:
    """Return over how many programs the blocks of columns of a small batch's tile are spread."""
    return max(1, min(blocks, launch.programs_per_sm * _processors(device) // _bucket(routing)))


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@lru_cache
def _has_pdl(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def _pdl(use_pdl: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"launch_pdl": True} if use_pdl else {}
