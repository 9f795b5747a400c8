"""Random layers for checks and benchmarks, each as odd as its case asks for.

Values are signed with mean zero, of a size that makes rank vectors, deltas and results about 1. What no operation may
read is NaN: A and B beyond a slot's true rank, slots that are off, and the base's rows of pairs without an expert.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from loractl_kernels.operands import Adapters
from loractl_kernels.reference import Gate, Gating


@dataclass(frozen=True, slots=True)
class Case:
    """What a layer and its batch are like.

    Attributes:
        tokens: Rows of the batch.
        top_k: Experts a token goes to.
        experts: Experts of the layer.
        slots: Slots of the stacks.
        hidden: Columns of the layer's input.
        intermediate: Columns of gate, and of up.
        rank: Rank of the stacks.
        slices: 1 where gate and up share an A, 2 where each has its own.
        dtype: Of all operands but the integers and the routing weights, which are float32.
        gate: The activation; ``swiglu_oai`` interleaves gate and up.
        base_share: Share of tokens without an adapter.
        stale_share: Share of tokens whose slot is one that the stacks do not have.
        missing_share: Share of pairs without an expert.
        off_slots: Slots that are off.
        expert: The expert of every pair; None for experts at random.
        has_mixed_ranks: Whether slots have true ranks of their own.
        has_shared_a: Whether all experts share one A.
        is_skewed: Whether slot s is ``s + 1`` times rarer than slot 0 (Zipf).
        is_sparse: Whether only every second expert has pairs.
        is_integer: Whether all values are small integers, so that every product and sum is exact.
        ids_dtype: Of experts and slots.
        padding: Columns between two rows of an input or output.
        seed: Of the random numbers.
    """

    tokens: int
    top_k: int = 2
    experts: int = 4
    slots: int = 3
    hidden: int = 96
    intermediate: int = 80
    rank: int = 8
    slices: int = 1
    dtype: torch.dtype = torch.bfloat16
    gate: Gate = Gate.SILU
    base_share: float = 0.25
    stale_share: float = 0.0
    missing_share: float = 0.0
    off_slots: tuple[int, ...] = ()
    expert: int | None = None
    has_mixed_ranks: bool = False
    has_shared_a: bool = False
    is_skewed: bool = False
    is_sparse: bool = False
    is_integer: bool = False
    ids_dtype: torch.dtype = torch.int32
    padding: int = 0
    seed: int = 0

    @property
    def label(self) -> str:
        """Sizes, then what sets the case apart."""
        sizes = f"M{self.tokens} k{self.top_k} E{self.experts} L{self.slots} H{self.hidden} I{self.intermediate}"
        marks = {
            f"off{self.off_slots}": self.off_slots, "stale": self.stale_share, "missing": self.missing_share,
            f"expert{self.expert}": self.expert is not None, "mixed": self.has_mixed_ranks,
            "shared-a": self.has_shared_a, "zipf": self.is_skewed, "sparse": self.is_sparse,
            "integer": self.is_integer, "ids64": self.ids_dtype == torch.int64, "padded": self.padding,
            "all-base": self.base_share == 1.0,
        }  # fmt: skip
        shown = " ".join(name for name, is_set in marks.items() if is_set)
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{sizes} r{self.rank}x{self.slices} {dtype} {self.gate} {shown}".strip()


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The operands of one layer for one batch.

    Attributes:
        case: What it was made from.
        x: [tokens, hidden], the layer's input.
        y13: [pairs, 2 * intermediate], the base's gate and up.
        act: [pairs, intermediate], an input of the down projection; it need not belong to `y13`.
        y2: [pairs, hidden], the base's result, routing weights in it.
        w13: Adapters of gate and up.
        w2: Adapters of the down projection.
        topk_ids: [tokens, top_k].
        token_slot: [tokens].
        slot_enabled: [2 * slots], on for the stale slots too.
        weight: [tokens, top_k] float32.
    """

    case: Case
    x: Tensor
    y13: Tensor
    act: Tensor
    y2: Tensor
    w13: Adapters
    w2: Adapters
    topk_ids: Tensor
    token_slot: Tensor
    slot_enabled: Tensor
    weight: Tensor

    @property
    def gating(self) -> Gating:
        """The layer's activation."""
        return Gating(self.case.gate)

    def keys(self) -> Tensor:
        """Return [pairs] slot * experts + expert of each pair, -1 where it has no adapter."""
        slots, experts = self.case.slots, self.case.experts
        slot = self.token_slot.long()[:, None].expand(self.topk_ids.shape).flatten()
        expert = self.topk_ids.long().flatten()
        is_known = (slot >= 0) & (slot < slots)
        is_on = is_known & (self.slot_enabled.long()[torch.where(is_known, slot, 0)] != 0)
        return torch.where(is_on & (expert >= 0), slot * experts + expert, -1)

    def take(self, tokens: Tensor) -> Self:
        """Return the layer with these tokens only, [count] int64, in the order given."""
        top_k = self.case.top_k
        pairs = (tokens[:, None] * top_k + torch.arange(top_k, device=tokens.device)).flatten()
        return replace(
            self,
            case=replace(self.case, tokens=tokens.numel()),
            x=self.x[tokens],
            y13=self.y13[pairs],
            act=self.act[pairs],
            y2=self.y2[pairs],
            topk_ids=self.topk_ids[tokens],
            token_slot=self.token_slot[tokens],
            weight=self.weight[tokens],
        )

    def with_slot_changed(self, slot: int) -> Self:
        """Return the layer with other weights in `slot`, of the same true rank, and the rest as it was."""
        return replace(self, w13=_negated(self.w13, slot), w2=_negated(self.w2, slot))


def make_layer(case: Case, device: torch.device | str = "cpu") -> Layer:
    """Return the layer of `case`; the same one each time on one kind of device."""
    random = torch.Generator(device).manual_seed(case.seed)
    pairs, wide = case.tokens * case.top_k, 2 * case.intermediate
    topk_ids, token_slot = _experts(case, random), _slots(case, random)
    enabled = torch.ones(2 * case.slots, dtype=torch.int32, device=device)
    enabled[list(case.off_slots)] = 0
    y2 = _values(case, random, pairs, case.hidden)
    y2[topk_ids.flatten() < 0] = float("nan")
    ranks = _true_ranks(case, device)
    weight = torch.rand(case.tokens, case.top_k, generator=random, device=device) + 0.1
    return Layer(
        case=case,
        x=_values(case, random, case.tokens, case.hidden),
        y13=_values(case, random, pairs, wide),
        act=_values(case, random, pairs, case.intermediate),
        y2=y2,
        w13=_adapters(case, random, case.hidden, wide // case.slices, case.slices, ranks),
        w2=_adapters(case, random, case.intermediate, case.hidden, 1, ranks),
        topk_ids=topk_ids.to(case.ids_dtype),
        token_slot=token_slot.to(case.ids_dtype),
        slot_enabled=enabled,
        weight=weight.mul(2).ceil() if case.is_integer else weight,
    )


def _values(case: Case, random: torch.Generator, rows: int, columns: int) -> Tensor:
    whole = torch.full((rows, columns + case.padding), float("nan"), dtype=case.dtype, device=random.device)
    values = whole[:, :columns]
    values.copy_(_normal(case, random, (rows, columns), 1.0))
    return values


def _normal(case: Case, random: torch.Generator, shape: tuple[int, ...], scale: float) -> Tensor:
    """Return normal values, or -1, 0 and 1, so few of them not 0 that sums over a row stay small."""
    drawn = torch.randn(*shape, generator=random, device=random.device)
    if not case.is_integer:
        return drawn * scale
    return drawn.sign() * (torch.rand(*shape, generator=random, device=random.device) < min(1.0, 4 * scale))


def _experts(case: Case, random: torch.Generator) -> Tensor:
    """Return [tokens, top_k] experts; those of a token differ where there are enough."""
    step = 2 if case.is_sparse else 1
    eligible = -(-case.experts // step)
    shape, device = (case.tokens, case.top_k), random.device
    if case.expert is not None:
        ids = torch.full(shape, case.expert, device=device)
    elif eligible >= case.top_k:
        ids = torch.rand(case.tokens, eligible, generator=random, device=device).argsort(dim=1)[:, : case.top_k] * step
    else:
        ids = torch.randint(0, eligible, shape, generator=random, device=device) * step
    is_missing = torch.rand(*shape, generator=random, device=device) < case.missing_share
    return torch.where(is_missing, -1, ids).contiguous()


def _slots(case: Case, random: torch.Generator) -> Tensor:
    """Return [tokens] slots, -1 for the base model, slots or more for a stale one."""
    odds = 1.0 / torch.arange(1, case.slots + 1, device=random.device).float()
    if not case.is_skewed:
        odds = torch.ones_like(odds)
    if case.tokens == 0:
        return torch.empty(0, dtype=torch.int64, device=random.device)
    drawn = torch.multinomial(odds, case.tokens, replacement=True, generator=random)
    share = torch.rand(case.tokens, generator=random, device=random.device)
    stale = torch.where(share < case.base_share + case.stale_share, case.slots + drawn, drawn)
    return torch.where(share < case.base_share, -1, stale)


def _true_ranks(case: Case, device: torch.device | str) -> Tensor | None:
    """Return [slots] ranks that halve from slot to slot and start again at 1, or None."""
    if not case.has_mixed_ranks:
        return None
    steps = case.rank.bit_length()
    return torch.tensor([max(1, case.rank >> (slot % steps)) for slot in range(case.slots)], device=device).int()


def _adapters(
    case: Case, random: torch.Generator, width: int, height: int, slices: int, ranks: Tensor | None
) -> Adapters:
    experts_of_a = 1 if case.has_shared_a else case.experts
    shape_a = (case.slots, experts_of_a, case.rank, width)
    shape_b = (case.slots, case.experts, height, case.rank)
    a = [_normal(case, random, shape_a, width**-0.5).to(case.dtype) for _ in range(slices)]
    b = [_normal(case, random, shape_b, case.rank**-0.5).to(case.dtype) for _ in range(slices)]
    for slot in range(case.slots):
        rank = 0 if slot in case.off_slots else case.rank if ranks is None else int(ranks[slot])
        for stack_a, stack_b in zip(a, b, strict=True):
            stack_a[slot, :, rank:] = float("nan")
            stack_b[slot, :, :, rank:] = float("nan")
    return Adapters(tuple(stack.expand(-1, case.experts, -1, -1) for stack in a), tuple(b), ranks)


def _negated(adapters: Adapters, slot: int) -> Adapters:
    b = tuple(stack.clone() for stack in adapters.b)
    for stack in b:
        stack[slot] *= -2
    return replace(adapters, b=b)
