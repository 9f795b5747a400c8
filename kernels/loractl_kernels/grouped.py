"""The experts' GEMM of a large batch with the deltas in its epilogue, so that no output is read and written again.

It takes the tiles that the engine sorted its pairs into, and the rank vectors of `ops.shrink`. The delta is added in
fp32 before the result is rounded and weighted, where the smaller batches' kernels add it to the rounded base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loractl_kernels import ops, reference
from loractl_kernels.errors import BackendError, DtypeError, ShapeError
from loractl_kernels.operands import SMALL_PAIRS, Adapters, Routing, Shrunk

MAX_RANK = 64
"""The largest rank whose rank vectors and B are held in registers beside a tile of the base."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTiles:
    """The pairs of a batch, sorted by expert and padded so that each tile has one expert; int32.

    Attributes:
        pairs: [padded_bound] pair of each row; the number of pairs, or more, for padding.
        expert: [tiles] expert of each tile, -1 for one whose rows are to be 0.
        padded: [1] how many rows there are.
    """

    pairs: Tensor
    expert: Tensor
    padded: Tensor


def tiles_of(topk_ids: Tensor, experts: int, block_m: int) -> ExpertTiles:
    """Return the tiles of a batch as engines sort them, by plain torch; pairs without an expert are in none.

    Args:
        topk_ids: [tokens, top_k] integer; out of [0, experts) for none.
        experts: Experts of the layer.
        block_m: Rows of a tile.
    """
    flat = topk_ids.flatten().long()
    rows = [(flat == expert).nonzero().flatten() for expert in range(experts)]
    filled = [torch.cat([own, own.new_full((-len(own) % block_m,), flat.numel())]) for own in rows]
    pairs = torch.cat(filled).int()
    tiles = [torch.full((len(own) // block_m,), expert) for expert, own in enumerate(filled)]
    expert = torch.cat(tiles).to(flat.device, torch.int32)
    return ExpertTiles(pairs, expert, torch.tensor([len(pairs)], dtype=torch.int32, device=flat.device))


@dataclass(frozen=True, slots=True)
class GemmLaunch:
    """Sizes of a tile and how it is run.

    Attributes:
        block_m: Rows of a tile; what `ExpertTiles` were padded to.
        block_n: Columns of a tile.
        block_k: Columns of the input in one step.
        group_m: Tiles of rows that share weights in the L2 cache.
        num_warps: Warps of a program.
        num_stages: Steps in flight.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int = 1
    num_warps: int = 4
    num_stages: int = 3


def takes(adapters: Adapters, routing: Routing) -> bool:
    """Whether the GEMM can have the deltas of a layer in it: a batch that is not small, ranks that fit."""
    return routing.pairs > SMALL_PAIRS and adapters.rank <= MAX_RANK


def gemm_with_deltas(
    y: Tensor,
    x: Tensor,
    w: Tensor,
    tiles: ExpertTiles,
    shrunk: Shrunk,
    adapters: Adapters,
    routing: Routing,
    launch: GemmLaunch,
    *,
    pair_weight: Tensor | None = None,
) -> None:
    """Write each pair's row, base and delta: ``y[pair] = weight * (W[e] @ x + B[s, e] @ shrunk[pair])``.

    Args:
        y: [pairs, out_features]; written, but for pairs that are in no tile.
        x: [tokens, in_features] or [pairs, in_features], rows contiguous.
        w: [experts, out_features, in_features], rows contiguous; the base's weights.
        tiles: The engine's order of the pairs.
        shrunk: What `ops.shrink` returned for `x` and `adapters`.
        adapters: One projection's stacks.
        routing: The batch, for which `takes` holds.
        launch: How to launch; its rows of a tile are those of `tiles`.
        pair_weight: [pairs] or [tokens, top_k] routing weights, or None for 1.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: They are not of one dtype that the back end takes.
        BackendError: The batch is one that is not taken.
    """
    experts, out_features, in_features = w.shape
    if (experts, out_features, in_features) != (adapters.experts, adapters.out_features, adapters.in_features):
        expected = f"[{adapters.experts}, {adapters.out_features}, {adapters.in_features}] as the stacks say"
        raise ShapeError("w", expected=expected, found=tuple(w.shape))
    if tuple(y.shape) != (routing.pairs, out_features):
        raise ShapeError("y", expected=f"[{routing.pairs}, {out_features}]", found=tuple(y.shape))
    if x.shape[0] not in (routing.tokens, routing.pairs) or x.shape[1] != in_features:
        expected = f"[{routing.tokens} or {routing.pairs}, {in_features}]"
        raise ShapeError("x", expected=expected, found=tuple(x.shape))
    if {y.dtype, w.dtype, adapters.b[0].dtype} != {x.dtype}:
        raise DtypeError("y, w, b", expected=str(x.dtype), found=f"{y.dtype}, {w.dtype}, {adapters.b[0].dtype}")
    if routing.scratch is None:
        gemm_reference(y, x, w, shrunk, adapters, routing, pair_weight=pair_weight)
        return
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise DtypeError("x", expected="bfloat16 or float16", found=str(x.dtype))
    if not takes(adapters, routing):
        raise BackendError(
            f"the GEMM takes deltas of ranks up to {MAX_RANK} in batches of more than {SMALL_PAIRS} pairs, and this "
            f"has rank {adapters.rank} and {routing.pairs} pairs: use ops.expand_add"
        )
    _kernels().launch(y, x, w, tiles, shrunk, adapters, routing, launch, pair_weight)


def gemm_reference(
    y: Tensor, x: Tensor, w: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, *, pair_weight: Tensor | None
) -> None:
    """The obvious form of `gemm_with_deltas`, in fp32; `shrunk` is the reference's. Pairs without an expert give 0."""
    rows = x if x.shape[0] == routing.pairs else x.repeat_interleave(routing.top_k, 0)
    experts = routing.topk_ids.flatten().long()
    has_expert = (experts >= 0) & (experts < routing.experts)
    base = reference.routed_linear(rows.float(), w.float(), None, torch.where(has_expert, experts, 0))
    ops.expand_add(base, shrunk, adapters, routing)
    weight = torch.ones_like(experts, dtype=torch.float32) if pair_weight is None else pair_weight.flatten().float()
    y.copy_(torch.where(has_expert[:, None], base * weight[:, None], 0.0))


def _kernels() -> Any:
    from loractl_kernels._triton import grouped  # where there is no Triton, the reference must run

    return grouped
