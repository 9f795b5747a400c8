"""Which adapters may have requests in the engine at once: at most as many as it has slots, each in its turn.

vLLM passes over a request whose adapter does not fit beside those that run, for as long as they run. Here an adapter
that waits without a slot becomes overdue after `patience_s`. Then adapters that had their slots for at least as long
are closed, the longest-served first and at most half of the slots at once: they finish what runs and get nothing more,
and the first overdue adapter takes the slot before anything else is admitted.

So with `w` adapters waiting for slots, `C = max(1, min(slots // 2, seats))`, and `D` the longest time that an admitted
request runs, an adapter that waits has a request admitted within::

    patience_s + ceil(w / C) * (patience_s + D)

because after `patience_s` every slot may be closed, `C` of them are, and each is empty within `D`, which leaves a seat
too; whoever gets a slot stands behind everybody who was overdue before. That seat may be a reserved one, or the engine
may take no more because its KV cache is full; the wait is longer by that much. A request behind others of its adapter
waits for those as well.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass


def wait_bound_s(*, slots: int, seats: int, waiting_adapters: int, patience_s: float, longest_s: float) -> float:
    """Return the longest time that an adapter can wait for a slot, as the module says."""
    rounds = math.ceil(waiting_adapters / max(1, min(slots // 2, seats)))
    return patience_s + rounds * (patience_s + longest_s)


@dataclass(eq=False, slots=True)
class _Slot:
    in_flight: int = 0
    since: float = 0.0
    is_closed: bool = False


class Residency:
    """A model of the engine's slots: the adapters in flight hold theirs, of the others the least recently used yields.

    `patience_s` of infinity closes nothing: first come, first served among what fits, as vLLM does.
    """

    def __init__(self, *, slots: int, patience_s: float) -> None:
        self._max_slots = slots
        self._max_closed = max(1, slots // 2)
        self._patience_s = patience_s
        self._busy: dict[str, _Slot] = {}
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._num_closed = 0

    @property
    def in_flight(self) -> int:
        """How many distinct adapters have requests in the engine."""
        return len(self._busy)

    @property
    def is_full(self) -> bool:
        """Whether every slot is held by an adapter in flight."""
        return len(self._busy) >= self._max_slots

    def is_loaded(self, adapter: str | None) -> bool:
        """Whether a request for `adapter` could start without loading it; the base always can."""
        return adapter is None or adapter in self._busy or adapter in self._loaded

    def is_closed(self, adapter: str | None) -> bool:
        """Whether `adapter` has to give its slot up and gets nothing more."""
        slot = self._busy.get(adapter) if adapter is not None else None
        return slot is not None and slot.is_closed

    def open(self) -> Iterator[str | None]:
        """Yield what can take a request without another slot: the base, and adapters in flight that are not closed."""
        yield None
        for adapter, slot in self._busy.items():
            if not slot.is_closed:
                yield adapter

    def idle(self) -> Iterator[str]:
        """Yield the adapters that are loaded and have nothing in flight."""
        return iter(self._loaded)

    def held(self) -> tuple[str, ...]:
        """Return the adapters in slots: those in flight, then those that are loaded."""
        return (*self._busy, *self._loaded)

    def want(self, adapter: str, now: float) -> None:
        """Note that a request for `adapter` waits."""
        if adapter not in self._busy:
            self._waiting.setdefault(adapter, now)

    def unwant(self, adapter: str) -> None:
        """Note that no request for `adapter` waits any more."""
        self._waiting.pop(adapter, None)

    def overdue(self, now: float) -> str | None:
        """Return the adapter that has waited longest for a slot, if it has waited for long enough."""
        for adapter, since in self._waiting.items():
            return adapter if self._is_due(since, now) else None
        return None

    def balance(self, now: float) -> None:
        """Close as many slots as overdue adapters need beyond the free ones, and open those that nobody needs."""
        if not self._num_closed and self.overdue(now) is None:
            return
        free = self._max_slots - len(self._busy)
        needed = min(self._count_overdue(now) - free, self._max_closed)
        by_tenure = sorted(self._busy.values(), key=lambda slot: slot.since)
        for slot in by_tenure:
            if self._num_closed < needed and not slot.is_closed and self._is_due(slot.since, now):
                slot.is_closed = True
                self._num_closed += 1
        for slot in reversed(by_tenure):
            if self._num_closed > max(0, needed) and slot.is_closed:
                slot.is_closed = False
                self._num_closed -= 1

    def take(self, adapter: str, now: float) -> bool:
        """Count one more request of `adapter` in; return whether the engine has to load it first."""
        slot = self._busy.get(adapter)
        if slot is not None:
            slot.in_flight += 1
            return False
        is_cold = adapter not in self._loaded
        self._loaded.pop(adapter, None)
        if is_cold and len(self._busy) + len(self._loaded) >= self._max_slots:
            self._loaded.popitem(last=False)
        self._busy[adapter] = _Slot(in_flight=1, since=now)
        self._waiting.pop(adapter, None)
        return is_cold

    def release(self, adapter: str, now: float, *, is_wanted: bool) -> None:
        """Count one request of `adapter` out; `is_wanted` says whether another one waits."""
        slot = self._busy[adapter]
        slot.in_flight -= 1
        if slot.in_flight:
            return
        self._num_closed -= slot.is_closed
        del self._busy[adapter]
        self._loaded[adapter] = None
        if is_wanted:
            self._waiting[adapter] = now

    def _is_due(self, since: float, now: float) -> bool:
        return now - since >= self._patience_s

    def _count_overdue(self, now: float) -> int:
        count = 0
        for since in self._waiting.values():
            if not self._is_due(since, now) or count >= self._max_slots:
                break
            count += 1
        return count
