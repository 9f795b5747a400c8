"""What the operations work on: stacked adapters, the routing of a batch, and the memory that is set aside once.

A *pair* is one (token, k): pair ``p`` belongs to token ``p // top_k``. A *slot* is the index of a loaded adapter in the
stacks, and -1 is the base model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from loractl_kernels.errors import DtypeError, ShapeError

MAX_RANK = 128
"""The largest rank that the Triton kernels hold in registers."""


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters of one projection of a layer, stacked by slot.

    A projection has one slice, or two where gate and up have an A of their own (``2D`` adapters).

    Attributes:
        a: Per slice [slots, experts, rank, in_features]. An expert stride of 0 is an A that all experts share.
        b: Per slice [slots, experts, out_features, rank], the scale ``alpha / rank`` already in it. Slice j belongs to
            the j-th part of the output's columns.
        ranks: [slots] int32 on the same device, each slot's true rank; None where every slot is as wide as the stack.
            What lies beyond it is never read.
    """

    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    ranks: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the stacks against each other.

        Raises:
            ShapeError: They disagree; the message names both shapes.
            DtypeError: They are not of one dtype.
        """
        if not 1 <= len(self.a) <= 2 or len(self.a) != len(self.b):
            raise ShapeError("a and b", expected="one or two slices each", found=(len(self.a), len(self.b)))
        first_a, first_b = self.a[0], self.b[0]
        if first_a.dim() != 4:
            raise ShapeError("a[0]", expected="[slots, experts, rank, in_features]", found=tuple(first_a.shape))
        slots, experts, rank, _ = first_a.shape
        for index, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            if a.shape != first_a.shape:
                raise ShapeError(f"a[{index}]", expected=f"{list(first_a.shape)} like a[0]", found=tuple(a.shape))
            if b.dim() != 4 or (*b.shape[:2], b.shape[3]) != (slots, experts, rank):
                expected = f"[{slots}, {experts}, out_features, {rank}] to match a {list(a.shape)}"
                raise ShapeError(f"b[{index}]", expected=expected, found=tuple(b.shape))
            if b.shape != first_b.shape:
                raise ShapeError(f"b[{index}]", expected=f"{list(first_b.shape)} like b[0]", found=tuple(b.shape))
            if {a.dtype, b.dtype} != {first_a.dtype}:
                raise DtypeError(f"a[{index}], b[{index}]", expected=str(first_a.dtype), found=f"{a.dtype}, {b.dtype}")
        if self.ranks is not None and (tuple(self.ranks.shape) != (slots,) or self.ranks.dtype != torch.int32):
            raise ShapeError("ranks", expected=f"[{slots}] of int32", found=tuple(self.ranks.shape))

    @cached_property
    def slots(self) -> int:
        """How many adapters fit."""
        return self.a[0].shape[0]

    @cached_property
    def experts(self) -> int:
        """How many experts the layer has."""
        return self.a[0].shape[1]

    @cached_property
    def rank(self) -> int:
        """Rank of the stack: the largest that a slot may have."""
        return self.a[0].shape[2]

    @cached_property
    def columns(self) -> int:
        """Columns of a shrunk row: one rank vector a slice."""
        return len(self.a) * self.rank

    @cached_property
    def in_features(self) -> int:
        """Columns of the input."""
        return self.a[0].shape[3]

    @cached_property
    def out_features(self) -> int:
        """Columns of the output, all slices together."""
        return len(self.b) * self.b[0].shape[2]


@dataclass(frozen=True, slots=True, eq=False)
class Scratch:
    """Device memory for one batch at a time, set aside once, so that the hot path allocates nothing.

    One scratch serves all layers of a model, one after the other on a stream. What it holds between two calls means
    nothing: every kernel writes what the next reads.

    Attributes:
        max_pairs: Largest batch that fits, in pairs.
        ints: int32, the plan of `route`.
        shrunk: float32, rank vectors of w13 and of w2, each `max_pairs * max_columns` elements or their partial sums.
    """

    max_pairs: int
    max_keys: int
    max_columns: int
    ints: Tensor
    shrunk: Tensor

    @classmethod
    def allocate(
        cls, *, max_tokens: int, top_k: int, experts: int, slots: int, max_columns: int, device: torch.device | str
    ) -> Self:
        """Set memory aside for batches of up to `max_tokens` tokens and adapters of up to `max_columns` columns."""
        pairs, keys = max_tokens * top_k, slots * experts
        ints = torch.empty(plan_ints(pairs, keys), dtype=torch.int32, device=device)
        shrunk = torch.empty(2, shrunk_floats(pairs, max_columns), dtype=torch.float32, device=device)
        return cls(pairs, keys, max_columns, ints, shrunk)


SMALL_PAIRS = 4096
"""Up to this many pairs a batch is *small*: a shrink is spread over programs, which leave partial sums."""
RANKED_PAIRS = 2048
"""Up to this many pairs a batch is planned by comparing each with each."""
SMALL_ROWS = 16
"""Rows of a tile of a small batch."""
TILE_ROWS = 32
"""Rows of a tile of a larger one."""
FEW_PAIRS = 64
"""Up to this many pairs one program does so; for more there are two kernels."""
BY_PAIR = 256
"""Above this many pairs no batch goes without a plan, however many experts there are."""
HIST_PAIRS = 256
"""Pairs that one program of the planner for more counts."""
MAX_CHUNKS = 8
"""Into how many parts the sum of a shrink is split, at most."""


def rows_of_tile(pairs: int) -> int:
    """Return how many pairs a tile of a batch of `pairs` pairs has at most."""
    return SMALL_ROWS if pairs <= SMALL_PAIRS else TILE_ROWS


def by_pair_bound(experts: int) -> int:
    """Return up to how many pairs each pair of a batch is a tile of its own, so that there is nothing to plan.

    Pairs of one adapter and expert then read its weights each for themselves, the later ones from the L2 cache. With
    at most two pairs an expert that costs less than a plan does.
    """
    return min(BY_PAIR, max(SMALL_ROWS, 2 * experts))


def tile_bound(pairs: int, keys: int) -> int:
    """Return how many tiles `pairs` pairs over `keys` keys can fill at most."""
    return pairs // rows_of_tile(pairs) + min(pairs, keys + 1)


def plan_ints(pairs: int, keys: int) -> int:
    """Return how many int32 hold the plan of any batch of up to `pairs` pairs over `keys` (slot, expert) keys."""
    return max(sum(_plan_sizes(size, keys)) for size in (pairs, min(pairs, SMALL_PAIRS)))


def _plan_sizes(pairs: int, keys: int) -> tuple[int, ...]:
    tiles = tile_bound(pairs, keys)
    histograms = -(-pairs // HIST_PAIRS) * (keys + 1)
    sizes = (
        8,
        max(histograms, 4 * aligned(pairs)),
        pairs,
        keys + 2,
        keys + 2,
        tiles,
        tiles,
        tiles * rows_of_tile(pairs),
    )
    return tuple(aligned(size) for size in sizes)


def aligned(ints: int) -> int:
    """Return `ints` rounded up to 16 bytes: Triton compiles a kernel anew for a pointer that is aligned otherwise."""
    return -(-ints // 4) * 4


def shrunk_floats(pairs: int, columns: int) -> int:
    """Return how many float32 hold the rank vectors of `pairs` pairs, or the partial sums of a small batch."""
    return max(pairs, SMALL_PAIRS * MAX_CHUNKS) * columns


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A batch cut into tiles, each of pairs of one adapter and one expert; int32 in a scratch.

    A *key* is ``slot * experts + expert``, and the last one, of pairs without an adapter, is ``slots * experts``. Tiles
    are in order of key, so those without an adapter come last.

    Attributes:
        tile_counts: [8]; how many tiles have an adapter, how many there are.
        histograms: [blocks, keys + 1] pairs of each key before each block of HIST_PAIRS; of a small batch, [4, pairs]
            each pair's place, and where in its group it is.
        pair_key: [pairs] key of each pair.
        group_start: [keys + 2] how many pairs there are of the keys before each.
        tile_start: [keys + 2] how many tiles there are of the keys before each.
        tile_key: [tiles] key of each tile, -1 for pairs without an adapter.
        tile_rows: [tiles] how many pairs it has.
        tile_pairs: [tiles, rows] its pairs, in their order in the batch.
    """

    tile_counts: Tensor
    histograms: Tensor
    pair_key: Tensor
    group_start: Tensor
    tile_start: Tensor
    tile_key: Tensor
    tile_rows: Tensor
    tile_pairs: Tensor

    @classmethod
    def within(cls, scratch: Scratch, pairs: int, keys: int) -> Self:
        """Return where the plan of `pairs` pairs over `keys` keys lies in `scratch`."""
        sizes = _plan_sizes(pairs, keys)
        views: tuple[Tensor, ...] = torch.split(scratch.ints[: sum(sizes)], list(sizes))  # pyright: ignore[reportUnknownVariableType]
        return cls(*views)


@dataclass(frozen=True, eq=False)
class Routing:
    """Which expert and which adapter each pair of a batch goes to; made by `loractl_kernels.ops.route`.

    Attributes:
        topk_ids: [tokens, top_k] integer expert of each pair, -1 for none.
        token_slot: [tokens] integer slot of each token; -1 for the base model.
        slot_enabled: [slots] or longer, integer; a slot whose entry is 0 does no work.
        experts: Experts of the layer.
        slots: Slots of the stacks; a `token_slot` of this or more is the base model.
        scratch: Where the kernels keep their plan and rank vectors; None for the reference.
        plan: Where in the scratch the plan lies; None for the reference.
        side: Whether the kernels of the batch run on more than one stream. Then none is launched ahead of its
            predecessor's end, which is known for one stream alone.
    """

    topk_ids: Tensor
    token_slot: Tensor
    slot_enabled: Tensor
    experts: int
    slots: int
    scratch: Scratch | None = None
    plan: Plan | None = None
    side: bool = False

    @cached_property
    def tokens(self) -> int:
        """Rows of the batch."""
        return self.topk_ids.shape[0]

    @cached_property
    def top_k(self) -> int:
        """Experts a token goes to."""
        return self.topk_ids.shape[1]

    @cached_property
    def pairs(self) -> int:
        """Tokens times `top_k`."""
        return self.topk_ids.numel()

    @cached_property
    def is_by_pair(self) -> bool:
        """Whether the kernels take each pair for a tile of its own; see `by_pair_bound`."""
        return self.pairs <= by_pair_bound(self.experts)


@dataclass(frozen=True, slots=True, eq=False)
class Shrunk:
    """Rank vectors of every pair that has an adapter: ``A[s, e] @ x``, in the layout of the back end that made them.

    Attributes:
        values: The reference: [pairs, columns] fp32. Triton: memory of the scratch.
    """

    values: Tensor
