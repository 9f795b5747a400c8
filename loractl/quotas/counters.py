"""The counters of one tenant, or of one tenant on one adapter, and what limits make of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from loractl.quotas.moments import Moment
from loractl.quotas.standing import Gauge, LimitKind, Standing
from loractl.quotas.windows import DayBudget, SlidingWindow, Uses
from loractl_registry.tenancy import Limits

_KINDS = tuple(LimitKind)  # going through an enumeration itself costs microseconds

CONCURRENT_RETRY_S = 1.0
"""When to come back for a place; nobody knows when one of the requests on their way will end."""


@dataclass(frozen=True, slots=True)
class SavedCounters:
    """What is kept of counters across a restart. Requests on their way are not: they end with the process.

    Attributes:
        adapter: Empty for the tenant in all.
        wall: When it was read off, in seconds since 1970.
        day: The UTC day that `day_tokens` were used on.
    """

    tenant: str
    adapter: str
    wall: float
    day: date
    day_tokens: int
    requests: Uses
    tokens: Uses


class Shortage(NamedTuple):
    """A limit that leaves too little.

    Attributes:
        wait_s: In how many seconds it will leave enough; None for never.
    """

    kind: LimitKind
    limit: int
    remaining: int
    asked: int
    wait_s: float | None


class Counters:
    """What was used, whether it is limited or not, so that a new limit finds it counted."""

    __slots__ = ("day", "in_flight", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = SlidingWindow()
        self.tokens = SlidingWindow()
        self.day = DayBudget()
        self.in_flight = 0

    def advance(self, moment: Moment) -> None:
        """Forget what is over by `moment`."""
        self.requests.advance(moment.second)
        self.tokens.advance(moment.second)
        self.day.advance(moment.today)

    def is_idle(self) -> bool:
        """Tell whether forgetting these counters would change nothing."""
        return not (self.in_flight or self.requests.total or self.tokens.total or self.day.used)

    def add_tokens(self, second: int, amount: int) -> None:
        """Count tokens as used in `second`, and today."""
        self.tokens.add(second, amount)
        self.day.used += amount

    def shortages(self, limits: Limits, tokens: int, moment: Moment) -> Iterator[Shortage]:
        """Yield every limit that has no room for one more request with `tokens`."""
        held = (
            (LimitKind.REQUESTS, limits.requests_per_minute, self.requests.total, 1),
            (LimitKind.TOKENS, limits.tokens_per_minute, self.tokens.total, tokens),
            (LimitKind.CONCURRENT, limits.concurrent, self.in_flight, 1),
            (LimitKind.DAY, limits.tokens_per_day, self.day.used, tokens),
        )
        for kind, limit, used, asked in held:
            if limit is not None and used + asked > limit:
                wait_s = None if asked > limit else self._wait_s(kind, used + asked - limit, moment)
                yield Shortage(kind, limit, max(0, limit - used), asked, wait_s)

    def gauges(self, limits: Limits, moment: Moment) -> Iterator[Gauge]:
        """Yield what is left of every limit that is set."""
        held = (
            (LimitKind.REQUESTS, limits.requests_per_minute, self.requests.total),
            (LimitKind.TOKENS, limits.tokens_per_minute, self.tokens.total),
            (LimitKind.CONCURRENT, limits.concurrent, self.in_flight),
            (LimitKind.DAY, limits.tokens_per_day, self.day.used),
        )
        for kind, limit, used in held:
            if limit is not None:
                yield Gauge(kind, limit, max(0, limit - used), self._reset_s(kind, moment))

    def saved(self, tenant: str, adapter: str, moment: Moment) -> SavedCounters:
        """Return what is to be kept."""
        return SavedCounters(
            tenant,
            adapter,
            moment.wall,
            date.fromordinal(self.day.day),
            self.day.used,
            self.requests.saved(moment),
            self.tokens.saved(moment),
        )

    def restore(self, saved: SavedCounters, moment: Moment) -> None:
        """Take up what was kept. If the wall clock went back in between, no time has passed."""
        wall = max(saved.wall, moment.wall)
        self.requests.restore(saved.requests, moment=moment, wall=wall)
        self.tokens.restore(saved.tokens, moment=moment, wall=wall)
        self.day.day, self.day.used = saved.day.toordinal(), saved.day_tokens
        self.day.advance(moment.today)

    def _reset_s(self, kind: LimitKind, moment: Moment) -> float:
        match kind:
            case LimitKind.REQUESTS:
                return self.requests.reset_s(moment.now)
            case LimitKind.TOKENS:
                return self.tokens.reset_s(moment.now)
            case LimitKind.CONCURRENT:
                return 0.0
            case LimitKind.DAY:
                return moment.until_after(self.day.day) if self.day.used else 0.0

    def _wait_s(self, kind: LimitKind, amount: int, moment: Moment) -> float:
        match kind:
            case LimitKind.REQUESTS:
                return self.requests.wait_s(moment.now, amount)
            case LimitKind.TOKENS:
                return self.tokens.wait_s(moment.now, amount)
            case LimitKind.CONCURRENT:
                return CONCURRENT_RETRY_S
            case LimitKind.DAY:
                return moment.until_after(self.day.day)


def tightest(gauges: Iterable[Gauge]) -> Standing:
    """Return for each kind the limit that leaves the least."""
    held: dict[LimitKind, Gauge] = {}
    for gauge in gauges:
        other = held.get(gauge.kind)
        if other is None or gauge.remaining < other.remaining:
            held[gauge.kind] = gauge
    return tuple(held[kind] for kind in _KINDS if kind in held)
