"""Two clocks and what they say: the monotonic one measures windows, the wall clock alone tells the day."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from loractl_registry.clock import utc_now

_DAY_S = 86400.0
_EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


class Moment(NamedTuple):
    """One reading of both clocks.

    Attributes:
        now: Seconds of the monotonic clock.
        second: The whole second that `now` is in.
        wall: Seconds since 1970 in UTC.
        today: Ordinal of the UTC day that `wall` is in.
    """

    now: float
    second: int
    wall: float
    today: int

    def until_after(self, day: int) -> float:
        """Return the seconds until the midnight that ends `day`."""
        return (day + 1 - _EPOCH_DAY) * _DAY_S - self.wall


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where the time comes from.

    Attributes:
        wall: Aware time; may jump.
        monotonic: Seconds since some moment; never goes back.
    """

    wall: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic

    def read(self) -> Moment:
        """Return what both say."""
        now, wall = self.monotonic(), self.wall().timestamp()
        return Moment(now, math.floor(now), wall, _EPOCH_DAY + math.floor(wall / _DAY_S))
