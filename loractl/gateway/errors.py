"""What the gateway refuses, in OpenAI's shape; the one place that knows HTTP statuses."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import ClassVar

from loractl.gateway.asgi import Message, Send, send_answer


class GatewayError(Exception):
    """Root of what the gateway answers instead of the engine.

    Attributes:
        status: HTTP status of the answer.
        kind: OpenAI's `type` of the error.
        code: Stable identifier for machines, OpenAI's where it has one.
        param: The field of the request that is to blame, or None.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    kind: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str] = "invalid_request"
    closes_connection: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def body(self) -> bytes:
        """Return the body of the answer."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, separators=(",", ":")).encode()


class RouteNotFoundError(GatewayError):
    """The method and path are not on the allow-list."""

    status, code = HTTPStatus.NOT_FOUND, "not_found"

    def __init__(self) -> None:
        super().__init__("there is no such route here")


class ModelNotFoundError(GatewayError):
    """The model is unknown, not approved, revoked, damaged, or more than this engine can take.

    The body is one constant, so that it says nothing about which of these it is, and not even what was asked.
    """

    status, code = HTTPStatus.NOT_FOUND, "model_not_found"

    def __init__(self) -> None:
        super().__init__("the model does not exist or is not served here; GET /v1/models lists what is", param="model")


class UnauthorizedError(GatewayError):
    """The server wants an API key and the request has none that it knows."""

    status, code = HTTPStatus.UNAUTHORIZED, "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("missing or unknown API key; send the header Authorization: Bearer KEY")


class MediaTypeError(GatewayError):
    """The body is not declared as plain JSON."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"

    def __init__(self, header: str, wanted: str) -> None:
        super().__init__(f"unsupported {header}; send {wanted}")


class BodyTooLargeError(GatewayError):
    """The body is larger than the limit."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large"
    closes_connection = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes; send less, or raise the server's limit")


class BodyTimeoutError(GatewayError):
    """The body did not arrive in time."""

    status, code = HTTPStatus.REQUEST_TIMEOUT, "request_timeout"
    closes_connection = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request body did not arrive within {seconds:g} s; send it again")


class MalformedBodyError(GatewayError):
    """The body is not one strict JSON object."""

    code = "invalid_json"


class FieldRefusedError(GatewayError):
    """A field of the request is missing, of the wrong type, or not a client's to set."""

    code = "field_refused"


class InternalError(GatewayError):
    """Something broke that is not the client's fault."""

    status, kind, code = HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "internal_error"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the server failed to answer; its log has the cause under request {request_id}")


OK_STATUS = int(HTTPStatus.OK)
UNHEALTHY_STATUS = int(HTTPStatus.SERVICE_UNAVAILABLE)


async def answer_error(error: GatewayError, send: Send) -> None:
    """Send `error` as the whole answer."""
    extra = [(b"connection", b"close")] if error.closes_connection else []
    if isinstance(error, UnauthorizedError):
        extra.append((b"www-authenticate", b"Bearer"))
    await send_answer(send, status=int(error.status), body=error.body(), extra=extra)


def closing_event(error: GatewayError) -> Message:
    """Return the last event of a stream that ends in `error`; the openai client raises on it."""
    return {"type": "http.response.body", "body": b"data: " + error.body() + b"\n\n", "more_body": False}


async def refuse_websocket(scope_extensions: object, send: Send) -> None:
    """Turn a WebSocket handshake away: with the 404 of every other route where the server can, else by closing."""
    if not (isinstance(scope_extensions, dict) and "websocket.http.response" in scope_extensions):
        await send({"type": "websocket.close", "code": 1008})
        return
    error = RouteNotFoundError()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(error.body())).encode())]
    await send({"type": "websocket.http.response.start", "status": int(error.status), "headers": headers})
    await send({"type": "websocket.http.response.body", "body": error.body()})
