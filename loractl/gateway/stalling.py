"""Giving up on a client that does not read: what it holds at the engine would be lost to everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from loractl.gateway.asgi import Message, Send
from loractl.gateway.bodies import ClientGoneError


@contextmanager
def impatient(send: Send, stall_timeout_s: float) -> Generator[Send]:
    """Give a `send` with a bound on how long the client may leave no room for the next message.

    It raises `ClientGoneError` once that is reached, at the latest after half as long again.
    """
    patience = _Patience(send, stall_timeout_s)
    try:
        yield patience.send
    finally:
        patience.end()


class _Patience:
    """Looks now and then whether a message waits; a timer for each message would cost as much as a token."""

    __slots__ = ("_is_over", "_loop", "_send", "_since", "_task", "_timeout_s", "_timer")

    def __init__(self, send: Send, timeout_s: float) -> None:
        self._send, self._timeout_s = send, timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._since = 0.0
        self._is_over = False
        self._timer = self._loop.call_later(timeout_s / 2, self._look)

    async def send(self, message: Message) -> None:
        self._since, self._task = self._loop.time(), asyncio.current_task(self._loop)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if self._is_over and self._task is not None and self._task.uncancel() == 0:
                raise ClientGoneError from None
            raise
        finally:
            self._task = None

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._task is not None and self._loop.time() - self._since >= self._timeout_s:
            self._is_over = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_later(self._timeout_s / 2, self._look)
