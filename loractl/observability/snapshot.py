"""The numbers of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loractl.observability.definitions import IN_FLIGHT, WAITING, Metric, MetricType
from loractl.observability.series import NS, Key, Series


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Copies that nobody changes.

    Attributes:
        series: By label set; those of `OTHER` and `FOLDED` last.
        resident: The (adapter, version) pairs in the engine's slots.
        unreviewed: Those that serve by break-glass.
        own: The metrics that are kept once for the whole server.
        max_series: How many label sets are exposed at most.
    """

    series: tuple[Series, ...]
    resident: tuple[tuple[str, str], ...]
    unreviewed: tuple[tuple[str, str], ...]
    own: Mapping[Key, int]
    max_series: int

    def total(self, metric: Metric, value: str | None = None) -> float:
        """Return the sum over all label sets: of a counter, a gauge, or a histogram's number of observations.

        Args:
            metric: One of `METRICS`.
            value: Only that value of the metric's last label.
        """
        if metric is WAITING:
            return sum(each.waiting for each in self.series)
        if metric is IN_FLIGHT:
            return sum(each.in_flight for each in self.series)
        if metric.type is MetricType.HISTOGRAM:
            return sum(
                sum(histogram.counts)
                for each in self.series
                for key, histogram in each.histograms.items()
                if key[0] is metric and value in (None, key[1])
            )
        counted = sum(
            count
            for counters in (self.own, *(each.counters for each in self.series))
            for key, count in counters.items()
            if key[0] is metric and value in (None, key[1])
        )
        return counted / NS if metric.unit else counted
