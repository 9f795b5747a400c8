"""The shapes of ASGI that the gateway deals in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import TypeAlias, cast

Scope: TypeAlias = MutableMapping[str, object]
Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

JSON_TYPE = b"application/json"


def headers_of(message: Scope | Message) -> Headers:
    """Return the header pairs of a scope or of a response's start; names are lower case, as ASGI demands."""
    return cast("Headers", message.get("headers") or ())


def header_values(headers: Headers, name: bytes) -> list[bytes]:
    """Return every value of `name`, in order."""
    return [value for key, value in headers if key.lower() == name]


async def send_answer(
    send: Send, *, status: int, body: bytes, content_type: bytes = JSON_TYPE, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send one whole answer."""
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
