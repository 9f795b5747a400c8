"""The order of admission: classes, then tenants by their counters, within what the slots allow."""

from __future__ import annotations

import itertools

from loractl.fairness.queues import Lane, LaneIndex, Queues, Ticket
from loractl.fairness.requests import Priority
from loractl.fairness.residency import Residency


class Chooser:
    """Finds the lane that goes next, in O(slots + log lanes).

    1. The adapter that has waited longest for a slot, once it is overdue and a slot is free: one request of it.
    2. A class that was passed over for `patience_s`: one request of it. Otherwise the highest class.
    3. In a class the tenant with the least counter; a tenant that just began to wait goes first among equals.
    4. If that needs an adapter to be loaded: the least counter among those that need none, unless it is more than
       `slack` above.

    While an adapter is overdue no other takes a new slot.
    """

    def __init__(self, queues: Queues, residency: Residency, *, patience_s: float, slack: float) -> None:
        self._queues = queues
        self._residency = residency
        self._patience_s = patience_s
        self._slack = slack
        self._served_at: dict[Priority, float] = {}

    def note_put(self, priority: Priority, now: float) -> None:
        """Note that a request was put into a class; it is passed over from now on if it was empty."""
        self._served_at.setdefault(priority, now)

    def note_removed(self, ticket: Ticket, now: float) -> None:
        """Note that a request left its class, admitted or not."""
        if not self._queues.index(ticket.priority, is_light=False):
            self._served_at.pop(ticket.priority, None)
        elif ticket.is_in_flight:
            self._served_at[ticket.priority] = now

    def choose(self, now: float, *, is_light: bool) -> Lane | None:
        """Return the lane whose head goes next, or None if no adapter that waits has room.

        `is_light` considers only tenants that may take a reserved seat.
        """
        lane = self._find(now, is_light=is_light)
        if lane is not None and is_light and lane.account.counter > (self._queues.least() or 0.0) + self._slack:
            return None
        return lane

    def _find(self, now: float, *, is_light: bool) -> Lane | None:
        overdue = self._residency.overdue(now)
        if overdue is not None and not self._residency.is_full:
            for priority in Priority:
                lane = self._queues.index(priority, is_light=is_light).top_of((overdue,))
                if lane is not None:
                    return lane
        may_open = overdue is None and not self._residency.is_full
        for priority in self._order(now):
            lane = self._best(self._queues.index(priority, is_light=is_light), may_open=may_open)
            if lane is not None:
                return lane
        return None

    def _order(self, now: float) -> list[Priority]:
        late = {p: at for p, at in self._served_at.items() if now - at >= self._patience_s}
        return sorted(self._queues.classes(), key=lambda p: (0, late[p]) if p in late else (1, p))

    def _best(self, index: LaneIndex, *, may_open: bool) -> Lane | None:
        residency = self._residency
        if not may_open:
            return index.top_of(residency.open())
        best = index.top()
        if best is None or (residency.is_loaded(best.adapter) and not residency.is_closed(best.adapter)):
            return best
        warm = index.top_of(itertools.chain(residency.open(), residency.idle()))
        if warm is not None and (
            residency.is_closed(best.adapter) or warm.account.counter <= best.account.counter + self._slack
        ):
            return warm
        return None if residency.is_closed(best.adapter) else best
