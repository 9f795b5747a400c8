"""What ``loractl top`` lists, in which order: a pure function of one sample and of what was asked to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loractl.cli.gpus import GpuUse
from loractl.observability.definitions import OTHER, UNKNOWN
from loractl.observability.rates import Rates, Window
from loractl.observability.state_document import AdapterRow, LiveState, TenantRow


class SortBy(StrEnum):
    """What comes first; the largest, but for names."""

    TOKENS = "tokens"
    RATE = "rate"
    LATENCY = "latency"
    ERRORS = "errors"
    QUEUE = "queue"
    NAME = "name"

    @property
    def next(self) -> SortBy:
        """The one after it."""
        every = list(SortBy)
        return every[(every.index(self) + 1) % len(every)]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a server.

    Attributes:
        window: What happened since an earlier look; None if this is the first of its server.
    """

    state: LiveState
    window: Window | None
    gpus: tuple[GpuUse, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """One adapter or tenant, and what it did within the window; None if nobody knows."""

    row: AdapterRow | TenantRow
    name: str
    rates: Rates | None


_SPOKEN = {OTHER: "(all others)", UNKNOWN: "(unknown names)"}


def adapters_of(sample: Sample, *, sort: SortBy, text: str) -> list[Listed]:
    """Return the adapters whose name holds `text`, in order."""
    window = sample.window
    rows = [
        Listed(row, _SPOKEN.get(row.name, row.ref), window.adapters.get((row.name, row.version)) if window else None)
        for row in sample.state.adapters
    ]
    return _arranged(rows, sort=sort, text=text)


def tenants_of(sample: Sample, *, sort: SortBy, text: str) -> list[Listed]:
    """Return the tenants whose name holds `text`, in order."""
    window = sample.window
    rows = [
        Listed(row, _SPOKEN.get(row.name, row.name), window.tenants.get(row.name) if window else None)
        for row in sample.state.tenants
    ]
    return _arranged(rows, sort=sort, text=text)


def _arranged(rows: Sequence[Listed], *, sort: SortBy, text: str) -> list[Listed]:
    found = [row for row in rows if text.casefold() in row.name.casefold()]
    found.sort(key=lambda row: (row.row.name, _number(row.row)))
    if sort is not SortBy.NAME:
        # The order of equals stays the one by name.
        found.sort(key=lambda row: _measure(row, sort), reverse=True)
    return found


def _measure(listed: Listed, sort: SortBy) -> float:
    rates = listed.rates
    if sort is SortBy.QUEUE:
        return listed.row.waiting
    if rates is None:
        return -1.0
    match sort:
        case SortBy.TOKENS:
            return rates.output_tokens_per_s
        case SortBy.RATE:
            return rates.requests_per_s
        case SortBy.LATENCY:
            return rates.ttft.p99.seconds if rates.ttft.p99 else -1.0
        case _:
            return -1.0 if rates.error_share is None else rates.error_share


def _number(row: AdapterRow | TenantRow) -> int:
    return (row.version or 0) if isinstance(row, AdapterRow) else 0
