"""Bounds on what a connection may send before it is a request: uvicorn's faster parser has none of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_logger = logging.getLogger(__name__)
# What chunks of one byte carry beside it, and a little more.
_OVERHEAD = 8


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose head takes too long, or that sends too much beside the body of its request.

    The gateway sees a request only once its head is complete, and its body alone. Heads, trailers and extensions of
    chunks are collected before that, for whoever can connect.

    Attributes:
        max_head_bytes: Most bytes of a head; of trailers too, and more only in proportion to the body.
        head_timeout_s: Longest time from the connection, or the first byte of a later request, to the end of a head.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0

    _read = _kept = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take `data` in, and close if too much of it is none of the body."""
        self._read += len(data)
        super().data_received(data)
        if self._read > self.max_head_bytes + _OVERHEAD * self._kept and not self.transport.is_closing():
            self._refuse("it sent too much beside its body")

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._read = self._kept = 0
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Note that the request is the gateway's from now on."""
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count what the gateway gets, which has bounds of its own for it."""
        self._kept += len(body)
        super().on_body(body)

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self.head_timeout_s, self._refuse, "its head did not arrive in time")

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, why: str) -> None:
        _logger.debug("closing a connection: %s", why)
        self._stop_waiting()
        self.transport.abort()


def bound_connections(server: object) -> None:
    """Let `server`, a uvicorn that does not listen yet, bound its connections, unless its parser has bounds already."""
    config = getattr(server, "config", None)
    if getattr(config, "http_protocol_class", None) is HttpToolsProtocol:
        config.http_protocol_class = BoundedProtocol  # type: ignore[union-attr]
