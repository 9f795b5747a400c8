"""Which label sets without series of their own are used most, in memory that does not grow (Misra and Gries, 1982)."""

from __future__ import annotations

from loractl.observability.series import LabelSet


class Candidates:
    """At most `capacity` counters over any number of label sets.

    Whoever makes up more than one in `capacity` + 1 of what is offered is among them; counts are never too high.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: dict[LabelSet, float] = {}

    def offer(self, labels: LabelSet) -> None:
        """Count one use. Constant time on average: a pass over all counters takes one off each, which others paid."""
        count = self._counts.get(labels)
        if count is not None:
            self._counts[labels] = count + 1
        elif len(self._counts) < self._capacity:
            self._counts[labels] = 1.0
        else:
            self._counts = {each: left - 1 for each, left in self._counts.items() if left > 1}

    def age(self, factor: float) -> None:
        """Let every count matter less; those that hardly matter any more are forgotten."""
        self._counts = {each: count * factor for each, count in self._counts.items() if count * factor >= 1 / 2}

    def ranked(self) -> list[tuple[LabelSet, float]]:
        """Return all of them, the most used first."""
        return sorted(self._counts.items(), key=lambda item: -item[1])

    def forget(self, labels: LabelSet) -> None:
        """Count `labels` no more."""
        self._counts.pop(labels, None)
