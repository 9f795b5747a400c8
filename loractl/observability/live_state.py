"""What a running server does, as one JSON document: what ``GET /loractl/v1/state`` answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
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
from loractl.observability.series import NS, Series
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
    """

    name: str
    weight: float = 1.0
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    standing: Sequence[LimitStanding] = ()


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
    rows = [series for series in snapshot.series if series.labels.adapter != FOLDED]
    return {
        "format": FORMAT,
        "at": to_text(now),
        "uptime_s": uptime_s,
        "base": asdict(base),
        "health": asdict(health),
        "fairness": fairness,
        "engine": asdict(capacity),
        **_load(snapshot.series),
        "adapters": _adapters(rows, base=base, known=adapters, resident=snapshot.resident),
        "tenants": _tenants(rows, tenants),
        "totals": _totals(snapshot.series),
    }


def _adapters(
    rows: Sequence[Series], *, base: BaseFacts, known: Iterable[AdapterFacts], resident: Sequence[tuple[str, str]]
) -> list[dict[str, object]]:
    grouped: dict[tuple[str, str], list[Series]] = {}
    for series in rows:
        grouped.setdefault(series.labels[:2], []).append(series)
    stages = {(each.name, str(each.version)): each.stage for each in known}
    held = set(resident)
    # The base's own requests are labelled with a word of ours, because an adapter may not have its name either.
    first = _adapter((base.name, ""), None, grouped.pop((BASE, ""), []), is_resident=True)
    keys = stages.keys() | {key for key, series in grouped.items() if _is_worth_listing(series)}
    return [
        first,
        *(
            _adapter(key, stages.get(key), grouped.get(key, []), is_resident=key in held)
            for key in sorted(keys, key=lambda key: (key[0], _number(key[1]) or 0))
        ),
    ]


def _adapter(
    key: tuple[str, str], stage: str | None, series: Sequence[Series], *, is_resident: bool
) -> dict[str, object]:
    name, version = key
    return {
        "name": name,
        "version": _number(version),
        "stage": stage,
        "is_resident": is_resident,
        **_load(series),
        "totals": _totals(series),
    }


def _number(version: str) -> int | None:
    return int(version) if version.isascii() and version.isdigit() else None


def _tenants(rows: Sequence[Series], known: Iterable[TenantFacts]) -> list[dict[str, object]]:
    grouped: dict[str, list[Series]] = {}
    for series in rows:
        grouped.setdefault(series.labels.tenant, []).append(series)
    facts = {each.name: each for each in known}
    names = sorted(facts.keys() | {name for name, series in grouped.items() if _is_worth_listing(series)})
    return [_tenant(name, facts.get(name), grouped.get(name, [])) for name in names]


def _tenant(name: str, facts: TenantFacts | None, series: Sequence[Series]) -> dict[str, object]:
    return {
        "name": name,
        "weight": facts.weight if facts else None,
        **_load(series),
        "limits": dict(facts.limits) if facts else {},
        "standing": [each._asdict() for each in facts.standing] if facts else [],
        "totals": _totals(series),
    }


def _is_worth_listing(series: Sequence[Series]) -> bool:
    """Whether anything happened: what has no series of its own is always in a snapshot, mostly empty."""
    return any(each.counters or each.histograms or each.waiting or each.in_flight for each in series)


def _load(series: Iterable[Series]) -> dict[str, int]:
    waiting = in_flight = 0
    for each in series:
        waiting += each.waiting
        in_flight += each.in_flight
    return {"waiting": waiting, "in_flight": in_flight}


def _totals(series: Sequence[Series]) -> dict[str, object]:
    return {
        "requests": _count(series, REQUESTS),
        "errors": {outcome: _count(series, ERROR_REQUESTS, outcome) for outcome in ERROR_REQUESTS.values},
        "refused": {outcome: _count(series, REFUSED_REQUESTS, outcome) for outcome in REFUSED_REQUESTS.values},
        "input_tokens": _count(series, INPUT_TOKENS),
        "output_tokens": _count(series, OUTPUT_TOKENS),
        "busy_s": _count(series, BUSY_SECONDS) / NS,
        **{name: _histogram(series, metric) for name, metric in HISTOGRAMS.items()},
    }


def _count(series: Iterable[Series], metric: Metric, value: str = "") -> int:
    return sum(each.counters.get((metric, value), 0) for each in series)


def _histogram(series: Iterable[Series], metric: Metric) -> dict[str, object]:
    """Return all of one metric; what is beyond the last bucket is in the count alone, because JSON has no infinity."""
    keys = [(metric, value) for value in metric.values or ("",)]
    found = [histogram for each in series for key in keys if (histogram := each.histograms.get(key)) is not None]
    buckets: list[list[float]] = []
    total = 0
    for bound, *counts in zip(metric.buckets, *(each.counts[:-1] for each in found), strict=True) if found else ():
        total += sum(counts)
        buckets.append([bound, total])
    count = total + sum(each.counts[-1] for each in found)
    return {"count": count, "sum_s": sum(each.sum_ns for each in found) / NS, "buckets": buckets}
