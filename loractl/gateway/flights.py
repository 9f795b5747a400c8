"""The requests that are on their way, by the version that they were resolved to."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from loractl.engine.ports import EnginePort
from loractl.gateway.asgi import Message, Receive
from loractl_registry import VersionRef

_DISCONNECT: Message = {"type": "http.disconnect"}
_LOOK_S = 0.01
_logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Flight:
    """One request from the moment its model was resolved until its answer is complete.

    Attributes:
        is_refused: The version may not answer any more; an answer that has not begun becomes the 404.
        is_cut: Nothing more of the answer may leave.
        on_refused: Called when it becomes refused, by whoever waits before the engine is asked.
    """

    is_refused: bool = False
    is_cut: bool = False
    on_refused: Callable[[], None] | None = None
    _waiting: asyncio.Task[object] | None = None

    def refuse(self) -> None:
        """Let no answer begin any more."""
        self.is_refused = True
        if self.on_refused is not None:
            self.on_refused()

    def cut(self) -> None:
        """Tell the engine's side that the client has gone, and let nothing more out."""
        if not self.is_cut:
            self.is_cut = True
            if self._waiting is not None:
                self._waiting.cancel()

    async def receive(self, receive: Receive) -> Message:
        """Return the next message from the client, or a disconnect once this flight is cut."""
        if self.is_cut:
            return dict(_DISCONNECT)
        # Interrupting the one wait, as asyncio.timeout does, costs a tenth of racing it against another task. No local
        # name holds the task: servers cancel their listeners, and with the traceback that keeps this frame it would be
        # a cycle for every request.
        self._waiting = asyncio.current_task()
        try:
            return await receive()
        except asyncio.CancelledError:
            if self.is_cut and _uncancel():
                return dict(_DISCONNECT)
            raise
        finally:
            # A server may begin to listen anew before the listener that it cancelled has ended.
            if self._waiting is asyncio.current_task():
                self._waiting = None


def _uncancel() -> bool:
    """Take one cancellation of the current task back; return whether it was the only one."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0


class Flights:
    """Every flight, by version. Used from one event loop only, so that resolving and boarding are one step."""

    def __init__(self) -> None:
        self._by_ref: defaultdict[VersionRef, set[Flight]] = defaultdict(set)

    @contextmanager
    def board(self, ref: VersionRef) -> Generator[Flight]:
        """Track one request for `ref` for as long as the context lasts."""
        flight = Flight()
        self._by_ref[ref].add(flight)
        try:
            yield flight
        finally:
            self._by_ref[ref].discard(flight)
            if not self._by_ref[ref]:
                del self._by_ref[ref]

    def count(self, ref: VersionRef) -> int:
        """Return how many requests for `ref` are on their way."""
        return len(self._by_ref.get(ref, ()))

    def refuse(self, ref: VersionRef) -> None:
        """Let no answer from `ref` begin any more; those that stream already go on until they are aborted or cut."""
        for flight in tuple(self._by_ref.get(ref, ())):
            flight.refuse()

    def cut(self, ref: VersionRef) -> int:
        """Cut every flight of `ref` off, and return how many there were."""
        flights = tuple(self._by_ref.get(ref, ()))
        for flight in flights:
            flight.cut()
        return len(flights)

    async def landed(self, ref: VersionRef, *, within_s: float) -> bool:
        """Wait until no request for `ref` is on its way; return whether that came true in time."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.count(ref):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True


async def end_service(ref: VersionRef, *, engine: EnginePort, flights: Flights, drain_s: float) -> None:
    """End every request for `ref` and take it out of the engine; the name must be refused already.

    The engine aborts the requests that it knows. One that was resolved in time may not have reached it yet, and would
    load the adapter again when it does: whatever is still on its way is cut off, and the engine is asked once more.

    Raises:
        EngineRefusedError: The engine still lists it afterwards.
    """
    flights.refuse(ref)
    await engine.evict(ref)
    if not flights.count(ref):
        return
    if not await flights.landed(ref, within_s=drain_s):
        count = flights.cut(ref)
        _logger.warning("cut off %d requests for %s, which the engine had not ended", count, ref)
        await flights.landed(ref, within_s=drain_s)
    await engine.evict(ref)
