"""Find the fastest launch of each kernel on this GPU and keep it, entry by entry, in the user's folder.

From the launch in use, one number is varied at a time, until nothing gets faster. A candidate counts only if it gives
the bits that the default launch gives: results must not depend on the size of the batch, and each size has its launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor

from loractl_kernels import ops
from loractl_kernels._triton import configs
from loractl_kernels._triton.configs import BUCKETS, Key, Launch
from loractl_kernels.bench import Batch, GateError, GraphTimer, LayerCase, Workspace
from loractl_kernels.operands import Adapters, Routing, Shrunk
from loractl_kernels.reference import Gate, Gating, sum_top_k
from loractl_kernels.shapes import MoeShape

LARGEST_TOKENS: Final = 4096
_WARPS: Final = (1, 2, 4, 8)
_PROGRAMS: Final = (2, 4, 8, 16, 32)
_EXPAND: Final = {
    "block_n": (32, 64, 128, 256),
    "num_warps": _WARPS,
    "num_stages": (1, 2, 3, 4),
    "programs_per_sm": _PROGRAMS,
}
_SUM: Final = {"block_n": (64, 128, 256, 512, 1024), "num_warps": _WARPS}
AXES: Final[Mapping[str, Mapping[str, Sequence[int]]]] = MappingProxyType(
    {
        "shrink_small": {"block_k": (32, 64, 128), "num_warps": _WARPS, "num_stages": (1, 2, 3, 4, 6)},
        "shrink_tiled": {
            "block_k": (32, 64, 128),
            "num_warps": _WARPS,
            "num_stages": (2, 3, 4, 5),
            "programs_per_sm": _PROGRAMS,
        },
        "expand_small": _EXPAND,
        "expand_tiled": _EXPAND,
        "activate_small": _EXPAND,
        "activate_tiled": _EXPAND,
        "sum_small": _SUM,
        "sum_tiled": _SUM,
    }
)
"""Which numbers of a launch each kernel reads, and what is tried for them."""
_OPERATIONS: Final = (("shrink", "expand", "activate"), ("shrink", "expand", "sum"))
_CLEARLY: Final = 0.99
_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class Search:
    """One entry to find.

    Attributes:
        is_second: Whether it is for the down projection, w2.
    """

    shape: MoeShape
    rank: int
    key: Key
    is_second: bool

    @property
    def tokens(self) -> int:
        """Rows of the batch that it is tuned on: the largest of its bucket, where that has an end."""
        return LARGEST_TOKENS if self.key.max_pairs is None else max(1, self.key.max_pairs // self.shape.top_k)

    def __str__(self) -> str:
        """Return it in a few words."""
        bound = "more" if self.key.max_pairs is None else f"<= {self.key.max_pairs}"
        return f"{self.shape.name} r{self.rank} {'w2' if self.is_second else 'w13'} {self.key.kernel}, {bound} pairs"


@dataclass(frozen=True, slots=True)
class Found:
    """What one search found.

    Attributes:
        before_us: Median time with the launch that was in use.
        after_us: Median time with `launch`.
        tried: Launches that were timed.
        refused: Launches that do not run, or whose result differs.
    """

    search: Search
    launch: Launch
    before_us: float
    after_us: float
    tried: int
    refused: int


class Judge(Protocol):
    """Times one launch; infinite if it does not run or its result differs."""

    def __call__(self, search: Search, launch: Launch) -> float:
        """Return microseconds."""
        ...


def searches(families: Sequence[tuple[MoeShape, int]], kernels: Sequence[str] = tuple(BUCKETS)) -> list[Search]:
    """Return what there is to find for some shapes and ranks, without the sizes that two of them share."""
    found: dict[Key, Search] = {}
    for shape, rank in families:
        projections = (
            (shape.hidden, 2 * shape.intermediate, shape.slices * rank),
            (shape.intermediate, shape.hidden, rank),
        )
        for is_second, sizes in enumerate(projections):
            for operation in _OPERATIONS[is_second]:
                for kernel in (f"{operation}_small", f"{operation}_tiled"):
                    for bucket in BUCKETS[kernel] if kernel in kernels else ():
                        key = Key(kernel, bucket, *sizes)
                        found.setdefault(key, Search(shape, rank, key, bool(is_second)))
    return list(found.values())


def open_searches(wanted: Sequence[Search], path: Path) -> list[Search]:
    """Return those whose entry is not in the file yet; so a run that was stopped goes on.

    Raises:
        ConfigError: The file is damaged.
    """
    done = configs.read_table(path) if path.exists() else {}
    return [search for search in wanted if search.key not in done]


def tune(wanted: Sequence[Search], judge: Judge, path: Path, gpu: str) -> Iterator[Found]:
    """Find the entries one by one; each is in the file before it is yielded.

    Raises:
        ConfigError: The file is damaged; it is not touched.
        GateError: The launch in use gives a wrong result.
    """
    for search in wanted:
        found = find(search, judge, launch_in_use(search, gpu))
        table = configs.read_table(path) if path.exists() else {}
        configs.write_table(path, gpu, table | {search.key: found.launch})
        configs.forget()
        yield found


def launch_in_use(search: Search, gpu: str) -> Launch:
    """Return the launch that a search starts from."""
    return configs.launch_of(search.key, configs.slug_of(gpu))


def find(search: Search, judge: Judge, start: Launch) -> Found:
    """Vary one number at a time, for as long as something gets clearly faster.

    Raises:
        GateError: Not even `start` runs.
    """
    times: dict[Launch, float] = {}

    def time_us(launch: Launch) -> float:
        if launch not in times:
            times[launch] = judge(search, launch)
        return times[launch]

    best = start
    if math.isinf(time_us(start)):
        raise GateError(f"{search}: the launch in use does not run, or its result differs from the default's")
    for _ in range(_ROUNDS):
        before = best
        for name, values in AXES[search.key.kernel].items():
            for value in values:
                candidate = replace(best, **{name: value})
                if time_us(candidate) < _CLEARLY * time_us(best):
                    best = candidate
        if best == before:
            break
    refused = sum(map(math.isinf, times.values()))
    return Found(search, best, times[start], times[best], len(times) - refused, refused)


class GpuJudge:
    """Times launches on this GPU, on one adapter and on eight; keeps the operands of the last shape and rank."""

    def __init__(self, device: torch.device, *, reps: int = 20) -> None:
        self._device, self._reps = device, reps
        self._timer = GraphTimer(device)
        self._family: tuple[MoeShape, int] | None = None
        self._workspace: Workspace | None = None
        self._benches: dict[tuple[Search, int], _Bench] = {}

    def __call__(self, search: Search, launch: Launch) -> float:
        """Return the geometric mean of the medians, in microseconds."""
        try:
            times = [self._time(search, adapters, launch) for adapters in (1, min(8, search.tokens))]
        except GateError:
            raise
        except Exception:  # noqa: BLE001  # a compiler and a GPU refuse in many ways what does not fit them
            return math.inf
        return math.inf if None in times else math.prod(time for time in times if time is not None) ** (1 / len(times))

    def _time(self, search: Search, adapters: int, launch: Launch) -> float | None:
        bench = self._bench(search, adapters)
        with configs.forcing(search.key.kernel, launch):
            if not torch.equal(bench.result(), bench.wanted):
                return None
            return self._timer.measure(self._timer.capture(bench.step()), self._reps).p50_us

    def _bench(self, search: Search, adapters: int) -> _Bench:
        if self._workspace is None or self._family != (search.shape, search.rank):
            self._benches.clear()
            self._workspace = None  # two of them may not fit
            self._workspace = Workspace(search.shape, search.rank, self._device, max_tokens=LARGEST_TOKENS, max_loras=8)
            self._family = (search.shape, search.rank)
        found = self._benches.get((search, adapters))
        if found is None:
            self._benches = {key: bench for key, bench in self._benches.items() if key[0] == search}
            batch = self._workspace.batch(LayerCase(search.shape, search.tokens, adapters, 8, search.rank))
            found = self._benches[search, adapters] = _Bench(search, self._workspace, batch)
        return found


class _Bench:
    """One kernel on one batch; what was planned and shrunk for another one is lost with each `result`.

    Attributes:
        wanted: The result under the default launches, itself found right.
    """

    def __init__(self, search: Search, workspace: Workspace, batch: Batch) -> None:
        shape = search.shape
        self._operation = search.key.kernel.split("_")[0]
        self._is_second = search.is_second
        self._workspace, self._batch = workspace, batch
        self._gating = Gating(Gate.SWIGLU_OAI if shape.is_interleaved else Gate.SILU)
        self._routing = self._route()
        pairs = self._routing.pairs
        rows, columns = (batch.case.tokens, shape.hidden) if self._is_second else (pairs, shape.intermediate)
        self._out = batch.x.new_empty(rows, columns)
        default = configs.launch_of(search.key, "")
        with configs.forcing(search.key.kernel, default):
            self.wanted = self.result().clone()
            self._check()

    def _route(self) -> Routing:
        batch = self._batch
        return ops.route(
            *(batch.topk_ids, batch.token_slot, batch.slot_enabled),
            experts=batch.case.shape.experts,
            slots=batch.case.max_loras,
            scratch=batch.scratch,
        )

    @property
    def _projection(self) -> tuple[Tensor, Tensor, Adapters]:
        batch = self._batch
        return (batch.act, batch.y2, batch.w2) if self._is_second else (batch.x, batch.y13, batch.w13)

    def _shrink(self) -> Shrunk:
        x, _, adapters = self._projection
        return ops.shrink(x, adapters, self._routing, is_second=self._is_second)

    def _expand(self, shrunk: Shrunk) -> Tensor:
        _, y, adapters = self._projection
        routing = self._routing
        weight = self._batch.topk_weight if self._is_second else None
        if self._operation == "activate":
            ops.expand_activate(self._out, y, shrunk, adapters, routing, self._gating)
            return self._out
        if self._operation == "sum":
            ops.expand_sum(self._out, y, shrunk, adapters, routing, pair_weight=self._batch.topk_weight)
            return self._out
        ops.expand_add(y, shrunk, adapters, routing, pair_weight=weight)
        return y

    def result(self) -> Tensor:
        """Return what the projection comes to, from fresh outputs."""
        self._workspace.reset(self._batch)
        self._routing = self._route()
        return self._expand(self._shrink())

    def step(self) -> Callable[[], object]:
        """Return the kernel alone; it works on what the last `result` planned."""
        if self._operation == "shrink":
            return self._shrink
        shrunk = self._shrink()
        return lambda: self._expand(shrunk)

    def _check(self) -> None:
        """Hold `wanted` against float64, or what it is made of; a fused form against its two parts.

        Raises:
            GateError: It is wrong.
        """
        batch = self._batch
        self._workspace.reset(batch)
        for x, y, adapters, weight, is_second in (
            (batch.x, batch.y13, batch.w13, None, False),
            (batch.act, batch.y2, batch.w2, batch.topk_weight, True),
        ):
            shrunk = ops.shrink(x, adapters, self._routing, is_second=is_second)
            ops.expand_add(y, shrunk, adapters, self._routing, pair_weight=weight)
        self._workspace.check(batch, "default launch")
        if self._operation == "activate":
            _check_fused(self.wanted, self._gating(batch.y13), self._operation)
        if self._operation == "sum":
            parts = batch.y2.view(batch.case.tokens, -1, batch.y2.shape[1])
            _check_fused(self.wanted, sum_top_k(parts), self._operation)


def _check_fused(found: Tensor, wanted: Tensor, operation: str) -> None:
    # Each rounds what it reads as the other does; the exponential and the order of a sum may differ in a few bits.
    if not torch.allclose(found.float(), wanted.float(), rtol=2.0**-6, atol=2.0**-6):
        raise GateError(f"default launch: {operation} differs from its two parts")
