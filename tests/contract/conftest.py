"""The engines that the contract is held against: the one in memory, and a real vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.engine import RunningEngine, build_base, cpu_plan, peft_adapter, running_engine
from support.engine_port import PortMiddleware
from support.engine_rig import Rig
from support.gateway import on_loopback

from loractl.engine.fake import FakeEngine, FakeServer


class _FakePort(PortMiddleware):
    """The same driver over the fake, which has no application to take its engine from."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(FakeServer(engine))
        self._engine = engine  # type: ignore[assignment]

        async def list_loras() -> set[str]:
            return {str(ref) for ref in engine.loaded()}

        self._app_stand_in = SimpleNamespace(
            state=SimpleNamespace(engine_client=SimpleNamespace(list_loras=list_loras))
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__({**scope, "app": self._app_stand_in}, receive, send)


@pytest.fixture(scope="session", params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
def session_rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    root = tmp_path_factory.mktemp(request.param)
    adapters = {"poet@1": root / "a", "poet@2": root / "b", "clerk@1": root / "c"}
    if request.param == "fake":
        for folder in adapters.values():
            folder.mkdir()
            (folder / "adapter_model.safetensors").touch()
        engine = FakeEngine(token_s=0.005, arrival_s=0.005)
        with on_loopback(_FakePort(engine)) as url:
            yield Rig(RunningEngine(url, root / "no.log", 0.0), adapters)
        return
    build_base("qwen3moe", root / "base")
    for seed, folder in enumerate(adapters.values()):
        peft_adapter(root / "base", folder, seed=seed, experts=True)
    plan = cpu_plan(slots=2, host_slots=3, is_mixed=True, modules=("experts",))
    with running_engine(root / "base", plan, root / "engine.log") as real:
        yield Rig(real, adapters)


@pytest.fixture
def rig(session_rig: Rig) -> Iterator[Rig]:
    yield session_rig
    for ref in session_rig.adapters:
        session_rig.evict(ref)
    assert session_rig.loaded() == 0
