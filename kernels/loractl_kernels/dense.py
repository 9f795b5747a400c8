"""LoRA on linear layers (attention, dense MLPs): shrink, expand and add, checked, run by the back end that is named.

For each token t with an adapter in slot s, and for each slice of the layer (q, k and v; gate and up; or the whole)::

    y[t, slice] += scale * B[s] @ (A[s] @ x[t])

The rules are those of `loractl_kernels.ops`: products are summed in fp32, the delta is added to the base's value in
fp32 and rounded once, a row without an adapter is not touched, and no row depends on another row of the batch. Triton
rounds the rank vector ``A @ x`` to the weights' dtype before the second product, which runs on tensor cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, Self

import torch
from torch import Tensor

from loractl_kernels.errors import BackendError, DtypeError, ShapeError
from loractl_kernels.operands import MAX_CHUNKS, MAX_RANK
from loractl_kernels.ops import Backend

MAX_SLICES: Final = 4
"""The most slices that the Triton kernels take."""
SMALL_TOKENS: Final = 256
"""Up to this many tokens a batch is *small*: each program finds its tile by itself, and no plan is made."""
SMALL_BUCKETS: Final = (16, 64, SMALL_TOKENS)
"""Sizes that the kernels of small batches are compiled for."""
SPLIT_TOKENS: Final = 1024
"""Up to this many tokens the chunks of a shrink's sum go to different programs, which leave partial sums."""
TILE_ROWS: Final = 32
"""Rows of a tile of a planned batch: tokens of one adapter."""

_MAX_COMPARED: Final = 1 << 15  # tokens times slots that a program of a small batch compares in registers
_TRITON_DTYPES: Final = frozenset({torch.bfloat16, torch.float16})


@dataclass(frozen=True, slots=True, eq=False)
class DenseScratch:
    """Device memory for one linear layer at a time, set aside once, so that the hot path allocates nothing.

    One scratch serves all layers of a model, one after the other on a stream. What it holds between two calls means
    nothing, but for the plan of `plan_tokens`, which holds until the next plan.

    Attributes:
        max_tokens: Largest batch that fits.
        max_slots: Most slots that fit.
        max_columns: Most columns of a shrunk row that fit, as `padded_columns` counts them.
        ints: int32, the plan.
        shrunk: float32, rank vectors or their partial sums.
    """

    max_tokens: int
    max_slots: int
    max_columns: int
    ints: Tensor
    shrunk: Tensor

    @classmethod
    def allocate(cls, *, max_tokens: int, slots: int, max_columns: int, device: torch.device | str) -> Self:
        """Set memory aside for batches of up to `max_tokens` tokens and layers of up to `max_columns` columns."""
        rows = max(max_tokens, min(max_tokens, SPLIT_TOKENS) * MAX_CHUNKS)
        ints = torch.empty(1 + max_tokens + 3 * tile_bound(max_tokens, slots), dtype=torch.int32, device=device)
        shrunk = torch.empty(rows * max_columns, dtype=torch.float32, device=device)
        return cls(max_tokens, slots, max_columns, ints, shrunk)


@dataclass(frozen=True, slots=True, eq=False)
class DenseAdapters:
    """The adapters of one linear layer, stacked by slot.

    Attributes:
        a: Per slice [slots, 1, rank, in_features].
        b: Per slice [slots, 1, out_features of the slice, rank], the scale ``alpha / rank`` already in it.
        ranks: [slots] int32 on the same device, each slot's true rank; None where every slot is as wide as the stack.
            What lies beyond it is never used.
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
        if not self.a or len(self.a) != len(self.b):
            raise ShapeError("a and b", expected="as many slices each, at least one", found=(len(self.a), len(self.b)))
        first = self.a[0]
        if first.dim() != 4 or first.shape[1] != 1:
            raise ShapeError("a[0]", expected="[slots, 1, rank, in_features]", found=tuple(first.shape))
        slots, _, rank, _ = first.shape
        for index, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            if a.shape != first.shape:
                raise ShapeError(f"a[{index}]", expected=f"{list(first.shape)} like a[0]", found=tuple(a.shape))
            if b.dim() != 4 or (b.shape[0], b.shape[1], b.shape[3]) != (slots, 1, rank):
                expected = f"[{slots}, 1, out_features, {rank}] to match a {list(a.shape)}"
                raise ShapeError(f"b[{index}]", expected=expected, found=tuple(b.shape))
            if {a.dtype, b.dtype} != {first.dtype}:
                raise DtypeError(f"a[{index}], b[{index}]", expected=str(first.dtype), found=f"{a.dtype}, {b.dtype}")
        if self.ranks is not None and (tuple(self.ranks.shape) != (slots,) or self.ranks.dtype != torch.int32):
            raise ShapeError("ranks", expected=f"[{slots}] of int32", found=tuple(self.ranks.shape))

    @property
    def slots(self) -> int:
        """How many adapters fit."""
        return self.a[0].shape[0]

    @property
    def rank(self) -> int:
        """Rank of the stack: the largest that a slot may have."""
        return self.a[0].shape[2]

    @property
    def in_features(self) -> int:
        """Columns of the input."""
        return self.a[0].shape[3]

    @property
    def out_slices(self) -> tuple[int, ...]:
        """Columns of each slice of the output."""
        return tuple(b.shape[2] for b in self.b)


def padded_columns(slices: int, rank: int) -> int:
    """Return the columns of a shrunk row: one rank vector a slice, each as wide as the kernels hold it."""
    return slices * max(16, 1 << (rank - 1).bit_length())


def tile_bound(tokens: int, slots: int) -> int:
    """Return how many places a planned batch's list of tiles has at most."""
    return tokens // TILE_ROWS + slots


def bucket_of(tokens: int) -> int:
    """Return the size that the kernels of a small batch of `tokens` tokens are compiled for."""
    return next(bucket for bucket in SMALL_BUCKETS if tokens <= bucket)


def bins_of(slots: int) -> int:
    """Return how many slots a program of a small batch counts; one of them is the base model's."""
    return max(16, 1 << slots.bit_length())


def is_small(tokens: int, slots: int) -> bool:
    """Whether a batch needs no plan."""
    return tokens <= SMALL_TOKENS and bucket_of(tokens) * bins_of(slots) <= _MAX_COMPARED


def warmup_tokens(max_tokens: int, slots: int) -> tuple[int, ...]:
    """Return sizes of batches that together run every variant that a layer's batches of up to `max_tokens` can need."""
    sizes = [size for size in SMALL_BUCKETS if is_small(size, slots)]
    sizes += [SPLIT_TOKENS, max(max_tokens, SPLIT_TOKENS + 1)]
    return tuple(dict.fromkeys(min(size, max_tokens) for size in sizes))


def add_lora_linear(
    y: Tensor,
    x: Tensor,
    a: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    token_slot: Tensor,
    *,
    scale: float = 1.0,
    ranks: Tensor | None = None,
    scratch: DenseScratch | None = None,
    is_planned: bool = False,
    backend: Backend = Backend.TRITON,
) -> None:
    """Add each token's delta in place: ``y[t, slice] += scale * B[s] @ (A[s] @ x[t])``.

    Args:
        y: [tokens, sum of the slices' out_features], rows contiguous; updated. Rows without an adapter are not touched.
        x: [tokens, in_features], rows contiguous, dtype of `y`.
        a: Per slice [slots, 1, rank, in_features].
        b: Per slice [slots, 1, out_features of the slice, rank], dtype of `a`.
        token_slot: [tokens] int32 or int64, contiguous; negative, or `slots` and more, is the base model.
        scale: What a delta is multiplied with, in fp32.
        ranks: [slots] int32, each slot's true rank; None where every slot is as wide as the stack.
        scratch: Needed by Triton; overwritten.
        is_planned: Whether `plan_tokens` has been called for this `token_slot`, and for no other since.
        backend: Who computes.

    Raises:
        ShapeError: The operands disagree, or the batch or the layer is larger than the scratch.
        DtypeError: A dtype that the back end does not take.
        BackendError: `backend` cannot run here, or does not take the rank or the number of slices.
    """
    adapters = DenseAdapters(a, b, ranks)
    _check_matrix("x", x, (x.shape[0], adapters.in_features))
    _check_matrix("y", y, (x.shape[0], sum(adapters.out_slices)))
    _check_slots(token_slot, x.shape[0])
    if backend is Backend.REFERENCE:
        _add_reference(y, x, adapters, token_slot, scale)
        return
    _check_triton(y, x, adapters)
    taken = _check_scratch(scratch, x.shape[0], adapters.slots, padded_columns(len(a), adapters.rank))
    _triton().add_lora_linear(y, x, adapters, token_slot, float(scale), taken, is_planned=is_planned)


def plan_tokens(token_slot: Tensor, *, slots: int, scratch: DenseScratch) -> None:
    """Plan a batch once for all layers that share `token_slot` and `slots`; see `add_lora_linear`, `is_planned`.

    Raises:
        ShapeError: `token_slot` is not a contiguous vector, or the batch is larger than the scratch.
        DtypeError: It is not of integers.
        BackendError: There is no Triton.
    """
    _check_slots(token_slot, token_slot.numel())
    _check_scratch(scratch, token_slot.numel(), slots, 0)
    _triton().plan(token_slot, slots, scratch)


def _add_reference(y: Tensor, x: Tensor, adapters: DenseAdapters, token_slot: Tensor, scale: float) -> None:
    """Add the deltas in the obvious fp32 form, slot by slot."""
    for slot in range(adapters.slots):
        rows = torch.where(token_slot == slot)[0]
        rank = adapters.rank if adapters.ranks is None else int(adapters.ranks[slot])
        shrunk = [x[rows].float() @ a[slot, 0, :rank].float().t() for a in adapters.a]
        deltas = [part @ b[slot, 0, :, :rank].float().t() for part, b in zip(shrunk, adapters.b, strict=True)]
        y[rows] = (y[rows].float() + scale * torch.cat(deltas, dim=-1)).to(y.dtype)


class _Kernels(Protocol):
    """What the Triton back end offers for linear layers."""

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        adapters: DenseAdapters,
        token_slot: Tensor,
        scale: float,
        scratch: DenseScratch,
        *,
        is_planned: bool,
    ) -> None: ...

    def plan(self, token_slot: Tensor, slots: int, scratch: DenseScratch) -> None: ...


def _triton() -> _Kernels:
    """Import the Triton back end when it is asked for: the reference must run where there is no Triton."""
    try:
        from loractl_kernels._triton import dense
    except ImportError as error:
        raise BackendError(f"the Triton back end needs the package triton: {error}") from error
    return dense


def _check_matrix(name: str, matrix: Tensor, shape: tuple[int, int]) -> None:
    if tuple(matrix.shape) != shape or (shape[1] > 1 and matrix.stride(1) != 1):
        raise ShapeError(name, expected=f"{list(shape)} with contiguous rows", found=tuple(matrix.shape))


def _check_slots(token_slot: Tensor, tokens: int) -> None:
    if tuple(token_slot.shape) != (tokens,) or not token_slot.is_contiguous():
        raise ShapeError("token_slot", expected=f"[{tokens}], contiguous", found=tuple(token_slot.shape))
    if token_slot.dtype not in (torch.int32, torch.int64):
        raise DtypeError("token_slot", expected="int32 or int64", found=str(token_slot.dtype))


def _check_triton(y: Tensor, x: Tensor, adapters: DenseAdapters) -> None:
    if x.dtype not in _TRITON_DTYPES:
        raise DtypeError("x", expected="bfloat16 or float16", found=str(x.dtype))
    for name, dtype in (("y", y.dtype), ("a and b", adapters.a[0].dtype)):
        if dtype != x.dtype:
            raise DtypeError(name, expected=f"{x.dtype} like x", found=str(dtype))
    if adapters.rank > MAX_RANK:
        raise BackendError(f"the Triton kernels take ranks up to {MAX_RANK}, and this stack has {adapters.rank}")
    if len(adapters.a) > MAX_SLICES:
        raise BackendError(f"the Triton kernels take up to {MAX_SLICES} slices, and this layer has {len(adapters.a)}")
    for name, stack in (("a", adapters.a), ("b", adapters.b)):
        for index, one in enumerate(stack):
            if not one.is_contiguous():
                raise ShapeError(f"{name}[{index}]", expected="contiguous", found=tuple(one.shape))


def _check_scratch(scratch: DenseScratch | None, tokens: int, slots: int, columns: int) -> DenseScratch:
    if scratch is None:
        raise BackendError("the Triton back end needs a scratch: DenseScratch.allocate(...)")
    limits = (scratch.max_tokens, scratch.max_slots, scratch.max_columns)
    if any(need > limit for need, limit in zip((tokens, slots, columns), limits, strict=True)):
        expected = "at most {} tokens, {} slots and {} columns, as the scratch is".format(*limits)
        raise ShapeError("scratch", expected=expected, found=(tokens, slots, columns))
    return scratch
