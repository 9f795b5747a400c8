"""The ASGI layer outermost on the engine's server: who may ask for what."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field

from loractl.gateway.asgi import ASGIApp, Headers, Message, Receive, Scope, Send, header_values, headers_of, send_answer
from loractl.gateway.bodies import BodyLimits, ClientGoneError, model_of, parse_request, read_body, render_request
from loractl.gateway.errors import (
    OK_STATUS,
    UNHEALTHY_STATUS,
    GatewayError,
    InternalError,
    ModelNotFoundError,
    UnauthorizedError,
    answer_error,
    refuse_websocket,
)
from loractl.gateway.fields import check_fields
from loractl.gateway.forwarding import forward_revocable, replay, rewritten
from loractl.gateway.reconciler import Reconciler
from loractl.gateway.routes import Route, match_route
from loractl.gateway.table import Target

_logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = b"x-loractl-request-id"
# Files that change again and again while they are being hashed are not going to be served.
_RECHECKS = 3


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What an operator may choose.

    Attributes:
        body: Bounds of request bodies.
        api_keys: Keys of which ``/v1`` wants one; none means that everybody who can connect may ask.
    """

    body: BodyLimits = field(default_factory=BodyLimits)
    api_keys: frozenset[str] = frozenset()


class Gateway:
    """Answers the allow-list of routes and 404 for everything else, and hands the engine exact versions only.

    The lifespan of `app` carries the reconciler's: the server is up once everything that can be served is.

    Args:
        app: The engine's own OpenAI server.
        reconciler: Knows what each name means.
    """

    def __init__(self, app: ASGIApp, *, reconciler: Reconciler, settings: GatewaySettings | None = None) -> None:
        self._app = app
        self._reconciler = reconciler
        self._settings = settings or GatewaySettings()
        self._key_digests = [hashlib.sha256(key.encode()).digest() for key in self._settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "websocket":
                await refuse_websocket(scope.get("extensions"), send)
            case "lifespan":
                await self._live(scope, receive, send)
            case _:
                _logger.warning("ignoring a connection of the unknown kind %s", ascii(scope["type"])[:40])

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = uuid.uuid4().hex
        is_started = False

        async def tagged(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                others = [pair for pair in headers_of(message) if pair[0].lower() != REQUEST_ID_HEADER]
                message = {**message, "headers": [*others, (REQUEST_ID_HEADER, request_id.encode())]}
            await send(message)

        try:
            await self._answer(scope, receive, tagged, request_id)
        except GatewayError as error:
            await answer_error(error, tagged)
        except ClientGoneError:
            return
        except Exception:
            # The last line of defence: the client gets an answer of our shape, the operator the traceback.
            _logger.exception("request %s failed", request_id)
            if is_started:
                raise
            await answer_error(InternalError(request_id), tagged)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        route, name = match_route(scope)
        if route.wants_key:
            self._check_key(headers_of(scope))
        match route:
            case Route.MODELS:
                await _send_json(send, {"object": "list", "data": self._reconciler.table.models()})
            case Route.MODEL:
                table = self._reconciler.table
                if name is None or table.resolve(name) is None:
                    raise ModelNotFoundError
                await _send_json(send, table.describe(name))
            case Route.HEALTH:
                await self._answer_health(send)
            case Route.METRICS:
                forwarded = rewritten(scope, path=route.path, request_id=request_id, body=b"")
                await self._app(forwarded, replay(b"", receive), send)
            case Route.COMPLETIONS | Route.CHAT_COMPLETIONS | Route.RESPONSES:
                await self._generate(route, scope, receive, send, request_id)

    async def _generate(self, route: Route, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        received = await read_body(headers_of(scope), receive, self._settings.body)
        request = await parse_request(received)
        model = model_of(request)
        check_fields(route, request)
        target = await self._resolve(model)
        # Boarding follows resolving without a pause: a revocation finds the request either not resolved or on its way.
        with ExitStack() as stack:
            flight = stack.enter_context(self._reconciler.flights.board(target.version.ref)) if target.version else None
            request["model"] = target.model
            body = await render_request(request, size_hint=len(received))
            forwarded = rewritten(scope, path=route.path, request_id=request_id, body=body)
            if flight is None:
                await self._app(forwarded, replay(body, receive), send)
            elif flight.is_refused:
                raise ModelNotFoundError
            else:
                await forward_revocable(self._app, forwarded, replay(body, receive), send, flight)

    async def _resolve(self, model: str) -> Target:
        for _ in range(_RECHECKS):
            target = self._reconciler.table.resolve(model)
            if target is None:
                raise ModelNotFoundError
            if target.version is None or self._reconciler.is_unchanged(target.version.ref):
                return target
            await self._reconciler.recheck(target.version.ref)
        raise ModelNotFoundError

    async def _answer_health(self, send: Send) -> None:
        trouble = self._reconciler.trouble()
        if not await self._reconciler.engine.is_healthy():
            trouble = "the engine cannot answer"
        if trouble is None:
            await _send_json(send, {"status": "ok"})
        else:
            await _send_json(send, {"status": "degraded", "reason": trouble}, status=UNHEALTHY_STATUS)

    def _check_key(self, headers: Headers) -> None:
        if not self._key_digests:
            return
        values = header_values(headers, b"authorization")
        scheme, _, key = (values[0] if len(values) == 1 else b"").partition(b" ")
        digest = hashlib.sha256(key).digest()
        # Every key is compared, so that the time says nothing about which one nearly matched.
        matches = [hmac.compare_digest(digest, known) for known in self._key_digests]
        if scheme.lower() != b"bearer" or not any(matches):
            raise UnauthorizedError

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_stop() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._reconciler.stop()
            return message

        async def start_and_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    await self._reconciler.start()
                except Exception as error:
                    _logger.exception("cannot follow the registry")
                    message = {"type": "lifespan.startup.failed", "message": f"cannot follow the registry: {error}"}
            await send(message)

        await self._app(scope, receive_and_stop, start_and_send)


async def _send_json(send: Send, value: object, *, status: int = OK_STATUS) -> None:
    await send_answer(send, status=status, body=json.dumps(value, separators=(",", ":")).encode())
