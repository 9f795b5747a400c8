"""Handing a judged request to the engine's server, and its answer back."""

from __future__ import annotations

from collections.abc import Awaitable

from loractl.gateway.asgi import JSON_TYPE, ASGIApp, Headers, Message, Receive, Scope, Send, header_values, headers_of
from loractl.gateway.errors import ModelNotFoundError, answer_error, closing_event
from loractl.gateway.flights import Flight

# vLLM reads priorities, ranks and sessions from X- headers, so only headers that are known to be harmless pass.
# Who asks is known by now, and an encoding would keep the answer from being read on its way.
_PASSED_HEADERS = frozenset({b"host", b"user-agent"})


def rewritten(scope: Scope, *, path: str, request_id: str, body: bytes, trace: Headers = ()) -> Scope:
    """Return `scope` as the engine's server may see it: the exact path, and only headers that cannot steer it."""
    passed = [(name, value) for name, value in headers_of(scope) if name.lower() in _PASSED_HEADERS]
    headers: Headers = [*passed, *trace, (b"x-request-id", request_id.encode())]
    if body:
        headers = [*headers, (b"content-type", JSON_TYPE), (b"content-length", str(len(body)).encode())]
    return {
        **scope,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
    }


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` first and then whatever still comes, so that a disconnect is heard."""
    is_given = False

    async def receive_replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_replayed


async def forward_revocable(app: ASGIApp, scope: Scope, receive: Receive, send: Send, flight: Flight) -> None:
    """Let `app` answer unless the version behind the request is refused meanwhile.

    An answer that has not begun by then becomes the 404. One that has begun ends when the engine aborts it, or is cut.
    """
    answer = _Answer(send, flight)

    async def receive_or_cut() -> Message:
        return await flight.receive(receive)

    try:
        await app(scope, receive_or_cut, answer)
    except Exception:
        if not flight.is_cut:
            raise
    if flight.is_cut:
        await answer.end()


class _Answer:
    """The way of an answer back to the client."""

    __slots__ = ("_flight", "_has_spoken", "_is_complete", "_is_events", "_is_replaced", "_is_started", "_send")

    def __init__(self, send: Send, flight: Flight) -> None:
        self._send = send
        self._flight = flight
        self._is_started = self._is_replaced = self._is_complete = self._is_events = self._has_spoken = False

    def __call__(self, message: Message) -> Awaitable[None]:
        """Pass `message` on, untouched and at once, while it may leave; no coroutine of its own for each token."""
        flight = self._flight
        if self._is_replaced or flight.is_cut:
            return _nothing()
        if message["type"] == "http.response.start":
            if flight.is_refused:
                return self._replace()
            self._is_started = True
            content_types = header_values(headers_of(message), b"content-type")
            self._is_events = bool(content_types) and content_types[0].startswith(b"text/event-stream")
        else:
            # A stream sends its headers before the first token, and vLLM ends one that is aborted before it as if it
            # had nothing to say.
            if flight.is_refused and self._is_events and not self._has_spoken:
                return self._break_off()
            self._has_spoken = self._has_spoken or bool(message.get("body"))
            self._is_complete = not message.get("more_body")
        return self._send(message)

    async def end(self) -> None:
        """End an answer that was cut: as the 404, as an event that says so, or by breaking off."""
        if not self._is_started and not self._is_replaced:
            await self._replace()
        elif self._is_events and not self._is_complete and not self._is_replaced:
            await self._break_off()

    async def _break_off(self) -> None:
        self._is_replaced = True
        await self._send(closing_event(ModelNotFoundError()))

    async def _replace(self) -> None:
        self._is_replaced = True
        await answer_error(ModelNotFoundError(), self._send)


async def _nothing() -> None:
    """Let nothing out."""
