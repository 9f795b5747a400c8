"""What the gateway refuses, in OpenAI's shape; the one place that knows HTTP statuses."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import ClassVar

from loractl.gateway.asgi import Headers, Message, Send, send_answer
from loractl.observability.outcomes import Outcome
from loractl.quotas import Refusal, SizeRefusal, refusal_body, refusal_headers


class GatewayError(Exception):
    """Root of what the gateway answers instead of the engine.

    Attributes:
        status: HTTP status of the answer.
        kind: OpenAI's `type` of the error.
        code: Stable identifier for machines, OpenAI's where it has one.
        outcome: How such a request is counted.
        param: The field of the request that is to blame, or None.
        headers: Headers of the answer beside the usual ones.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    kind: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str] = "invalid_request"
    outcome: ClassVar[Outcome] = Outcome.INVALID
    closes_connection: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, headers: Headers = ()) -> None:
        super().__init__(message)
        self.param, self.headers = param, headers

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
    outcome = Outcome.REFUSED_UNKNOWN

    def __init__(self) -> None:
        super().__init__("the model does not exist or is not served here; GET /v1/models lists what is", param="model")


class UnauthorizedError(GatewayError):
    """The server wants an API key and the request has none that it knows."""

    status, code = HTTPStatus.UNAUTHORIZED, "invalid_api_key"
    outcome = Outcome.REFUSED_KEY

    def __init__(self) -> None:
        super().__init__(
            "missing or unknown API key; send the header Authorization: Bearer KEY",
            headers=((b"www-authenticate", b"Bearer"),),
        )


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


class TooManyValuesError(GatewayError):
    """The body holds more values than it is worth to parse."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body holds more than {limit} values; send less")


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


class SizeRefusedError(GatewayError):
    """The prompt or its answer is longer than the tenant may have."""

    code, outcome = "context_length_exceeded", Outcome.REFUSED_POLICY

    def __init__(self, refusal: SizeRefusal) -> None:
        super().__init__(
            f"{refusal.asked} tokens are more than the {refusal.allowed} that this key's tenant may have"
            f" ({refusal.limit}); send less, or ask for less"
        )


class QuotaExceededError(GatewayError):
    """A quota of the tenant does not allow the request now."""

    status, outcome = HTTPStatus.TOO_MANY_REQUESTS, Outcome.REFUSED_QUOTA

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"the quota {refusal.limit} is used up", headers=refusal_headers(refusal))
        self._body = refusal_body(refusal)

    def body(self) -> bytes:
        """Return the body of the answer, which names the quota and when to come back."""
        return json.dumps(self._body, separators=(",", ":")).encode()


class QueueRefusedError(GatewayError):
    """The tenant has as many requests waiting as it may."""

    status, kind, code = HTTPStatus.TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded"
    outcome = Outcome.REFUSED_QUOTA

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; wait for some of them", headers=((b"retry-after", b"1"),))


class OverloadedError(GatewayError):
    """The request waited for the engine as long as it may."""

    status, kind, code = HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "overloaded"
    outcome = Outcome.TIMED_OUT

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; try again later", headers=((b"retry-after", b"5"),))


class EngineFailedError(GatewayError):
    """The engine's server broke while it answered."""

    status, kind, code = HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "engine_failed"
    outcome = Outcome.ENGINE

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the engine failed to answer; the server's log has the cause under request {request_id}")


class InternalError(GatewayError):
    """Something broke that is not the client's fault."""

    status, kind, code = HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "internal_error"
    outcome = Outcome.INTERNAL

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the server failed to answer; its log has the cause under request {request_id}")


OK_STATUS = int(HTTPStatus.OK)
UNHEALTHY_STATUS = int(HTTPStatus.SERVICE_UNAVAILABLE)


async def answer_error(error: GatewayError, send: Send) -> None:
    """Send `error` as the whole answer."""
    extra = [(b"connection", b"close")] if error.closes_connection else []
    await send_answer(send, status=int(error.status), body=error.body(), extra=[*extra, *error.headers])


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
