"""Watching an answer on its way: when tokens came, how many the engine counted, and how it ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from loractl.engine.ports import TokenCounts
from loractl.gateway.asgi import ASGIApp, Message, Receive, Scope, Send, header_values, headers_of
from loractl.gateway.bodies import ClientGoneError
from loractl.gateway.errors import EngineFailedError, closing_event
from loractl.gateway.exchange import Exchange
from loractl.gateway.routes import Route
from loractl.observability.outcomes import Outcome

# Compact JSON alone holds this: inside a text the second quote has a backslash before it.
_USAGE = b'"usage":{'
_NO_CHOICES = b'"choices":[]'
_ERROR_EVENTS = (b'data: {"error"', b"event: error", b"event: response.failed")
_NAMES = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
_DECODER = json.JSONDecoder()
_logger = logging.getLogger(__name__)


def ask_for_usage(route: Route, request: dict[str, object]) -> bool:
    """Have a stream end with what the engine counted; return whether the client did not ask for that itself."""
    if route is Route.RESPONSES or request.get("stream") is not True:
        return False
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        return False  # the engine says what is wrong with it
    known = cast("dict[str, object]", options or {})
    request["stream_options"] = {**known, "include_usage": True}
    return known.get("include_usage") is not True


class Meter:
    """Watches the engine's server answer one request, and lets everything on at once.

    Args:
        hides_usage: Whether the event that says what was counted is kept back, since the client did not ask for it.
        ask_engine: Says what the engine has done so far, for an answer that its client does not wait for.
    """

    def __init__(
        self, exchange: Exchange, route: Route, *, hides_usage: bool, ask_engine: Callable[[], TokenCounts | None]
    ) -> None:
        self._exchange, self._hides_usage, self._ask_engine = exchange, hides_usage, ask_engine
        self._is_responses = route is Route.RESPONSES
        self._is_events = self._is_complete = self._is_gone = False
        self._status = 0

    def watching(self, app: ASGIApp) -> ASGIApp:
        """Return `app` as this meter sees it: where it breaks, the client is told, if an answer can still say so."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_watched() -> Message:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self._is_gone = True
                    self._gone()
                return message

            async def send_watched(message: Message) -> None:
                passed = self._passed(message)
                if passed is None:
                    return
                try:
                    await send(passed)
                except ClientGoneError:
                    self._is_gone = True
                    self._gone()
                    raise

            try:
                await app(scope, receive_watched, send_watched)
            except Exception as error:  # noqa: BLE001  # whatever it is, the client waits for an answer
                await self._broke(error, send)

        return watched

    async def _broke(self, error: Exception, send: Send) -> None:
        """Say that the engine's server failed with `error`; where its client has left, nobody is to blame."""
        if self._is_gone:
            raise ClientGoneError from error
        _logger.error("the engine failed to answer request %s", self._exchange.id, exc_info=error)
        self._exchange.outcome = Outcome.ENGINE
        failure = EngineFailedError(self._exchange.id)
        if not self._status:
            raise failure from error
        if not self._is_events:
            raise error  # half a body cannot say so: the server breaks the connection off
        if not self._is_complete:
            self._is_complete = True
            await send(closing_event(failure))

    def outcome(self) -> Outcome | None:
        """Return how the answer ended by its status; None if that says nothing against it."""
        if self._status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Outcome.ENGINE
        return Outcome.INVALID if self._status >= HTTPStatus.BAD_REQUEST else None

    def _gone(self) -> None:
        if self._is_complete:
            return
        exchange = self._exchange
        exchange.outcome = exchange.outcome or Outcome.DISCONNECTED
        if not exchange.is_counted and (counts := self._ask_engine()) is not None:
            exchange.counted(counts.input_tokens, counts.output_tokens)

    def _passed(self, message: Message) -> Message | None:
        """Take `message` in, and return what of it the client may see."""
        if message["type"] == "http.response.start":
            self._status = cast("int", message["status"])
            content_types = header_values(headers_of(message), b"content-type")
            self._is_events = bool(content_types) and content_types[0].startswith(b"text/event-stream")
            return {**message, "headers": [*headers_of(message), *self._exchange.answer_headers]}
        self._is_complete = not message.get("more_body")
        if not self._is_hidden(cast("bytes", message.get("body", b""))):
            return message
        return {**message, "body": b""} if self._is_complete else None

    def _is_hidden(self, body: bytes) -> bool:
        """Take in what `body` says; return whether the client is not to see it."""
        found = body.rfind(_USAGE)
        if found >= 0 and (counts := _counts(body[found + len(_USAGE) - 1 :])) is not None:
            self._exchange.counted(*counts)
            return self._hides_usage and _NO_CHOICES in body and body.find(b"\n\n") == len(body) - 2
        if self._is_events and self._exchange.outcome is None:
            if body.startswith(_ERROR_EVENTS):
                self._exchange.outcome = Outcome.ENGINE
            elif self._is_token(body):
                self._exchange.token()
        return False

    def _is_token(self, body: bytes) -> bool:
        if self._is_responses:
            return b".delta" in body[:80]
        return body.startswith(b"data: {")


def _counts(text: bytes) -> tuple[int, int] | None:
    try:
        usage: object = _DECODER.raw_decode(text.decode("utf-8", "replace"))[0]
    except ValueError:
        return None
    values = cast("dict[str, object]", usage)
    for asked, answered in _NAMES:
        counts = values.get(asked), values.get(answered, 0)
        if all(type(count) is int and count >= 0 for count in counts):
            return cast("tuple[int, int]", counts)
    return None
