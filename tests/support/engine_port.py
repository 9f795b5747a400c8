"""An ASGI class that puts the methods of `VllmEngine` on the network, so that tests can call them on a real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loractl.engine.errors import EngineError
from loractl.engine.ports import EngineAdapter
from loractl.vllm_plugin.engine import VllmEngine
from loractl_registry.refs import VersionRef, parse_ref


class PortMiddleware:
    """``POST /port/admit|evict|admitted|loaded``; everything else is vLLM's."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._engine: VllmEngine | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/port/"):
            await self._app(scope, receive, send)
            return
        state = scope["app"].state
        self._engine = self._engine or VllmEngine(state)
        body = json.loads((await receive())["body"] or b"{}")
        try:
            status, answer = 200, await self._call(scope["path"].rpartition("/")[2], body, state)
        except EngineError as error:
            status, answer = 409, {"code": error.code, "message": str(error)}
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _call(self, verb: str, body: dict[str, Any], state: Any) -> object:
        assert self._engine is not None
        if verb == "admit":
            await self._engine.admit(EngineAdapter(_ref(body["ref"]), Path(body["path"]), bool(body["is_fused"])))
        elif verb == "evict":
            await self._engine.evict(_ref(body["ref"]))
        elif verb == "loaded":
            return sorted(await state.engine_client.list_loras())
        return sorted(map(str, self._engine.admitted()))


def _ref(text: str) -> VersionRef:
    ref = parse_ref(text)
    assert ref.number is not None
    return VersionRef(ref.name, ref.number)
