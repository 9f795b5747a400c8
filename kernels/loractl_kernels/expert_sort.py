"""Pairs sorted by expert, with the tables that a grouped GEMM reads; OAI's ``matmul_ogs`` is one.

A pair is one (token, k), numbered as in `topk_ids`. *Rows* are the pairs that have an expert, in order of expert and,
within one, in order of the pairs; behind them is a row for each pair that has none. *Tiles* cut an expert's rows into
blocks of 16, 32, 64 or 128.

Any ids are safe. An id that is not in [0, experts), whichever it is, makes the pair one without an expert, which no
table counts and no row of an expert names. An id that a token has twice makes two rows of that expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, Self

import torch
from torch import Tensor

from loractl_kernels.errors import BackendError, DtypeError, ShapeError
from loractl_kernels.operands import aligned
from loractl_kernels.ops import Backend

TILE_SIZES: Final = (16, 32, 64, 128)
"""Rows of a tile, for each list of tiles."""
MAX_EXPERTS: Final = 1024
"""The most experts that the kernels hold in registers."""
MAX_PAIRS: Final = 1 << 19
"""The most pairs whose tiles can be numbered in the upper half of an int32, were all of one expert."""
RANKED_PAIRS: Final = 2048
"""Up to this many pairs a batch is sorted by one launch, if the layer does not have too many experts."""
COUNTED_PAIRS: Final = 1024
"""Of how many pairs of a larger batch the experts are counted together."""

_MAX_RANKED: Final = 1 << 17  # pairs times experts that each program of the one launch compares
_WEIGHT_DTYPES: Final = frozenset({torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True, slots=True, eq=False)
class ExpertSort:
    """A batch in order of expert; all int32, but for the weights.

    Attributes:
        pair_of_row: [pairs] which pair each row is, -1 for the rows of pairs without an expert.
        row_of_pair: [pairs] which row each pair is, -1 for one without an expert.
        row_weight: [pairs] bf16, the pair's routing weight, rounded to nearest; 0 for rows without an expert.
        expert_rows: [experts] how many rows each expert has.
        starts: [1 + sizes, experts + 1] the first row of each expert, then for each of TILE_SIZES the number of its
            first tile; last how many there are in all.
        tiles: [sizes, tile_bound] for each of TILE_SIZES the tiles there are, ``block << 16 | expert`` where `block`
            counts the tiles of one expert, then -1. Rows of this and of `starts` begin at multiples of 16 bytes.
    """

    pair_of_row: Tensor
    row_of_pair: Tensor
    row_weight: Tensor
    expert_rows: Tensor
    starts: Tensor
    tiles: Tensor

    @property
    def expert_start(self) -> Tensor:
        """[experts + 1] the first row of each expert."""
        return self.starts[0]

    @property
    def tile_start(self) -> dict[int, Tensor]:
        """Per size of a tile, [experts + 1] the first tile of each expert."""
        return dict(zip(TILE_SIZES, self.starts[1:].unbind(), strict=True))

    @property
    def tile_expert(self) -> dict[int, Tensor]:
        """Per size of a tile, [tile_bound] the tiles, packed."""
        return dict(zip(TILE_SIZES, self.tiles.unbind(), strict=True))

    @classmethod
    def allocate(cls, pairs: int, experts: int, device: torch.device) -> tuple[Self, Tensor]:
        """Return where the sort of a batch goes, and what it needs besides: [groups, bins] int32."""
        starts, tiles = aligned(experts + 1), aligned(tile_bound(pairs, experts))
        groups, bins = (0 if is_ranked(pairs, experts) else -(-pairs // COUNTED_PAIRS)), bins_of(experts)
        sizes = [aligned(pairs), aligned(pairs), aligned(experts), (1 + len(TILE_SIZES)) * starts]
        sizes += [len(TILE_SIZES) * tiles, groups * bins]
        ints = torch.empty(sum(sizes), dtype=torch.int32, device=device)
        parts: tuple[Tensor, ...] = torch.split(ints, sizes)  # pyright: ignore[reportUnknownVariableType]
        sort = cls(
            pair_of_row=parts[0][:pairs],
            row_of_pair=parts[1][:pairs],
            row_weight=torch.empty(pairs, dtype=torch.bfloat16, device=device),
            expert_rows=parts[2][:experts],
            starts=parts[3].view(-1, starts)[:, : experts + 1],
            tiles=parts[4].view(len(TILE_SIZES), tiles)[:, : tile_bound(pairs, experts)],
        )
        return sort, parts[5].view(groups, bins)


def tile_bound(pairs: int, experts: int) -> int:
    """Return how many tiles of the smallest size `pairs` pairs can fill at most, whatever their ids."""
    if pairs <= experts:
        return pairs
    return experts + (pairs - experts) // TILE_SIZES[0]


def bins_of(experts: int) -> int:
    """Return for how many experts the kernels count."""
    return max(16, 1 << (experts - 1).bit_length())


def is_ranked(pairs: int, experts: int) -> bool:
    """Whether one launch sorts a batch."""
    return pairs <= RANKED_PAIRS and pairs * bins_of(experts) <= _MAX_RANKED


def sort_by_expert(
    topk_ids: Tensor, topk_weights: Tensor, *, experts: int, backend: Backend = Backend.TRITON
) -> ExpertSort:
    """Sort the pairs of a batch by expert.

    Args:
        topk_ids: [tokens, top_k] int32 or int64, contiguous; any values, see the module.
        topk_weights: [tokens, top_k] fp32, bf16 or fp16, contiguous.
        experts: Experts of the layer.
        backend: Who computes.

    Returns:
        Tensors of sizes that depend on the operands' shapes alone, in memory of their own. A CUDA graph can capture the
        call: there is no copy to the host, and one launch up to RANKED_PAIRS pairs, two beyond.

    Raises:
        ShapeError: The operands disagree, or there are more than MAX_PAIRS pairs or MAX_EXPERTS experts.
        DtypeError: The ids are not integers, or the weights not of a floating type that is taken.
        BackendError: `backend` cannot run here.

    What is compiled depends on `experts`, on the dtypes and on the bucket of the number of pairs; see `warm`.
    """
    _check(topk_ids, topk_weights, experts)
    if backend is Backend.REFERENCE:
        return _sort_reference(topk_ids.flatten(), topk_weights.flatten(), experts)
    out, counts = ExpertSort.allocate(topk_ids.numel(), experts, topk_ids.device)
    _triton().sort_by_expert(topk_ids, topk_weights, out, counts)
    return out


def warm(topk_ids: Tensor, topk_weights: Tensor, *, experts: int, backend: Backend = Backend.TRITON) -> None:
    """Compile every variant that batches of these dtypes and this `top_k` can need; the values are not used."""
    top_k = topk_ids.shape[1]
    for pairs in warmup_pairs(experts):
        tokens = -(-pairs // top_k)
        sort_by_expert(
            topk_ids.new_zeros(tokens, top_k), topk_weights.new_zeros(tokens, top_k), experts=experts, backend=backend
        )


def warmup_pairs(experts: int) -> tuple[int, ...]:
    """Return the numbers of pairs, of which each or the next few more need another variant."""
    most = min(RANKED_PAIRS, _MAX_RANKED // bins_of(experts))
    return (*(pairs for pairs in (1, 65, 257) if pairs < most), most + 1)


def _sort_reference(ids: Tensor, weights: Tensor, experts: int) -> ExpertSort:
    """Sort by the definition."""
    pairs = ids.shape[0]
    key = torch.where((ids >= 0) & (ids < experts), ids, experts).long()
    order = torch.argsort(key, stable=True)
    has_expert = key[order] < experts
    row = torch.empty_like(order)
    row[order] = torch.arange(pairs, device=ids.device)
    rows = torch.bincount(key, minlength=experts + 1)[:experts]
    lengths = torch.stack([rows, *((rows + size - 1) // size for size in TILE_SIZES)])
    starts = torch.nn.functional.pad(lengths.cumsum(dim=1), (1, 0))
    tiles = torch.full((len(TILE_SIZES), tile_bound(pairs, experts)), -1, device=ids.device)
    for of_size, of_expert, start in zip(tiles, lengths[1:], starts[1:], strict=True):
        expert = torch.arange(experts, device=ids.device).repeat_interleave(of_expert)
        block = torch.arange(expert.shape[0], device=ids.device) - start[expert]
        of_size[: expert.shape[0]] = block << 16 | expert
    return ExpertSort(
        pair_of_row=torch.where(has_expert, order, -1).int(),
        row_of_pair=torch.where(key < experts, row, -1).int(),
        row_weight=torch.where(has_expert, weights[order], 0.0).to(torch.bfloat16),
        expert_rows=rows.int(),
        starts=starts.int(),
        tiles=tiles.int(),
    )


def _check(topk_ids: Tensor, topk_weights: Tensor, experts: int) -> None:
    if topk_ids.dim() != 2 or not topk_ids.is_contiguous() or topk_ids.numel() > MAX_PAIRS:
        expected = f"[tokens, top_k], contiguous, of up to {MAX_PAIRS} pairs"
        raise ShapeError("topk_ids", expected=expected, found=tuple(topk_ids.shape))
    if topk_weights.shape != topk_ids.shape or not topk_weights.is_contiguous():
        expected = f"{list(topk_ids.shape)} to match topk_ids, contiguous"
        raise ShapeError("topk_weights", expected=expected, found=tuple(topk_weights.shape))
    if not 1 <= experts <= MAX_EXPERTS:
        raise ShapeError("experts", expected=f"1 to {MAX_EXPERTS}", found=(experts,))
    if topk_ids.dtype not in (torch.int32, torch.int64):
        raise DtypeError("topk_ids", expected="int32 or int64", found=str(topk_ids.dtype))
    if topk_weights.dtype not in _WEIGHT_DTYPES:
        raise DtypeError("topk_weights", expected="float32, bfloat16 or float16", found=str(topk_weights.dtype))


class _Kernels(Protocol):
    """What the Triton back end offers here."""

    def sort_by_expert(self, topk_ids: Tensor, topk_weights: Tensor, out: ExpertSort, counts: Tensor) -> None: ...


def _triton() -> _Kernels:
    """Import the Triton back end when it is asked for: the reference must run where there is no Triton."""
    try:
        from loractl_kernels._triton import sorting
    except ImportError as error:
        raise BackendError(f"the Triton back end needs the package triton: {error}") from error
    return sorting
