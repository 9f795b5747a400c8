"""Recording what happens to requests, in constant time and in memory that does not grow."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loractl.observability.candidates import Candidates
from loractl.observability.definitions import (
    BUSY_SECONDS,
    COLD,
    ERROR_REQUESTS,
    FOLDED,
    FOLDS,
    INPUT_TOKENS,
    INTER_TOKEN_LATENCY,
    OTHER,
    OUTPUT_TOKENS,
    QUEUE_TIME,
    RECORDS_DROPPED,
    RECORDS_WRITTEN,
    REFUSED_REQUESTS,
    REQUESTS,
    TIME_TO_FIRST_TOKEN,
    TOTAL_LATENCY,
    WARM,
)
from loractl.observability.outcomes import DropReason, Outcome
from loractl.observability.series import NS, LabelSet, Series, nanoseconds
from loractl.observability.snapshot import Snapshot

_LONGEST_LABEL = 128
_KEPT_REVOCATIONS = 1024
# A newcomer replaces series of a label set that is used half as much, so that two equals do not take turns.
_LEAD = 2.0
_LEAST_USES = 4.0


@dataclass(frozen=True, slots=True)
class MetricsLimits:
    """How much is remembered.

    Attributes:
        max_series: Label sets that have series of their own; everything else is counted under `OTHER`.
        max_candidates: Label sets without series whose use is followed, so that they may get some.
        half_life_s: After this long a use counts half for the ranking.
    """

    max_series: int = 100
    max_candidates: int = 256
    half_life_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Timings:
    """How long the parts of a request took, in seconds.

    Attributes:
        first_token_s: From arrival; None if no token came, or all came at once.
        busy_s: In the engine.
    """

    queue_s: float
    first_token_s: float | None
    busy_s: float
    total_s: float


class Metrics:
    """The counters of one server. Safe to use from any thread; each call holds one lock for microseconds.

    The label sets that are used most have series of their own. A set that loses them, because others are used more or
    because it was revoked, leaves its counts under `FOLDED` and goes on under `OTHER`: the sum over all label sets is
    exactly what was recorded, at any time, and ``rate`` over everything but `FOLDED` never counts anything twice.

    Args:
        now: A clock that does not go backwards, in seconds.
    """

    def __init__(self, limits: MetricsLimits | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or MetricsLimits()
        self.now = now
        self.lock = threading.Lock()
        self._series: dict[LabelSet, Series] = {}
        self._other = Series(LabelSet(OTHER, OTHER, OTHER))
        self._folded = Series(LabelSet(FOLDED, FOLDED, FOLDED))
        self._candidates = Candidates(self._limits.max_candidates)
        self._revoked: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._resident: tuple[tuple[str, str], ...] = ()
        self._unreviewed: tuple[tuple[str, str], ...] = ()
        self._own = dict.fromkeys(
            [(FOLDS, ""), (RECORDS_WRITTEN, ""), *((RECORDS_DROPPED, reason) for reason in DropReason)], 0
        )
        self._ranked_at = now()

    def begin(self, labels: LabelSet, *, arrived: float | None = None) -> Running:
        """Note that a request waits for its turn; whoever calls this calls `Running.end`, whatever happens.

        Args:
            labels: Who it is for, and whose it is.
            arrived: When it arrived, on this object's clock; None means now.
        """
        arrived = self.now() if arrived is None else arrived
        with self.lock:
            series = self._series_of(labels)
            series.waiting += 1
        return Running(self, series, arrived)

    def turned_away(self, labels: LabelSet, outcome: Outcome) -> None:
        """Count a request that ended before it could begin. What the client wrote is no label: use `UNKNOWN`."""
        with self.lock:
            count_end(self._series_of(labels), outcome)

    def revoked(self, adapter: str, version: str) -> None:
        """Drop every series of a version that will never serve again; late events of it are counted under `OTHER`."""
        with self.lock:
            self._revoked[adapter, version] = None
            if len(self._revoked) > _KEPT_REVOCATIONS:
                self._revoked.popitem(last=False)
            self._drop([each for each in self._series if each[:2] == (adapter, version)])

    def retired(self, adapter: str, version: str) -> None:
        """Drop every series of a version that may come back."""
        with self.lock:
            self._drop([each for each in self._series if each[:2] == (adapter, version)])

    def tenant_removed(self, tenant: str) -> None:
        """Drop every series of `tenant`."""
        with self.lock:
            self._drop([each for each in self._series if each.tenant == tenant])

    def resident(self, versions: Iterable[tuple[str, str]]) -> None:
        """Note which adapter versions, as (adapter, version), have their weights in the engine's slots now."""
        found = tuple(sorted(set(versions)))
        with self.lock:
            self._resident = found

    def unreviewed(self, versions: Iterable[tuple[str, str]]) -> None:
        """Note which adapter versions, as (adapter, version), serve by break-glass now."""
        found = tuple(sorted(set(versions)))
        with self.lock:
            self._unreviewed = found

    def records_written(self, count: int) -> None:
        """Count records that were kept."""
        with self.lock:
            self._own[RECORDS_WRITTEN, ""] += count

    def records_dropped(self, reason: DropReason, count: int) -> None:
        """Count records that were lost."""
        with self.lock:
            self._own[RECORDS_DROPPED, reason] += count

    def dropped(self) -> dict[DropReason, int]:
        """Return how many records were lost so far, by why; without the reasons that lost none."""
        with self.lock:
            counts = {reason: self._own[RECORDS_DROPPED, reason] for reason in DropReason}
        return {reason: count for reason, count in counts.items() if count}

    def snapshot(self) -> Snapshot:
        """Return all numbers of one moment, after giving series to the label sets that are used most."""
        with self.lock:
            self._rank()
            states = tuple(each.copy() for each in (*self._series.values(), self._other, self._folded))
            return Snapshot(states, self._resident, self._unreviewed, dict(self._own), self._limits.max_series)

    def _series_of(self, labels: LabelSet) -> Series:
        series = self._series.get(labels)
        if series is not None:
            series.uses += 1
            return series
        if not self._may_have_series(labels):
            return self._other
        if len(self._series) < self._limits.max_series:
            series = self._series[labels] = Series(labels, uses=1.0)
            return series
        self._candidates.offer(labels)
        return self._other

    def _may_have_series(self, labels: LabelSet) -> bool:
        return (
            max(map(len, labels)) <= _LONGEST_LABEL
            and all(map(str.isprintable, labels))
            and OTHER not in labels
            and FOLDED not in labels
            and labels[:2] not in self._revoked
        )

    def _rank(self) -> None:
        now = self.now()
        factor = 0.5 ** (max(now - self._ranked_at, 0.0) / self._limits.half_life_s)
        self._ranked_at = now
        for series in self._series.values():
            series.uses *= factor
        self._candidates.age(factor)
        weakest = iter(sorted(self._series.values(), key=lambda each: each.uses))
        for labels, uses in self._candidates.ranked():
            if not self._may_have_series(labels):
                self._candidates.forget(labels)
                continue
            if len(self._series) >= self._limits.max_series:
                loser = next(weakest, None)
                if loser is None or uses < max(_LEAD * loser.uses, _LEAST_USES):
                    break
                self._drop([loser.labels])
            self._candidates.forget(labels)
            self._series[labels] = Series(labels, uses=uses)

    def _drop(self, dropped: list[LabelSet]) -> None:
        for labels in dropped:
            self._series.pop(labels).fold_into(self._folded, self._other)
        self._own[FOLDS, ""] += len(dropped)


def count_end(series: Series, outcome: Outcome) -> None:
    """Count one request that ended."""
    series.counters[REQUESTS, ""] += 1
    if outcome.is_error:
        series.counters[ERROR_REQUESTS, outcome] += 1
    elif outcome.is_refusal:
        series.counters[REFUSED_REQUESTS, outcome] += 1


class Running:
    """One request from the moment it waits until its answer has ended."""

    __slots__ = ("_admitted", "_arrived", "_first_token", "_last_token", "_metrics", "_series", "_start", "_timings")

    def __init__(self, metrics: Metrics, series: Series, arrived: float) -> None:
        self._metrics = metrics
        self._series = series
        self._arrived = arrived
        self._admitted: float | None = None
        self._first_token: float | None = None
        self._last_token = arrived
        self._start = WARM
        self._timings: Timings | None = None

    def admitted(self, *, is_cold: bool = False) -> None:
        """Note that the engine gets the request; `is_cold` if its adapter has to be brought into a slot first."""
        now = self._metrics.now()
        with self._metrics.lock:
            if self._admitted is not None or self._timings is not None:
                return
            self._admitted = now
            self._start = COLD if is_cold else WARM
            series = self._here()
            series.waiting -= 1
            series.in_flight += 1
            series.observe((QUEUE_TIME, ""), nanoseconds(now - self._arrived))

    def tokens(self, left: Sequence[float]) -> None:
        """Note when tokens left for the client, on this object's clock; several that leave together are one event."""
        with self._metrics.lock:
            if self._timings is not None:
                return
            series = self._here()
            for now in left:
                if self._first_token is None:
                    self._first_token = now
                    series.observe((TIME_TO_FIRST_TOKEN, self._start), nanoseconds(now - self._arrived))
                else:
                    series.observe((INTER_TOKEN_LATENCY, ""), nanoseconds(now - self._last_token))
                self._last_token = now

    def end(self, outcome: Outcome, *, input_tokens: int = 0, output_tokens: int = 0) -> Timings:
        """Count the request as ended; the first call counts, every call returns the same timings."""
        now = self._metrics.now()
        with self._metrics.lock:
            if self._timings is not None:
                return self._timings
            series = self._here()
            total_ns = nanoseconds(now - self._arrived)
            busy_ns = 0
            if self._admitted is None:
                series.waiting -= 1
                queue_s = total_ns / NS
            else:
                series.in_flight -= 1
                busy_ns = nanoseconds(now - self._admitted)
                queue_s = nanoseconds(self._admitted - self._arrived) / NS
                series.observe((TOTAL_LATENCY, self._start), total_ns)
            count_end(series, outcome)
            series.counters[INPUT_TOKENS, ""] += max(input_tokens, 0)
            series.counters[OUTPUT_TOKENS, ""] += max(output_tokens, 0)
            series.counters[BUSY_SECONDS, ""] += busy_ns
            first_s = None if self._first_token is None else nanoseconds(self._first_token - self._arrived) / NS
            self._timings = Timings(queue_s, first_s, busy_ns / NS, total_ns / NS)
            return self._timings

    def _here(self) -> Series:
        # What takes over is never dropped itself, so that one step is enough.
        if self._series.successor is not None:
            self._series = self._series.successor
        return self._series
