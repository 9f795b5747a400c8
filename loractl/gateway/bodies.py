"""Reading a request's body within bounds, as one strict JSON object."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from loractl.gateway.asgi import Headers, Receive, header_values
from loractl.gateway.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    FieldRefusedError,
    MalformedBodyError,
    MediaTypeError,
    TooManyValuesError,
)

# Parsing this much takes about a millisecond; more of it happens beside the event loop.
_INLINE_BYTES = 64 * 1024
_SHOWN_KEY = 60
# Deeper than any tool's schema, and far from where a parser, or the engine's compiler of grammars, runs out of stack.
_MAX_DEPTH = 100
# The parser holds the interpreter for as long as it takes, so what it makes is bounded before it begins: three bytes
# can stand for a list of 64. No prompt of token ids that an engine takes has as many.
_MAX_VALUES = 1_000_000


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bounds of a request's body.

    Attributes:
        max_bytes: Largest body; a prompt of 128k tokens is about half a megabyte.
        timeout_s: Longest time from the headers to the last byte.
    """

    max_bytes: int = 32 * 1024 * 1024
    timeout_s: float = 30.0


class ClientGoneError(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


async def read_body(headers: Headers, receive: Receive, limits: BodyLimits) -> bytes:
    """Return the whole body.

    Raises:
        MediaTypeError: It is not declared as plain JSON.
        BodyTooLargeError: It is, or says that it is, larger than the limit.
        BodyTimeoutError: It did not arrive in time.
        ClientGoneError: The client disconnected first.
    """
    _check_media_type(headers)
    declared = header_values(headers, b"content-length")
    if any(value.isdigit() and int(value[:20]) > limits.max_bytes for value in declared):
        raise BodyTooLargeError(limits.max_bytes)
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await _collect(receive, limits.max_bytes)
    except TimeoutError:
        raise BodyTimeoutError(limits.timeout_s) from None


async def parse_request(body: bytes) -> dict[str, object]:
    """Parse `body` as one JSON object without duplicate keys, NaN or infinities.

    Raises:
        MalformedBodyError: It is anything else, or nested too deeply.
        TooManyValuesError: Parsing it would take all too long.
    """
    if len(body) > _MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise TooManyValuesError(_MAX_VALUES)
    return _parse(body) if len(body) <= _INLINE_BYTES else await asyncio.to_thread(_parse, body)


async def render_request(request: dict[str, object], *, size_hint: int) -> bytes:
    """Write `request` as JSON again, so that the engine reads exactly what was judged here.

    Raises:
        MalformedBodyError: It holds a number that is too large to be one, or text that is not Unicode.
    """
    return _render(request) if size_hint <= _INLINE_BYTES else await asyncio.to_thread(_render, request)


def model_of(request: dict[str, object]) -> str:
    """Return the model that `request` asks for.

    Raises:
        FieldRefusedError: `model` is missing or not a string.
    """
    model = request.get("model")
    if not isinstance(model, str):
        raise FieldRefusedError("the field model must be a string; GET /v1/models lists what is served", param="model")
    return model


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    # One buffer: a list of chunks of a byte each would take many times their size.
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = cast("bytes", message.get("body", b""))
        if len(body) + len(chunk) > max_bytes:
            raise BodyTooLargeError(max_bytes)
        body += chunk
        if not message.get("more_body"):
            return bytes(body)


def _check_media_type(headers: Headers) -> None:
    types = header_values(headers, b"content-type")
    media_type, _, parameters = (types[0] if types else b"").partition(b";")
    charset = parameters.strip().lower().replace(b'"', b"")
    if len(types) != 1 or media_type.strip().lower() != b"application/json" or charset not in (b"", b"charset=utf-8"):
        raise MediaTypeError("content-type", "application/json")
    if header_values(headers, b"content-encoding") not in ([], [b"identity"]):
        raise MediaTypeError("content-encoding", "the body as it is")


def _parse(body: bytes) -> dict[str, object]:
    try:
        request: object = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"the request body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedBodyError(f"the request body is not JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise MalformedBodyError("the request body is nested too deeply") from None
    except ValueError as error:
        raise MalformedBodyError(f"the request body is not strict JSON: {error}") from None
    if not isinstance(request, dict):
        raise MalformedBodyError("the request body must be one JSON object")
    if body.count(b"[") + body.count(b"{") > _MAX_DEPTH and _is_deeper(cast("object", request), _MAX_DEPTH):
        raise MalformedBodyError(f"the request body is nested more than {_MAX_DEPTH} levels deep")
    return cast("dict[str, object]", request)


def _render(request: dict[str, object]) -> bytes:
    try:
        return _ENCODER.encode(request).encode("utf-8")
    except RecursionError:
        raise MalformedBodyError("the request body is nested too deeply") from None
    except UnicodeEncodeError:
        raise MalformedBodyError("the request body holds half of a surrogate pair") from None
    except ValueError:
        raise MalformedBodyError("the request body holds a number that is too large") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Two parsers may disagree about which of two equal keys counts.
    result = dict(pairs)
    if len(result) != len(pairs):
        duplicate = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"duplicate key {duplicate[:_SHOWN_KEY]!a}")
    return result


def _is_deeper(value: object, levels: int) -> bool:
    """Whether containers are nested in `value` to more than so many levels; looks at one level at a time."""
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [inner for outer in layer for inner in _inside(outer) if isinstance(inner, (dict, list))]
        if not layer:
            return False
    return True


def _inside(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return cast("dict[str, object]", container).values()
    return cast("list[object]", container)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, ensure_ascii=False, separators=(",", ":"))
