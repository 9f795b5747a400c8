"""The class that vLLM instantiates: nothing is answered without a gateway, and the end is orderly."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.engine import cpu_plan
from support.gateway import Client

from loractl.engine.fake import FakeEngine, FakeServer
from loractl.gateway.asgi import Message
from loractl.serving import composition
from loractl.serving.config import CONFIG_VARIABLE, EngineConfig
from loractl.serving.middleware import GatewayMiddleware
from loractl.serving.operator_key import operator_key_path, write_operator_key
from loractl.serving.traffic import TrafficSettings
from loractl.settings import LogLevel
from loractl_registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@dataclass
class Server:
    """A middleware under test, driven as uvicorn drives it."""

    engine: FakeEngine = field(default_factory=lambda: FakeEngine(base="tiny"))
    said: list[Message] = field(default_factory=list[Message])

    def __post_init__(self) -> None:
        self.inner = FakeServer(self.engine)
        self.middleware = GatewayMiddleware(self.inner)  # type: ignore[arg-type]
        self.client = Client(self.middleware)
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()

    @asynccontextmanager
    async def life(self) -> AsyncGenerator[None]:
        async def send(message: Message) -> None:
            self.said.append(message)

        scope: Message = {"type": "lifespan", "app": SimpleNamespace(state=SimpleNamespace(engine=self.engine))}
        task = asyncio.create_task(self.middleware(scope, self._inbox.get, send))
        await self._inbox.put({"type": "lifespan.startup"})
        async with asyncio.timeout(10):
            while not self.said:
                await asyncio.sleep(0.005)
        try:
            yield
        finally:
            await self._inbox.put({"type": "lifespan.shutdown"})
            await asyncio.wait_for(task, 10)


@pytest.fixture
def configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with Registry.open(home) as registry:
        versions = registry.versions(name="bot")
    assert versions
    plan = cpu_plan(slots=2, host_slots=4, is_mixed=True)
    config = EngineConfig(
        home,
        "tiny",
        "operator",
        plan,
        "0123",
        LogLevel.ERROR,
        is_guarded=False,
        witness=None,
        traffic=TrafficSettings(),
        orders_prompts=True,
    )
    write_operator_key(home, "open-sesame")
    monkeypatch.setenv(CONFIG_VARIABLE, str(config.write()))
    monkeypatch.setattr(composition, "VllmEngine", lambda state: state.engine)
    return home


def drive(story: Callable[[Server], Awaitable[None]]) -> Server:
    async def main() -> Server:
        server = Server()
        await story(server)
        return server

    return asyncio.run(main())


def test_server_comes_up_with_the_approved_adapters_admitted(configured: Path) -> None:
    async def story(server: Server) -> None:
        async with server.life():
            assert server.said[0]["type"] == "lifespan.startup.complete"
            assert {str(ref) for ref in server.engine.admitted()} == {"bot@1", "bot@2"}
            assert (await server.client.ask("bot")).json()["model"] == "bot@1"  # type: ignore[index]
            assert (await server.client.ask("shy")).status == 404

    drive(story)


def test_health_alone_names_the_instance(configured: Path) -> None:
    async def story(server: Server) -> None:
        async with server.life():
            assert (await server.client.get("/health")).headers["x-loractl-instance"] == "0123"
            assert "x-loractl-instance" not in (await server.client.get("/v1/models")).headers

    drive(story)


def test_every_request_before_the_start_is_turned_away(configured: Path) -> None:
    async def story(server: Server) -> None:
        for path in ("/health", "/v1/models", "/v1/load_lora_adapter"):
            assert (await server.client.get(path)).status == 503

    assert drive(story).inner.reached == []


@pytest.mark.parametrize("broken", ["no configuration", "no registry", "no engine", "no operator's key"])
def test_server_does_not_come_up_without_a_gateway(
    configured: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "no configuration":
        monkeypatch.delenv(CONFIG_VARIABLE)
    elif broken == "no registry":
        (configured / "registry.db").unlink()
    elif broken == "no operator's key":
        operator_key_path(configured).unlink()
    else:
        monkeypatch.setattr(composition, "VllmEngine", lambda state: state.missing)

    async def story(server: Server) -> None:
        async with server.life():
            assert server.said[0]["type"] == "lifespan.startup.failed"
            assert (await server.client.get("/v1/models")).status == 503

    drive(story)


def test_operators_key_is_wanted_where_the_server_is_guarded(configured: Path) -> None:
    replace(EngineConfig.read(os.environ), is_guarded=True).write()

    async def story(server: Server) -> None:
        async with server.life():
            assert (await server.client.get("/v1/models")).status == 401
            key = [(b"authorization", b"Bearer open-sesame")]
            assert (await server.client.get("/v1/models", headers=key)).status == 200

    drive(story)


def test_drain_refuses_new_requests_finishes_running_ones_and_ends(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []

    async def story(server: Server) -> None:
        server.engine.token_s = 0.02
        async with server.life():
            running = server.client.begin_stream("bot", max_tokens=20)
            await running.begun()

            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.05)
            monkeypatch.setattr("loractl.serving.middleware.os.kill", lambda pid, number: sent.append((pid, number)))
            refused = await server.client.ask("bot")
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert sent == []

            assert (await running.answer()).events[-1]["choices"][0]["finish_reason"] == "length"  # type: ignore[index]
            async with asyncio.timeout(5):
                while not sent:
                    await asyncio.sleep(0.01)

    drive(story)
    assert sent == [(os.getpid(), signal.SIGTERM)]
