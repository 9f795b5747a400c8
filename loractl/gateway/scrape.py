"""Answering a scrape of ``/metrics``: what the engine's server says, and beside it what only the gateway knows."""

from __future__ import annotations

from http import HTTPStatus
from typing import cast

from loractl.gateway.asgi import ASGIApp, Message, Receive, Scope, Send, header_values, headers_of, send_answer
from loractl.observability.exposition import TEXT_TYPE, beside
from loractl.observability.snapshot import Snapshot


async def answer_metrics(app: ASGIApp, scope: Scope, receive: Receive, send: Send, numbers: Snapshot) -> None:
    """Answer one scrape with what `app` says of the engine and, after it, `numbers`.

    Where the answer of `app` is no exposition, ours stands alone. `scope` must ask for no encoding, since the two are
    joined as text.
    """
    answer = _Whole()
    await app(scope, receive, answer)
    theirs = answer.body if answer.is_exposition else b""
    content_type = answer.content_type if answer.is_exposition else TEXT_TYPE.encode()
    await send_answer(send, status=int(HTTPStatus.OK), body=beside(theirs, numbers), content_type=content_type)


class _Whole:
    """Keeps an answer instead of sending it."""

    def __init__(self) -> None:
        self.body, self.content_type, self._status = b"", b"", 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = cast("int", message["status"])
            self.content_type = next(iter(header_values(headers_of(message), b"content-type")), b"")
        else:
            self.body += cast("bytes", message.get("body", b""))

    @property
    def is_exposition(self) -> bool:
        kinds = (b"text/plain", b"application/openmetrics-text")
        return self._status == HTTPStatus.OK and self.content_type.startswith(kinds)
