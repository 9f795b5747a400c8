"""Clocks that stand still, and counters that remember."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from loractl.observability.outcomes import DropReason, Outcome
from loractl.observability.record import RequestRecord

START = datetime(2026, 1, 31, 9, tzinfo=UTC)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def utc(self) -> datetime:
        return START + timedelta(seconds=self.seconds - 1000.0)


class Counters:
    """What a writer said became of records."""

    def __init__(self) -> None:
        self.written = 0
        self.dropped: Counter[DropReason] = Counter()

    def records_written(self, count: int) -> None:
        self.written += count

    def records_dropped(self, reason: DropReason, count: int) -> None:
        self.dropped[reason] += count

    @property
    def settled(self) -> int:
        return self.written + self.dropped.total()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def record_of():
    def make(number: int, **changes: object) -> RequestRecord:
        values: dict[str, object] = {
            "id": f"request-{number}",
            "at": START + timedelta(seconds=number),
            "tenant": "acme",
            "adapter": "support-bot",
            "version": 3,
            "outcome": Outcome.OK,
        }
        return RequestRecord(**(values | changes))

    return make
