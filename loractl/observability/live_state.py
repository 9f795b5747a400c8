"""What a running server does, as one JSON document: what ``GET /loractl/v1/state`` answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import accumulate
from operator import add
from typing import NamedTuple

from loractl.observability.definitions import (
    BASE,
    BUSY_SECONDS,
    ERROR_REQUESTS,
    FOLDED,
    INPUT_TOKENS,
    INTER_TOKEN_LATENCY,
    OUTPUT_TOKENS,
    QUEUE_TIME,
    REFUSED_REQUESTS,
    REQUESTS,
    TIME_TO_FIRST_TOKEN,
    TOTAL_LATENCY,
    Metric,
)
from loractl.observability.series import NS, Key, Series
from loractl.observability.snapshot import Snapshot
from loractl_registry.clock import to_text

FORMAT = 1
"""Raised when a key changes its meaning or goes; keys may be added at any time."""

HISTOGRAMS: Mapping[str, Metric] = {
    "ttft": TIME_TO_FIRST_TOKEN,
    "inter_token": INTER_TOKEN_LATENCY,
    "total": TOTAL_LATENCY,
    "queue": QUEUE_TIME,
}

# Copied and not made for each row, because hashing members of an enumeration takes as long as all the rest.
_ZEROES = {metric: {str(value): 0 for value in metric.values} for metric in (ERROR_REQUESTS, REFUSED_REQUESTS)}


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base model that is served."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """What ``/health`` says.

    Attributes:
        status: ``ok``, or what it is instead.
        reason: Why it is not ok.
    """

    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine can hold.

    Attributes:
        max_num_seqs: Requests that it works on at once.
        slots: Adapters that it holds at once.
        kv_use: Share of its KV cache that is in use, 0 to 1; None if nobody knows.
    """

    max_num_seqs: int
    slots: int
    kv_use: float | None = None


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """A version that the registry knows; whether its weights are in a slot, the snapshot says."""

    name: str
    version: int
    stage: str


class LimitStanding(NamedTuple):
    """One limit and what is left of it; takes the fields of a quota's gauge in their order.

    Attributes:
        reset_s: In how many seconds all of it is free again; 0 where time alone frees nothing.
    """

    kind: str
    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """A tenant, what it may use, and what is left of that.

    Attributes:
        limits: Those that are set, by name.
        priority: The class in which its requests wait.
    """

    name: str
    weight: float = 1.0
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    standing: Sequence[LimitStanding] = ()
    priority: str = "standard"


def live_state(
    snapshot: Snapshot,
    *,
    now: datetime,
    base: BaseFacts,
    health: HealthFacts,
    fairness: str,
    capacity: EngineFacts,
    adapters: Iterable[AdapterFacts],
    tenants: Iterable[TenantFacts],
    uptime_s: float | None = None,
) -> dict[str, object]:
    """Return the document: names and numbers alone, no key, no path, nothing of what was asked or answered.

    Totals count from the start of the server. Those of the whole server never go back; those of one adapter or tenant
    may, when a label set loses series of its own to others that are used more.

    Args:
        snapshot: The numbers of this moment.
        now: This moment, aware.
        base: The base; it is the first of the adapters, with no version and no stage.
        health: What ``/health`` says.
        fairness: Which rule admits requests, ``vtc`` or ``off``.
        capacity: What the engine can hold.
        adapters: Versions to list whether or not they were asked for yet. A version that only the snapshot knows is
            listed too, without a stage.
        tenants: Likewise; one that only the snapshot knows is listed without weight and limits.
        uptime_s: Seconds since the start on a clock that does not go backwards; readers divide by its differences.
    """
    everybody, by_adapter, by_tenant = _tallies(snapshot)
    return {
        "format": FORMAT,
        "at": to_text(now),
        "uptime_s": uptime_s,
        "base": asdict(base),
        "health": asdict(health),
        "fairness": fairness,
        "engine": asdict(capacity),
        **everybody.load(),
        "adapters": _adapters(by_adapter, base=base, known=adapters, resident=snapshot.resident),
        "tenants": _tenants(by_tenant, tenants),
        "totals": everybody.totals(),
    }


class _Tally:
    """What several series hold together."""

    __slots__ = ("_counters", "_histograms", "_in_flight", "_sums_ns", "_waiting")

    def __init__(self) -> None:
        self._waiting = self._in_flight = 0
        self._counters: defaultdict[Key, int] = defaultdict(int)
        self._histograms: dict[Metric, list[int]] = {}
        self._sums_ns: defaultdict[Metric, int] = defaultdict(int)

    def add(self, series: Series) -> None:
        """Take in one more."""
        self._waiting += series.waiting
        self._in_flight += series.in_flight
        for key, count in series.counters.items():
            self._counters[key] += count
        for (metric, _), histogram in series.histograms.items():
            held = self._histograms.get(metric)
            self._histograms[metric] = list(map(add, held, histogram.counts)) if held else histogram.counts
            self._sums_ns[metric] += histogram.sum_ns

    @property
    def is_worth_listing(self) -> bool:
        """Whether anything happened: what has no series of its own is always in a snapshot, mostly empty."""
        return bool(self._counters or self._histograms or self._waiting or self._in_flight)

    def load(self) -> dict[str, int]:
        """Return how many requests there are now."""
        return {"waiting": self._waiting, "in_flight": self._in_flight}

    def totals(self) -> dict[str, object]:
        """Return what was counted since the start."""
        count = self._counters.get
        return {
            "requests": count((REQUESTS, ""), 0),
            "errors": self._by_kind(ERROR_REQUESTS),
            "refused": self._by_kind(REFUSED_REQUESTS),
            "input_tokens": count((INPUT_TOKENS, ""), 0),
            "output_tokens": count((OUTPUT_TOKENS, ""), 0),
            "busy_s": count((BUSY_SECONDS, ""), 0) / NS,
            **{name: self._histogram(metric) for name, metric in HISTOGRAMS.items()},
        }

    def _by_kind(self, metric: Metric) -> dict[str, int]:
        found = _ZEROES[metric].copy()
        found.update((value, count) for (of, value), count in self._counters.items() if of is metric)
        return found

    def _histogram(self, metric: Metric) -> dict[str, object]:
        """Return one; what is beyond the last bucket is in the count alone, because JSON has no infinity."""
        counts = self._histograms.get(metric)
        if counts is None:
            return {"count": 0, "sum_s": 0.0, "buckets": []}
        *cumulative, count = accumulate(counts)
        buckets = [[bound, total] for bound, total in zip(metric.buckets, cumulative, strict=True)]
        return {"count": count, "sum_s": self._sums_ns[metric] / NS, "buckets": buckets}


def _tallies(snapshot: Snapshot) -> tuple[_Tally, dict[tuple[str, str], _Tally], dict[str, _Tally]]:
    everybody = _Tally()
    by_adapter: defaultdict[tuple[str, str], _Tally] = defaultdict(_Tally)
    by_tenant: defaultdict[str, _Tally] = defaultdict(_Tally)
    for series in snapshot.series:
        everybody.add(series)
        # What was folded away is history: it has no row, and nobody's rate goes back for it.
        if series.labels.adapter != FOLDED:
            by_adapter[series.labels.adapter, series.labels.version].add(series)
            by_tenant[series.labels.tenant].add(series)
    return everybody, by_adapter, by_tenant


def _adapters(
    tallies: dict[tuple[str, str], _Tally],
    *,
    base: BaseFacts,
    known: Iterable[AdapterFacts],
    resident: Iterable[tuple[str, str]],
) -> list[dict[str, object]]:
    stages = {(each.name, str(each.version)): each.stage for each in known}
    held = set(resident)
    # The base's own requests are labelled with a word of ours, because an adapter may not have its name either.
    first = _adapter((base.name, ""), None, tallies.pop((BASE, ""), _Tally()), is_resident=True)
    keys = stages.keys() | {key for key, tally in tallies.items() if tally.is_worth_listing}
    rows = (
        _adapter(key, stages.get(key), tallies.get(key, _Tally()), is_resident=key in held)
        for key in sorted(keys, key=lambda key: (key[0], _number(key[1]) or 0))
    )
    return [first, *rows]


def _adapter(key: tuple[str, str], stage: str | None, tally: _Tally, *, is_resident: bool) -> dict[str, object]:
    name, version = key
    return {
        "name": name,
        "version": _number(version),
        "stage": stage,
        "is_resident": is_resident,
        **tally.load(),
        "totals": tally.totals(),
    }


def _number(version: str) -> int | None:
    return int(version) if version.isascii() and version.isdigit() else None


def _tenants(tallies: Mapping[str, _Tally], known: Iterable[TenantFacts]) -> list[dict[str, object]]:
    facts = {each.name: each for each in known}
    names = sorted(facts.keys() | {name for name, tally in tallies.items() if tally.is_worth_listing})
    return [_tenant(name, facts.get(name), tallies.get(name, _Tally())) for name in names]


def _tenant(name: str, facts: TenantFacts | None, tally: _Tally) -> dict[str, object]:
    return {
        "name": name,
        "weight": facts.weight if facts else None,
        "priority": facts.priority if facts else None,
        **tally.load(),
        "limits": dict(facts.limits) if facts else {},
        "standing": [each._asdict() for each in facts.standing] if facts else [],
        "totals": tally.totals(),
    }
