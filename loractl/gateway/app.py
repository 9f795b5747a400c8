"""The ASGI layer outermost on the engine's server: who may ask for what."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from loractl.gateway.amounts import Amounts, amounts_of, check_answers, hold_to_bounds, needs_count
from loractl.gateway.asgi import ASGIApp, Headers, Message, Receive, Scope, Send, headers_of, send_answer
from loractl.gateway.bodies import BodyLimits, ClientGoneError, model_of, parse_request, read_body, render_request
from loractl.gateway.callers import Caller
from loractl.gateway.controls import Controls
from loractl.gateway.counting import longest_prompt
from loractl.gateway.errors import (
    OK_STATUS,
    UNHEALTHY_STATUS,
    GatewayError,
    InternalError,
    ModelNotFoundError,
    RouteNotFoundError,
    answer_error,
    refuse_websocket,
)
from loractl.gateway.exchange import Exchange
from loractl.gateway.fields import check_fields
from loractl.gateway.flights import Flight
from loractl.gateway.forwarding import forward_revocable, replay, rewritten
from loractl.gateway.keeping import Keeping
from loractl.gateway.live import LiveState
from loractl.gateway.meter import Meter, ask_for_usage
from loractl.gateway.reconciler import Reconciler
from loractl.gateway.routes import Route, match_route
from loractl.gateway.scrape import answer_metrics
from loractl.gateway.stalling import impatient
from loractl.gateway.table import Target
from loractl.gateway.turns import Turn
from loractl.observability.outcomes import Outcome
from loractl.web.assets import asset

_logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = b"x-loractl-request-id"
_ID_BYTES = 16
_NOT_KEPT: Headers = ((b"cache-control", b"no-store"),)
# Files that change again and again while they are being hashed are not going to be served.
_RECHECKS = 3


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What an operator may choose.

    Attributes:
        body: Bounds of request bodies.
        queue_timeout_s: Longest wait for a turn at the engine; None waits without end.
        stall_timeout_s: How long a client may not read while there is something for it, before it counts as gone.
        orders_prompts: The engine takes prompts in the order of their `priority`.
    """

    body: BodyLimits = field(default_factory=BodyLimits)
    queue_timeout_s: float | None = 60.0
    stall_timeout_s: float = 30.0
    orders_prompts: bool = False


class Asked(NamedTuple):
    """Who asks whom, and for how much by estimate."""

    caller: Caller
    target: Target
    amounts: Amounts


class Gateway:
    """Answers the allow-list of routes and 404 for everything else, and hands the engine exact versions only.

    The lifespan of `app` carries the reconciler's: the server is up once everything that can be served is.

    Args:
        app: The engine's own OpenAI server.
        reconciler: Knows what each name means.
        controls: What every request passes.
        live: Shows what goes on.
        keeping: What is kept of requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        reconciler: Reconciler,
        controls: Controls,
        live: LiveState,
        keeping: Keeping | None = None,
        settings: GatewaySettings | None = None,
    ) -> None:
        self._app = app
        self._reconciler = reconciler
        self._controls = controls
        self._live = live
        self._keeping = keeping or Keeping()
        self._settings = settings or GatewaySettings()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "websocket":
                await refuse_websocket(scope.get("extensions"), send)
            case "lifespan":
                await self._follow(scope, receive, send)
            case _:
                _logger.warning("ignoring a connection of the unknown kind %s", ascii(scope["type"])[:40])

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = secrets.token_hex(_ID_BYTES)
        is_started = False

        def tagged(message: Message) -> Awaitable[None]:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                others = [pair for pair in headers_of(message) if pair[0].lower() != REQUEST_ID_HEADER]
                message = {**message, "headers": [*others, (REQUEST_ID_HEADER, request_id.encode())]}
            return send(message)

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
        door, table, headers = self._controls.door, self._reconciler.table, headers_of(scope)
        match route:
            case Route.MODELS:
                names = door.names_for(door.identify(headers), table)
                await _send_json(send, {"object": "list", "data": table.models(names)})
            case Route.MODEL:
                if name is None or door.resolve(door.identify(headers), table, name) is None:
                    raise ModelNotFoundError
                await _send_json(send, table.describe(name))
            case Route.HEALTH:
                await self._answer_health(headers, send)
            case Route.METRICS:
                door.require_operator(headers)
                asked = rewritten(scope, path=route.path, request_id=request_id, body=b"")
                await answer_metrics(self._app, asked, replay(b"", receive), send, self._controls.numbers())
            case Route.STATE:
                door.require_operator(headers)
                trouble = await self._trouble() or self._controls.losses()
                gathered = self._live.gathered(self._reconciler, trouble)
                body = await asyncio.to_thread(lambda: _json(gathered()))
                await send_answer(send, status=OK_STATUS, body=body, extra=_NOT_KEPT)
            case Route.PAGE:
                file = None if name is None else asset(name)
                if file is None:
                    raise RouteNotFoundError
                await send_answer(
                    send, status=OK_STATUS, body=file.body, content_type=file.content_type, extra=file.headers
                )
            case Route.COMPLETIONS | Route.CHAT_COMPLETIONS | Route.RESPONSES:
                with self._controls.journal.open(request_id, headers) as exchange:
                    await self._generate(route, scope, receive, send, exchange)

    async def _generate(self, route: Route, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        controls = self._controls
        caller = controls.door.identify(headers_of(scope))
        exchange.came_from(caller)
        received = await read_body(headers_of(scope), receive, self._settings.body)
        request = await parse_request(received)
        model = model_of(request)
        check_fields(route, request)
        target = await self._resolve(caller, model)
        exchange.goes_to(target, self._reconciler.table.base)
        # Boarding follows resolving without a pause: a revocation finds the request either not resolved or on its way.
        flights = self._reconciler.flights
        with flights.board(target.version.ref) if target.version else nullcontext() as flight:
            amounts = amounts_of(route, request)
            check_answers(amounts, caller)
            # Before anything is counted, so that whoever is over a quota costs the engine nothing.
            exchange.reserved(controls.reserve(caller, target.adapter, amounts))
            amounts = await self._bounded(route, request, scope, receive, Asked(caller, target, amounts))
            turn = controls.turn(caller, target, amounts, deadline_s=self._settings.queue_timeout_s)
            async with Turn(controls.admission.admit(turn), receive, flight) as grant:
                with exchange.granted(grant, input_tokens=amounts.input_tokens):
                    request["model"] = target.model
                    if caller.salt is not None:
                        request["cache_salt"] = caller.salt
                    if self._settings.orders_prompts:
                        request["priority"] = grant.order
                    meter = Meter(
                        exchange,
                        route,
                        hides_usage=ask_for_usage(route, request),
                        ask_engine=partial(self._reconciler.engine.counts_of, exchange.id),
                    )
                    body = await render_request(request, size_hint=len(received))
                    judged = rewritten(
                        scope, path=route.path, request_id=exchange.id, body=body, trace=exchange.trace_headers
                    )
                    with impatient(send, self._settings.stall_timeout_s) as patient:
                        await self._forward(meter, judged, replay(body, receive), patient, flight)
                    exchange.outcome = exchange.outcome or meter.outcome()
                    if flight is not None and flight.is_refused:
                        exchange.outcome = Outcome.ABORTED

    async def _bounded(
        self, route: Route, request: dict[str, object], scope: Scope, receive: Receive, asked: Asked
    ) -> Amounts:
        """Hold `request` to what its tenant may have, and return how much it asks for."""
        caller, target, amounts = asked
        if needs_count(amounts, caller, target.adapter):
            longest = await longest_prompt(self._app, scope, receive, route=route, request=request, model=target.model)
            amounts = replace(amounts, longest_input=amounts.most_input if longest is None else longest)
        return hold_to_bounds(route, request, amounts, caller, target.adapter)

    async def _forward(self, meter: Meter, scope: Scope, receive: Receive, send: Send, flight: Flight | None) -> None:
        app = meter.watching(self._app)
        if flight is None:
            await app(scope, receive, send)
        elif flight.is_refused:
            raise ModelNotFoundError
        else:
            await forward_revocable(app, scope, receive, send, flight)

    async def _resolve(self, caller: Caller, model: str) -> Target:
        for _ in range(_RECHECKS):
            target = self._controls.door.resolve(caller, self._reconciler.table, model)
            if target is None:
                raise ModelNotFoundError
            if target.version is None or self._reconciler.is_unchanged(target.version.ref):
                return target
            await self._reconciler.recheck(target.version.ref)
        raise ModelNotFoundError

    async def _answer_health(self, headers: Headers, send: Send) -> None:
        trouble, losses = await self._trouble(), self._controls.losses()
        if trouble is not None:
            await _send_json(send, {"status": "degraded", "reason": trouble}, status=UNHEALTHY_STATUS)
        elif losses is not None and self._controls.door.is_operator(headers):
            await _send_json(send, {"status": "degraded", "reason": losses})
        else:
            await _send_json(send, {"status": "ok"})

    async def _trouble(self) -> str | None:
        if not await self._reconciler.engine.is_healthy():
            return "the engine cannot answer"
        return self._reconciler.trouble() or self._keeping.trouble()

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_stop() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._reconciler.stop()
                await self._keeping.stop()
            return message

        async def start_and_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    await self._reconciler.start()
                    self._keeping.start()
                except Exception as error:
                    _logger.exception("cannot follow the registry")
                    message = {"type": "lifespan.startup.failed", "message": f"cannot follow the registry: {error}"}
            await send(message)

        await self._app(scope, receive_and_stop, start_and_send)


async def _send_json(send: Send, value: object, *, status: int = OK_STATUS) -> None:
    await send_answer(send, status=status, body=_json(value))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
