"""Waiting for a turn at the engine, until it comes or there is no point in waiting any more."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from loractl.fairness import Grant, QueueFullError, WaitTooLongError
from loractl.gateway.asgi import Receive
from loractl.gateway.bodies import ClientGoneError
from loractl.gateway.errors import ModelNotFoundError, OverloadedError, QueueRefusedError
from loractl.gateway.flights import Flight


class Turn:
    """Holds a place in the engine for as long as the context lasts; a disconnect or a revocation ends the wait for it.

    Args:
        place: What `AdmissionController.admit` gave.
        receive: The client's.
        flight: What a revocation refuses; None for the base.

    Raises:
        QueueRefusedError: On entering: the tenant has as many requests waiting as it may.
        OverloadedError: On entering: the request waited as long as it may.
        ModelNotFoundError: On entering: the version was revoked meanwhile.
        ClientGoneError: On entering: the client has left.
    """

    def __init__(self, place: AbstractAsyncContextManager[Grant], receive: Receive, flight: Flight | None) -> None:
        self._place = place
        self._receive = receive
        self._flight = flight
        self._task = asyncio.current_task()
        self._cause: Exception | None = None
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Grant:
        if self._flight is not None:
            self._flight.on_refused = self._revoked
        # A request that is admitted at once never comes back to the loop, so that it costs no listener.
        soon = asyncio.get_running_loop().call_soon(self._listen)
        try:
            return await self._place.__aenter__()
        except QueueFullError as error:
            raise QueueRefusedError(str(error)) from error
        except WaitTooLongError as error:
            raise OverloadedError(str(error)) from error
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

    async def __aexit__(self, *_: object) -> None:
        await self._place.__aexit__(None, None, None)

    def _listen(self) -> None:
        self._listener = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(ClientGoneError())

    def _revoked(self) -> None:
        self._end(ModelNotFoundError())

    def _end(self, cause: Exception) -> None:
        if self._cause is None and self._task is not None:
            self._cause = cause
            self._task.cancel()
