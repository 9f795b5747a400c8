"""How fast things go: what lies between two documents of a server's live state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from loractl.observability.state_document import Distribution, LiveState, Totals

WINDOW_S = 15.0
"""How far apart the two are, at least: a request counts when it has ended, so that a shorter look jumps."""
# Clocks of one machine are this coarse in the document; less is the same moment.
_LEAST_S = 1e-3
# A reader that was away for long keeps no more than this.
_MOST_STATES = 600


@dataclass(frozen=True, slots=True)
class Quantile:
    """A latency that a share of the observations did not exceed.

    Attributes:
        seconds: Interpolated within its bucket.
        is_beyond: It lies beyond the last bucket, so that all that is known is that it is above `seconds`.
    """

    seconds: float
    is_beyond: bool = False


@dataclass(frozen=True, slots=True)
class Latency:
    """What one histogram gained; the quantiles are None without an observation."""

    count: int
    p50: Quantile | None
    p99: Quantile | None


@dataclass(frozen=True, slots=True)
class Rates:
    """One adapter, one tenant, or everybody, within the window.

    Attributes:
        requests_per_s: Requests that ended, refused ones too.
        error_share: Of the requests that ended, those that were let in and got no whole answer; None if none ended.
        refused_share: Likewise those that were turned away.
        busy_share: Of the time that all requests together spent in the engine, 0 to 1; None if nobody spent any.
    """

    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    error_share: float | None
    refused_share: float | None
    busy_share: float | None
    ttft: Latency
    inter_token: Latency
    total: Latency
    queue: Latency


@dataclass(frozen=True, slots=True)
class Window:
    """Between two moments of one server.

    Attributes:
        adapters: By name and version; a row whose counts were folded into others in between is left out.
        tenants: By name, likewise.
    """

    elapsed_s: float
    total: Rates
    adapters: Mapping[tuple[str, int | None], Rates]
    tenants: Mapping[str, Rates]


def window(before: LiveState, after: LiveState) -> Window | None:
    """Return what happened between the two, or None: they are not two moments of one server in this order."""
    elapsed_s = _elapsed_s(before, after)
    if elapsed_s is None or not _may_follow(before.totals, after.totals):
        return None
    busy_s = after.totals.busy_s - before.totals.busy_s
    adapters = {(row.name, row.version): row.totals for row in before.adapters}
    tenants = {row.name: row.totals for row in before.tenants}
    return Window(
        elapsed_s,
        _rates(before.totals, after.totals, elapsed_s, busy_s),
        {
            key: _rates(adapters.get(key), row.totals, elapsed_s, busy_s)
            for row in after.adapters
            if _may_follow(adapters.get(key := (row.name, row.version)), row.totals)
        },
        {
            row.name: _rates(tenants.get(row.name), row.totals, elapsed_s, busy_s)
            for row in after.tenants
            if _may_follow(tenants.get(row.name), row.totals)
        },
    )


def quantile(share: float, before: Distribution | None, after: Distribution) -> Quantile | None:
    """Return the latency that `share` of the observations between the two did not exceed; None if there are none."""
    count = after.count - (before.count if before else 0)
    if count <= 0:
        return None
    rank, below, low = share * count, 0, 0.0
    for high, total in _gained(before, after):
        if total > below and total >= rank:
            # Observations are taken to lie evenly between the bounds of their bucket.
            return Quantile(low + (high - low) * (rank - below) / (total - below))
        below, low = total, high
    return Quantile(low, is_beyond=True)


class Trail:
    """The documents of the last seconds; each new one is compared with the youngest that is `window_s` older.

    A server that was restarted, or another one in its place, begins a new trail.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._states: deque[LiveState] = deque(maxlen=_MOST_STATES)

    def add(self, state: LiveState) -> Window | None:
        """Take in the newest document; return the window that it ends, or None if it is the first of its server."""
        while len(self._states) > 1 and (_elapsed_s(self._states[1], state) or 0.0) >= self._window_s:
            self._states.popleft()
        found = window(self._states[0], state) if self._states else None
        if found is None:
            self._states.clear()
        self._states.append(state)
        return found


def _elapsed_s(before: LiveState, after: LiveState) -> float | None:
    if before.base != after.base:
        return None
    if before.uptime_s is not None and after.uptime_s is not None:
        elapsed_s = after.uptime_s - before.uptime_s
    else:
        elapsed_s = (after.at - before.at).total_seconds()
    return elapsed_s if elapsed_s >= _LEAST_S else None


def _may_follow(before: Totals | None, after: Totals) -> bool:
    """Whether nothing went back, as it does when a server is restarted and when a row's counts are folded away."""
    if before is None:
        return True
    return all(earlier <= later for earlier, later in zip(_counts(before), _counts(after), strict=True))


def _counts(totals: Totals) -> tuple[float, ...]:
    return (
        totals.requests,
        sum(totals.errors.values()),
        sum(totals.refused.values()),
        totals.input_tokens,
        totals.output_tokens,
        totals.busy_s,
        totals.ttft.count,
        totals.inter_token.count,
        totals.total.count,
        totals.queue.count,
    )


def _rates(before: Totals | None, after: Totals, elapsed_s: float, all_busy_s: float) -> Rates:
    earlier = _counts(before) if before else (0,) * 10
    gained = [later - sooner for later, sooner in zip(_counts(after), earlier, strict=True)]
    requests, errors, refused, input_tokens, output_tokens, busy_s, *_ = gained
    return Rates(
        requests_per_s=requests / elapsed_s,
        input_tokens_per_s=input_tokens / elapsed_s,
        output_tokens_per_s=output_tokens / elapsed_s,
        error_share=_share(errors, requests),
        refused_share=_share(refused, requests),
        busy_share=_share(busy_s, all_busy_s),
        ttft=_latency(before.ttft if before else None, after.ttft),
        inter_token=_latency(before.inter_token if before else None, after.inter_token),
        total=_latency(before.total if before else None, after.total),
        queue=_latency(before.queue if before else None, after.queue),
    )


def _share(part: float, whole: float) -> float | None:
    # Sums of floats that were rounded apart may exceed what they are part of by their last digit.
    return min(part / whole, 1.0) if whole > 0 and math.isfinite(part) else None


def _latency(before: Distribution | None, after: Distribution) -> Latency:
    count = after.count - (before.count if before else 0)
    return Latency(count, quantile(0.5, before, after), quantile(0.99, before, after))


def _gained(before: Distribution | None, after: Distribution) -> Iterator[tuple[float, int]]:
    """Yield each bound with the observations up to it that came in between."""
    earlier = dict(before.buckets) if before else {}
    for bound, total in after.buckets:
        yield bound, total - earlier.get(bound, 0)
