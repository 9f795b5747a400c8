"""Waiting for a turn at the engine, until it comes or there is no point in waiting any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from loractl.fairness import AdmissionController, Grant, QueueFullError, Request, WaitTooLongError
from loractl.gateway.asgi import Receive
from loractl.gateway.bodies import ClientGoneError
from loractl.gateway.errors import ModelNotFoundError, OverloadedError, QueueRefusedError
from loractl.gateway.flights import Flight


@asynccontextmanager
async def turn_of(
    admission: AdmissionController, request: Request, receive: Receive, flight: Flight | None
) -> AsyncGenerator[Grant]:
    """Hold a place in the engine for as long as the context lasts.

    Raises:
        QueueRefusedError: The tenant has as many requests waiting as it may.
        OverloadedError: The request waited as long as it may.
        ModelNotFoundError: The version was revoked meanwhile.
        ClientGoneError: The client has left.
    """
    place = admission.admit(request)
    try:
        grant = await _Wait(flight).until(place.__aenter__(), receive)
    except QueueFullError as error:
        raise QueueRefusedError(str(error)) from error
    except WaitTooLongError as error:
        raise OverloadedError(str(error)) from error
    try:
        yield grant
    finally:
        await place.__aexit__(None, None, None)


class _Wait:
    """One wait that a disconnect or a revocation ends."""

    def __init__(self, flight: Flight | None) -> None:
        self._flight = flight
        self._task = asyncio.current_task()
        self._cause: Exception | None = None
        self._listener: asyncio.Task[None] | None = None

    async def until(self, entering: object, receive: Receive) -> Grant:
        if self._flight is not None:
            self._flight.on_refused = self._revoked
        # A request that is admitted at once never comes back to the loop, so that it costs no listener.
        soon = asyncio.get_running_loop().call_soon(self._listen, receive)
        try:
            return await entering  # type: ignore[misc, no-any-return]  # a coroutine of the context manager
        except asyncio.CancelledError:
            if self._cause is None or self._task is None or self._task.uncancel():
                raise
            raise self._cause from None
        finally:
            soon.cancel()
            if self._flight is not None:
                self._flight.on_refused = None
            if self._listener is not None:
                self._listener.cancel()

    def _listen(self, receive: Receive) -> None:
        self._listener = asyncio.ensure_future(self._until_gone(receive))

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end(ClientGoneError())

    def _revoked(self) -> None:
        self._end(ModelNotFoundError())

    def _end(self, cause: Exception) -> None:
        if self._cause is None and self._task is not None:
            self._cause = cause
            self._task.cancel()
