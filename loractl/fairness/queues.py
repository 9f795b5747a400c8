"""Everything that waits, by class, tenant and adapter, so that the next one is found in logarithmic time."""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from loractl.fairness.accounts import Account
from loractl.fairness.requests import Priority, Request

_Key: TypeAlias = tuple[float, bool, int]
_HEAP_SLACK = 16


@dataclass(eq=False, slots=True)
class Ticket:
    """A request from the moment that it asks until it has left.

    Attributes:
        order: Its number in order of arrival.
        priority: The class that it waits in.
        admitted: Done once it may go to the engine.
        is_reserved: It has one of the reserved seats.
        is_cold: Its adapter has to be loaded first.
        is_prefilling: Nothing was generated for it yet.
        order_in_engine: Where its prompt stands among those that the engine has.
    """

    request: Request
    account: Account
    order: int
    priority: Priority
    asked_at: float
    admitted: asyncio.Future[None]
    waited_s: float = 0.0
    is_waiting: bool = True
    is_in_flight: bool = False
    is_reserved: bool = False
    is_cold: bool = False
    is_prefilling: bool = True
    order_in_engine: float = 0.0


@dataclass(eq=False, slots=True)
class Lane:
    """The requests of one tenant for one adapter in one class, first come first served. Empty once, empty for ever."""

    account: Account
    adapter: str | None
    priority: Priority
    tickets: OrderedDict[int, Ticket] = field(default_factory=OrderedDict[int, Ticket])

    @property
    def head(self) -> Ticket:
        """The one that goes first."""
        return next(iter(self.tickets.values()))

    @property
    def key(self) -> _Key:
        """The place among lanes; it only ever grows. At equal counters whoever had nothing yet goes first."""
        return (self.account.counter, not self.account.is_fresh, next(iter(self.tickets)))


class LaneHeap:
    """Lanes by their keys, which grow while they are in here: an entry that has fallen behind is moved when met."""

    __slots__ = ("_entries", "_lanes")

    def __init__(self) -> None:
        self._entries: list[tuple[_Key, Lane]] = []
        self._lanes: set[Lane] = set()

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, lane: Lane) -> None:
        """Add `lane`, which has a request and is not in here."""
        self._lanes.add(lane)
        heapq.heappush(self._entries, (lane.key, lane))

    def discard(self, lane: Lane) -> None:
        """Take `lane` out; its entry goes when it is met, or when such entries are the most."""
        self._lanes.discard(lane)
        if len(self._entries) > 2 * len(self._lanes) + _HEAP_SLACK:
            self._entries = [(lane.key, lane) for lane in self._lanes]
            heapq.heapify(self._entries)

    def top(self) -> Lane | None:
        """Return the lane with the least key."""
        while self._entries:
            key, lane = self._entries[0]
            if lane not in self._lanes:
                heapq.heappop(self._entries)
            elif key < lane.key:
                heapq.heapreplace(self._entries, (lane.key, lane))
            else:
                return lane
        return None


class LaneIndex:
    """Lanes of one class, all together and by adapter."""

    __slots__ = ("_by_adapter", "_every", "_lanes")

    def __init__(self) -> None:
        self._every = LaneHeap()
        self._by_adapter: dict[str | None, LaneHeap] = {}
        self._lanes: set[Lane] = set()

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._lanes

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, lane: Lane) -> None:
        """Add `lane`, which has a request and is not in here."""
        self._lanes.add(lane)
        self._every.add(lane)
        self._by_adapter.setdefault(lane.adapter, LaneHeap()).add(lane)

    def discard(self, lane: Lane) -> None:
        """Take `lane` out."""
        if lane not in self._lanes:
            return
        self._lanes.remove(lane)
        self._every.discard(lane)
        heap = self._by_adapter[lane.adapter]
        heap.discard(lane)
        if not heap:
            del self._by_adapter[lane.adapter]

    def top(self) -> Lane | None:
        """Return the lane that goes first if any adapter will do."""
        return self._every.top()

    def top_of(self, adapters: Iterable[str | None]) -> Lane | None:
        """Return the lane that goes first among those of `adapters`."""
        heaps = (self._by_adapter.get(adapter) for adapter in adapters)
        tops = (heap.top() for heap in heaps if heap is not None)
        return min((lane for lane in tops if lane is not None), key=lambda lane: lane.key, default=None)


class Queues:
    """Every waiting request.

    Beside all lanes of a class there is an index of the light ones: those of tenants with fewer than `reserve` requests
    in flight, which may take reserved seats.
    """

    def __init__(self, *, reserve: int) -> None:
        self._reserve = reserve
        self._lanes: dict[Account, dict[tuple[Priority, str | None], Lane]] = {}
        self._all = {priority: LaneIndex() for priority in Priority}
        self._light = {priority: LaneIndex() for priority in Priority}
        self._by_adapter: dict[str, int] = {}
        self.waiting = 0

    def put(self, ticket: Ticket) -> None:
        """Add a request at the end of its lane."""
        account, adapter = ticket.account, ticket.request.adapter
        lanes = self._lanes.setdefault(account, {})
        lane = lanes.get((ticket.priority, adapter))
        is_new = lane is None
        if lane is None:
            lane = lanes[ticket.priority, adapter] = Lane(account, adapter, ticket.priority)
        lane.tickets[ticket.order] = ticket
        if is_new:
            self._all[lane.priority].add(lane)
            self._sort_by_weight(lane)
        self.waiting += 1
        account.waiting += 1
        if adapter is not None:
            self._by_adapter[adapter] = self._by_adapter.get(adapter, 0) + 1

    def remove(self, ticket: Ticket) -> None:
        """Take a request out, from wherever it is in its lane."""
        account, adapter = ticket.account, ticket.request.adapter
        lanes = self._lanes[account]
        lane = lanes[ticket.priority, adapter]
        del lane.tickets[ticket.order]
        if not lane.tickets:
            del lanes[ticket.priority, adapter]
            if not lanes:
                del self._lanes[account]
            self._all[lane.priority].discard(lane)
            self._light[lane.priority].discard(lane)
        self.waiting -= 1
        account.waiting -= 1
        if adapter is not None:
            self._by_adapter[adapter] -= 1
            if not self._by_adapter[adapter]:
                del self._by_adapter[adapter]

    def wants(self, adapter: str) -> bool:
        """Whether a request for `adapter` waits."""
        return adapter in self._by_adapter

    def least(self) -> float | None:
        """Return the least counter of the tenants that wait, or None if nobody does."""
        tops = (index.top() for index in self._all.values())
        return min((lane.account.counter for lane in tops if lane is not None), default=None)

    def reweigh(self, account: Account) -> None:
        """Follow a change of how many requests `account` has in flight."""
        if account.in_flight in (self._reserve - 1, self._reserve):
            for lane in self._lanes.get(account, {}).values():
                self._sort_by_weight(lane)

    def classes(self) -> Iterator[Priority]:
        """Yield the classes in which somebody waits, the highest first."""
        return (priority for priority, index in self._all.items() if index)

    def index(self, priority: Priority, *, is_light: bool) -> LaneIndex:
        """Return the lanes of a class, or the light ones among them."""
        return self._light[priority] if is_light else self._all[priority]

    def _sort_by_weight(self, lane: Lane) -> None:
        index = self._light[lane.priority]
        if lane.account.in_flight >= self._reserve:
            index.discard(lane)
        elif lane not in index:
            index.add(lane)
