"""What was used in the last minute and on this day; every step takes constant time and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

from loractl.quotas.moments import Moment

WINDOW_S = 60
_SLOTS = WINDOW_S + 1
"""The seconds that a window of 60 s can touch: both ends lie within one."""

Uses = tuple[tuple[float, int], ...]
"""When in wall time a second began, and how much was used in it."""


class SlidingWindow:
    """Amounts by the second in which they were used.

    A second counts until all of it is more than `WINDOW_S` ago, so the total is never less than what was used in the
    last 60 s, at whatever fraction of a second one looks; it is at most what was used in the last 61 s.
    """

    __slots__ = ("_amounts", "_last_use", "_newest", "total")

    def __init__(self) -> None:
        self._amounts = [0] * _SLOTS  # by second modulo their number
        self._newest = self._last_use = -(2**62)
        self.total = 0

    def advance(self, second: int) -> None:
        """Forget what is too old by `second`; a second in the past changes nothing."""
        steps = second - self._newest
        if steps <= 0:
            return
        if self.total:
            for passed in range(self._newest + 1, self._newest + 1 + min(steps, _SLOTS)):
                self.total -= self._amounts[passed % _SLOTS]
                self._amounts[passed % _SLOTS] = 0
        self._newest = second

    def add(self, second: int, amount: int) -> None:
        """Count `amount` as used in `second`, which `advance` has been told of."""
        self._amounts[second % _SLOTS] += amount
        self.total += amount
        self._last_use = max(self._last_use, second)

    def take_back(self, second: int, amount: int) -> None:
        """Count `amount` of what was used in `second` as not used; what is forgotten already stays so."""
        if self._newest - second < _SLOTS:
            self._amounts[second % _SLOTS] -= amount
            self.total -= amount

    def wait_s(self, now: float, amount: int) -> float:
        """Return in how many seconds at least `amount` of the total will be forgotten, if nothing else is used."""
        forgotten = 0
        for second in range(self._newest - WINDOW_S, self._newest + 1):
            forgotten += self._amounts[second % _SLOTS]
            if forgotten >= amount:
                return max(0.0, second + _SLOTS - now)
        return float(_SLOTS)

    def reset_s(self, now: float) -> float:
        """Return in how many seconds all of it will be forgotten, if nothing else is used."""
        return max(0.0, self._last_use + _SLOTS - now) if self.total else 0.0

    def saved(self, moment: Moment) -> Uses:
        """Return the seconds in which something was used, in wall time: the other clock ends with the machine."""
        seconds = range(self._newest - WINDOW_S, self._newest + 1)
        held = ((second, self._amounts[second % _SLOTS]) for second in seconds)
        return tuple((moment.wall - (moment.now - second), amount) for second, amount in held if amount)

    def restore(self, uses: Iterable[tuple[float, int]], *, moment: Moment, wall: float) -> None:
        """Take up what `saved` gave, as of `wall`; each is remembered rather a second too long than too short."""
        self.advance(moment.second)
        for began, amount in uses:
            second = min(math.ceil(moment.now - (wall - began)), moment.second)
            if moment.second - second < _SLOTS:
                self.add(second, amount)


class DayBudget:
    """What was used since the last midnight in UTC. The day never goes back."""

    __slots__ = ("day", "used")

    def __init__(self) -> None:
        self.day = 0
        self.used = 0

    def advance(self, today: int) -> None:
        """Begin anew if `today` is later than the day that was last seen."""
        if today > self.day:
            self.day, self.used = today, 0
