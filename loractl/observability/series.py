"""What is counted for one set of labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from loractl.observability.definitions import Metric

NS = 10**9
_LONGEST_S = 1e9


class LabelSet(NamedTuple):
    """Who a request was for, and whose it was; `version` is empty where `adapter` is not an adapter."""

    adapter: str
    version: str
    tenant: str


Key: TypeAlias = tuple[Metric, str]
"""A metric and the value of its last label where `Metric.values` lists some, else the empty string."""


def nanoseconds(seconds: float) -> int:
    """Return `seconds` as it is kept: whole, so that sums are exact in any order; nothing below 0 and no NaN."""
    return int(min(seconds, _LONGEST_S) * NS) if seconds > 0 else 0


@dataclass(slots=True)
class Histogram:
    """Observations in buckets.

    Attributes:
        counts: Observations of each bucket alone, the one up to infinity last.
        sum_ns: Sum of all observations.
    """

    counts: list[int]
    sum_ns: int = 0

    def absorb(self, other: Histogram) -> None:
        """Add everything that `other` holds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_ns += other.sum_ns


class Series:
    """Everything recorded for one set of labels. The lock of its `Metrics` guards it.

    Attributes:
        uses: Requests so far, older ones counting for less; decides who keeps series of their own.
        successor: Where to record instead once these series have been dropped.
    """

    __slots__ = ("counters", "histograms", "in_flight", "labels", "successor", "uses", "waiting")

    def __init__(self, labels: LabelSet, *, uses: float = 0.0) -> None:
        self.labels = labels
        self.uses = uses
        self.waiting = self.in_flight = 0
        self.counters: defaultdict[Key, int] = defaultdict(int)
        self.histograms: dict[Key, Histogram] = {}
        self.successor: Series | None = None

    def observe(self, key: Key, observed_ns: int) -> None:
        """Add one observation to a histogram."""
        histogram = self.histograms.get(key)
        if histogram is None:
            histogram = self.histograms[key] = Histogram([0] * (len(key[0].buckets) + 1))
        histogram.counts[bisect_left(key[0].buckets, observed_ns / NS)] += 1
        histogram.sum_ns += observed_ns

    def fold_into(self, history: Series, successor: Series) -> None:
        """Move what was counted to `history`, and what goes on now to `successor`."""
        for key, count in self.counters.items():
            history.counters[key] += count
        for key, histogram in self.histograms.items():
            if key in history.histograms:
                history.histograms[key].absorb(histogram)
            else:
                history.histograms[key] = histogram
        successor.waiting += self.waiting
        successor.in_flight += self.in_flight
        self.successor = successor

    def copy(self) -> Series:
        """Return the same numbers, which do not change any more."""
        same = Series(self.labels, uses=self.uses)
        same.waiting, same.in_flight = self.waiting, self.in_flight
        same.counters = self.counters.copy()
        same.histograms = {key: Histogram(each.counts.copy(), each.sum_ns) for key, each in self.histograms.items()}
        return same
