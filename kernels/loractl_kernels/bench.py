"""Time a layer's adapters against the bytes that they must move; nothing is timed before its result is found right.

A *seam* is what adapters add to a layer: both deltas, w13's and w2's, and whatever plans them. It is captured in a CUDA
graph and replayed with a cold L2 cache. Every case replays once from known outputs first, and rows of that result are
held against float64; a wrong row raises and leaves no number.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

import torch
from torch import Tensor

from loractl_kernels import ops
from loractl_kernels.errors import BackendError, KernelError
from loractl_kernels.operands import Adapters, Scratch
from loractl_kernels.shapes import MoeShape

BYTES_PER_SECOND: Final = 4.3e12
"""What an H200's memory gives at best; floors of other GPUs want their own."""
TOKENS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MAX_LORAS: Final = 64
_FLUSH_BYTES: Final = 256 << 20
_SAMPLED_PAIRS: Final = 96
_DTYPE: Final = torch.bfloat16
# One rounding of the result to bfloat16; and a rank vector rounded before the outer product: 2**-9 of the delta's
# spread, times what the worst of a million values lies off the mean.
_RELATIVE, _OF_DELTA = 2.0**-8, 2.0**-6

Step: TypeAlias = Callable[[], object]


class GateError(KernelError):
    """A back end computed something wrong, so it is not timed."""

    code = "kernels.gate"


class Skew(StrEnum):
    """How tokens spread over adapters: evenly, or the i-th getting 1/i of what the first gets."""

    UNIFORM = "uniform"
    ZIPF = "zipf"


@dataclass(frozen=True, slots=True)
class LayerCase:
    """One point of the table.

    Attributes:
        tokens: Rows of the batch.
        adapters: Adapters that its rows name, at most.
        max_loras: Slots of the stacks.
        rank: Rank of every adapter.
        base_share: Share of the rows that name no adapter.
    """

    shape: MoeShape
    tokens: int
    adapters: int
    max_loras: int
    rank: int
    base_share: float = 0.0
    skew: Skew = Skew.UNIFORM

    def __str__(self) -> str:
        """Return it in a few words."""
        return (
            f"{self.shape.name} r{self.rank} M={self.tokens} L={self.adapters}/{self.max_loras}"
            f" base={self.base_share:g} {self.skew}"
        )


def matrix(shape: MoeShape, rank: int, tokens: Sequence[int] = TOKENS) -> Iterator[LayerCase]:
    """Yield the cases of one shape and rank; a batch has no more adapters than rows."""
    for count in tokens:
        for adapters, max_loras in ((1, 8), (2, 8), (8, 8), (16, 16), (32, 32), (8, 64)):
            if adapters <= count:
                yield LayerCase(shape, count, adapters, max_loras, rank)
        if count >= 8:
            yield LayerCase(shape, count, 8, 8, rank, base_share=0.5)
            yield LayerCase(shape, count, 8, 8, rank, skew=Skew.ZIPF)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The operands of one case; views of its workspace.

    Attributes:
        x: [tokens, hidden].
        act: [pairs, intermediate].
        y13: [pairs, 2 * intermediate], updated by a step.
        y2: [pairs, hidden], updated by a step.
        topk_ids: [tokens, top_k] int32.
        topk_weight: [tokens, top_k] fp32.
        token_slot: [tokens] int32.
        slot_enabled: [max_loras + 1] int32.
    """

    case: LayerCase
    x: Tensor
    act: Tensor
    y13: Tensor
    y2: Tensor
    topk_ids: Tensor
    topk_weight: Tensor
    token_slot: Tensor
    slot_enabled: Tensor
    w13: Adapters
    w2: Adapters
    scratch: Scratch

    def floors(self) -> Floors:
        """Return the bytes that this batch must move at least."""
        shape, rank = self.case.shape, self.case.rank
        has_adapter = self.token_slot >= 0
        keys = self.token_slot[has_adapter, None].long() * shape.experts + self.topk_ids[has_adapter]
        hits, tokens = int(torch.bincount(keys.flatten()).count_nonzero()), int(has_adapter.sum())
        weights = hits * rank * shape.elements_per_rank * _DTYPE.itemsize
        outputs = 2 * (2 * shape.intermediate + shape.hidden)
        per_token = shape.hidden + shape.top_k * (shape.intermediate + outputs)
        return Floors(weights, weights + tokens * per_token * _DTYPE.itemsize)


@dataclass(frozen=True, slots=True)
class Floors:
    """Bytes that a seam must move.

    Attributes:
        weights: A and B of each (expert, adapter) that is hit, once.
        seam: Those; x and act; and a read and a write of both outputs, in the rows that name an adapter.
    """

    weights: int
    seam: int

    def seam_us(self, bytes_per_second: float = BYTES_PER_SECOND) -> float:
        """Return how long the seam takes at least, in microseconds."""
        return self.seam / bytes_per_second * 1e6

    def weights_us(self, bytes_per_second: float = BYTES_PER_SECOND) -> float:
        """Return how long the weights alone take at least, in microseconds."""
        return self.weights / bytes_per_second * 1e6


class Workspace:
    """The memory of one shape and rank, shared by its cases: stacks of `max_loras` slots and a largest batch."""

    def __init__(
        self,
        shape: MoeShape,
        rank: int,
        device: torch.device,
        *,
        max_tokens: int = TOKENS[-1],
        max_loras: int = MAX_LORAS,
    ) -> None:
        self._device, self._random = device, torch.Generator(device).manual_seed(7)
        pairs, wide = max_tokens * shape.top_k, 2 * shape.intermediate // shape.slices
        stack = (max_loras, shape.experts)
        self._a13 = tuple(
            self._signed(*stack, rank, shape.hidden, spread=shape.hidden**-0.5) for _ in range(shape.slices)
        )
        self._b13 = tuple(self._signed(*stack, wide, rank, spread=rank**-0.5) for _ in range(shape.slices))
        self._a2 = (self._signed(*stack, rank, shape.intermediate, spread=shape.intermediate**-0.5),)
        self._b2 = (self._signed(*stack, shape.hidden, rank, spread=rank**-0.5),)
        self._x, self._act = self._signed(max_tokens, shape.hidden), self._signed(pairs, shape.intermediate)
        self.before13, self.before2 = self._signed(pairs, 2 * shape.intermediate), self._signed(pairs, shape.hidden)
        self._y13, self._y2 = torch.empty_like(self.before13), torch.empty_like(self.before2)
        self._scratch = Scratch.allocate(
            max_tokens=max_tokens,
            top_k=shape.top_k,
            experts=shape.experts,
            slots=max_loras,
            max_columns=shape.slices * rank,
            device=device,
        )

    def _signed(self, *shape: int, spread: float = 1.0) -> Tensor:
        values = torch.randn(*shape, generator=self._random, device=self._device, dtype=_DTYPE)
        return values.mul_(spread) if spread != 1.0 else values

    def batch(self, case: LayerCase) -> Batch:
        """Return the operands of `case`; those of the case before share their memory."""
        shape, device = case.shape, self._device
        random = torch.Generator(device).manual_seed(case.tokens)
        scores = torch.rand(case.tokens, shape.experts, generator=random, device=device)
        weight, ids = scores.topk(shape.top_k)
        pairs = case.tokens * shape.top_k
        slots = slice(case.max_loras)
        return Batch(
            case,
            x=self._x[: case.tokens],
            act=self._act[:pairs],
            y13=self._y13[:pairs],
            y2=self._y2[:pairs],
            topk_ids=ids.to(torch.int32),
            topk_weight=weight / weight.sum(dim=1, keepdim=True),
            token_slot=_token_slots(case, random).to(torch.int32),
            slot_enabled=torch.ones(case.max_loras + 1, dtype=torch.int32, device=device),
            w13=Adapters(tuple(a[slots] for a in self._a13), tuple(b[slots] for b in self._b13)),
            w2=Adapters(tuple(a[slots] for a in self._a2), tuple(b[slots] for b in self._b2)),
            scratch=self._scratch,
        )

    def reset(self, batch: Batch) -> None:
        """Set the outputs back to what they were before any delta."""
        batch.y13.copy_(self.before13[: len(batch.y13)])
        batch.y2.copy_(self.before2[: len(batch.y2)])

    def check(self, batch: Batch, who: str, slack: float = 1.0) -> None:
        """Hold the outputs of one step, made from `reset` ones, against float64; `slack` widens the bound.

        Raises:
            GateError: A row is wrong, or one without an adapter has changed.
        """
        slot = batch.token_slot.long().repeat_interleave(batch.case.shape.top_k)
        expert, weight = batch.topk_ids.long().flatten(), batch.topk_weight.flatten().double()
        before = (self.before13[: len(slot)], self.before2[: len(slot)])
        is_base = slot < 0
        for found, was in zip((batch.y13, batch.y2), before, strict=True):
            if bool(is_base.any()) and not torch.equal(found[is_base], was[is_base]):
                raise GateError(f"{who}: {batch.case}: a row without an adapter has changed")
        rows = torch.where(~is_base)[0]
        rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED_PAIRS), device=rows.device).long()]
        first = _delta(batch.x[rows // batch.case.shape.top_k], batch.w13, slot[rows], expert[rows])
        second = _delta(batch.act[rows], batch.w2, slot[rows], expert[rows]) * weight[rows, None]
        _compare(f"{who}: {batch.case}: w13", batch.y13[rows], before[0][rows], first, slack)
        _compare(f"{who}: {batch.case}: w2", batch.y2[rows], before[1][rows], second, slack)


def _token_slots(case: LayerCase, random: torch.Generator) -> Tensor:
    """Return [tokens] slots, spread over the stack, in no order; the rows of the base model are -1."""
    device = random.device
    base = int(case.tokens * case.base_share)
    count = case.tokens - base
    if case.skew is Skew.UNIFORM:
        chosen = torch.arange(count, device=device) % case.adapters
    else:
        shares = 1 / torch.arange(1, case.adapters + 1, device=device)
        chosen = torch.multinomial(shares, count, replacement=True, generator=random)
    slots = torch.cat((chosen * (case.max_loras // case.adapters), torch.full((base,), -1, device=device)))
    return slots[torch.randperm(case.tokens, generator=random, device=device)]


def _delta(x: Tensor, adapters: Adapters, slot: Tensor, expert: Tensor) -> Tensor:
    """Return the [rows, out_features] deltas of rows of x, in float64."""
    parts: list[Tensor] = []
    for a, b in zip(adapters.a, adapters.b, strict=True):
        shrunk = a[slot, expert].double() @ x.double()[:, :, None]
        parts.append((b[slot, expert].double() @ shrunk)[:, :, 0])
    return torch.cat(parts, dim=1)


def _compare(who: str, found: Tensor, before: Tensor, delta: Tensor, slack: float) -> None:
    wanted = before.double() + delta
    spread = delta.square().mean().sqrt()
    excess = (found.double() - wanted).abs() - slack * (_RELATIVE * wanted.abs() + _OF_DELTA * spread)
    # A NaN is no excess, and no pass either.
    if not bool((excess <= 0).all()):
        row = int(excess.nan_to_num(nan=torch.inf).amax(dim=1).argmax())
        raise GateError(f"{who}: sampled row {row} of {len(found)} is off by {float(excess[row].max()):.3g} too much")


class LayerBackend(Protocol):
    """Who adds the deltas.

    Attributes:
        slack: How many times our own bound its error may be; vLLM rounds a delta once more than we do.
    """

    name: str
    slack: float

    def prepare(self, batch: Batch) -> Step:
        """Return the seam of `batch` as something that a CUDA graph can capture."""
        ...


class LoractlBackend:
    """Our kernels at the hook that suits every engine: deltas added in place, plan included."""

    name = "loractl"
    slack = 1.0

    def prepare(self, batch: Batch) -> Step:
        """Return route, w13 and w2."""
        case = batch.case

        def step() -> None:
            routing = ops.route(
                batch.topk_ids,
                batch.token_slot,
                batch.slot_enabled,
                experts=case.shape.experts,
                slots=case.max_loras,
                scratch=batch.scratch,
            )
            ops.expand_add(batch.y13, ops.shrink(batch.x, batch.w13, routing), batch.w13, routing)
            shrunk = ops.shrink(batch.act, batch.w2, routing, is_second=True)
            ops.expand_add(batch.y2, shrunk, batch.w2, routing, pair_weight=batch.topk_weight)

        return step


@dataclass(frozen=True, slots=True)
class Timing:
    """Percentiles of the replays of one graph, in microseconds."""

    p20_us: float
    p50_us: float
    p80_us: float

    @classmethod
    def of(cls, times_us: Sequence[float]) -> Timing:
        """Return the percentiles of at least two times."""
        tenths = statistics.quantiles(times_us, n=10, method="inclusive")
        return cls(tenths[1], statistics.median(times_us), tenths[7])


class GraphTimer:
    """Captures steps in CUDA graphs and times their replays, each with a cold L2 cache.

    All graphs share a pool of memory, which one small graph keeps alive; so only the newest may be replayed.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise BackendError("timing needs a CUDA GPU, and there is none here")
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._anchor = self.capture(self._flush[:1].zero_)

    def capture(self, step: Step) -> torch.cuda.CUDAGraph:
        """Run `step` once and capture it once."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool)
            try:
                step()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph

    def measure(self, graph: torch.cuda.CUDAGraph, reps: int) -> Timing:
        """Replay `graph` `reps` times; the host waits once, so its speed is not measured."""
        marks = [(_mark(), _mark()) for _ in range(reps)]
        for start, end in marks:
            self._flush.zero_()
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return Timing.of([start.elapsed_time(end) * 1e3 for start, end in marks])


def _mark() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def time_case(
    backend: LayerBackend, workspace: Workspace, batch: Batch, timer: GraphTimer, *, reps: int = 30
) -> Timing:
    """Check and time one case.

    Raises:
        GateError: The result is wrong.
        BackendError: The back end cannot do this here.
    """
    graph = timer.capture(backend.prepare(batch))
    workspace.reset(batch)
    graph.replay()
    workspace.check(batch, backend.name, backend.slack)
    return timer.measure(graph, reps)
