"""The ASGI class that vLLM's ``--middleware`` instantiates: the gateway, composed where the engine runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable
from http import HTTPStatus

from loractl.gateway.app import Gateway
from loractl.gateway.asgi import ASGIApp, Message, Receive, Scope, Send, headers_of, send_answer
from loractl.gateway.errors import GatewayError
from loractl.logs import log_to_stderr
from loractl.serving.composition import compose
from loractl.serving.config import EngineConfig
from loractl.serving.connections import bound_connections
from loractl.serving.readiness import INSTANCE_HEADER

_logger = logging.getLogger(__name__)
_RETRY_AFTER = (b"retry-after", b"5")
_TRY_AGAIN_LATER = 1013
_IDLE_POLL_S = 0.02


class UnavailableError(GatewayError):
    """The server is not up yet, or is on its way down."""

    status, kind, code = HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "unavailable"

    def __init__(self) -> None:
        super().__init__("the server is starting or stopping; try again in a few seconds")


class GatewayMiddleware:
    """Puts the gateway in front of every request, and refuses every request while there is no gateway.

    Composes it when the application starts, from the file that `loractl.serving.config` describes. The server listens
    only after that, so the first request finds every approved adapter admitted. On SIGUSR1 it refuses new requests,
    waits for the running ones, and then tells vLLM to end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._gateway: Gateway | None = None
        self._instance = b""
        self._in_flight = 0
        self._is_open = False
        self._drain_task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, one handshake or the application's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._gateway is not None and self._is_open:
            await self._pass_on(self._gateway, scope, receive, send)
        elif scope["type"] == "http":
            error = UnavailableError()
            await send_answer(send, status=int(error.status), body=error.body(), extra=(_RETRY_AFTER,))
        else:
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_open(message: Message) -> None:
            self._is_open = message["type"] == "lifespan.startup.complete"
            await send(message)

        try:
            self._gateway = self._compose(scope)
        except Exception as error:
            # Left to rise, it would only tell uvicorn that the application has no lifespan, and uvicorn would serve on.
            _logger.exception("the gateway could not be composed")
            await receive()
            await send({"type": "lifespan.startup.failed", "message": f"the gateway could not be composed: {error}"})
            return
        await self._gateway(scope, receive, send_and_open)

    def _compose(self, scope: Scope) -> Gateway:
        config = EngineConfig.read(os.environ)
        log_to_stderr(logging.getLevelNamesMapping()[config.log_level.value.upper()])
        gateway = compose(self._app, scope["app"], config)
        # Where vLLM keeps its uvicorn, which listens once the gateway is up.
        bound_connections(getattr(scope["app"].state, "server", None))  # type: ignore[attr-defined]
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._drain)
        self._instance = config.instance.encode()
        return gateway

    async def _pass_on(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        def send_marked(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*headers_of(message), (INSTANCE_HEADER.encode(), self._instance)]}
            return send(message)

        self._in_flight += 1
        try:
            await gateway(scope, receive, send_marked if scope.get("path") == "/health" else send)
        finally:
            self._in_flight -= 1

    def _drain(self) -> None:
        if self._drain_task is None:
            self._is_open = False
            _logger.info("no new requests are taken; %d are running", self._in_flight)
            self._drain_task = asyncio.create_task(self._end_when_idle())

    async def _end_when_idle(self) -> None:
        while self._in_flight:
            await asyncio.sleep(_IDLE_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)
