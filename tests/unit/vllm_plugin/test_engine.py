"""The engine port over a double of vLLM's client: order, ids, and an engine that does not let go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from loractl.engine.errors import EngineRefusedError
from loractl.engine.ports import EngineAdapter, EngineRoom, TokenCounts
from loractl.vllm_plugin import engine as module
from loractl.vllm_plugin.engine import VllmEngine
from loractl.vllm_plugin.readings import READINGS
from loractl_registry.refs import VersionRef

FIRST = EngineAdapter(VersionRef("bot", 1), Path("/store/a"), is_fused=False)
SECOND = EngineAdapter(VersionRef("bot", 2), Path("/store/b"), is_fused=True)


class Client:
    """Keeps what it was told; reloads an evicted adapter as often as `late_loads` says, as a late request does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.loaded: set[int] = set()
        self.late_loads = 0
        self.fails: Exception | None = None
        self.output_processor = SimpleNamespace(request_states={})
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=32))
        self.state: SimpleNamespace

    async def add_lora(self, lora_request):
        self.calls.append(("add", lora_request.lora_name))
        if self.fails:
            raise self.fails
        self.loaded.add(lora_request.lora_int_id)
        return True

    async def remove_lora(self, lora_id):
        self.calls.append(("remove", sorted(self.state.openai_serving_models.lora_requests)))
        self.loaded.discard(lora_id)
        if self.late_loads:
            self.late_loads -= 1
            self.loaded.add(lora_id)
        return True

    async def list_loras(self):
        return set(self.loaded)

    async def abort(self, request_id, internal):
        self.calls.append(("abort", (tuple(request_id), internal)))
        for one in request_id:
            del self.output_processor.request_states[one]

    async def check_health(self):
        if self.fails:
            raise self.fails


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(module, "_EVICTION_PAUSE_S", 0.0)
    request = SimpleNamespace(resolve=lambda: SimpleNamespace)
    monkeypatch.setattr(module.compat, "symbols", lambda: {"lora_request": request})
    client = Client()
    client.state = SimpleNamespace(engine_client=client, openai_serving_models=SimpleNamespace(lora_requests={}))
    return client


@pytest.fixture
def requests(client):
    return client.state.openai_serving_models.lora_requests


@pytest.fixture
def engine(client):
    return VllmEngine(client.state)


def run(*awaitables):
    async def all_of_them():
        for one in awaitables:
            await one

    asyncio.run(all_of_them())


def test_admit_loads_before_it_lets_requests_name_it(engine, client, requests):
    run(engine.admit(SECOND))

    assert client.calls == [("add", "bot@2")]
    assert requests["bot@2"].lora_path == "/store/b"
    assert requests["bot@2"].is_3d_lora_weight is True
    assert engine.admitted() == {SECOND.ref}


def test_admit_twice_loads_once(engine, client):
    run(engine.admit(FIRST), engine.admit(FIRST))

    assert client.calls == [("add", "bot@1")]


def test_admit_of_what_cannot_be_loaded_admits_nothing(engine, client, requests):
    client.fails = ValueError("rank 64 is above 8")

    with pytest.raises(EngineRefusedError, match=r"bot@1.*rank 64 is above 8"):
        run(engine.admit(FIRST))

    assert not requests
    assert engine.admitted() == frozenset()


def test_admit_of_another_path_under_a_ref_is_refused(engine):
    moved = EngineAdapter(FIRST.ref, Path("/store/other"), is_fused=False)

    with pytest.raises(EngineRefusedError, match="/store/other"):
        run(engine.admit(FIRST), engine.admit(moved))


def test_ids_are_stable_for_a_ref_and_never_shared(engine, requests):
    seen = []
    for adapter in (FIRST, SECOND, FIRST, SECOND):
        run(engine.admit(adapter))
        seen.append(requests[str(adapter.ref)].lora_int_id)
        run(engine.evict(adapter.ref))

    assert seen == [1, 2, 1, 2]


def test_evict_refuses_the_name_then_aborts_then_removes(engine, client, requests):
    run(engine.admit(FIRST), engine.admit(SECOND))
    states = client.output_processor.request_states
    states |= {"x": SimpleNamespace(lora_name="bot@1"), "y": SimpleNamespace(lora_name="bot@2")}
    states["z"] = SimpleNamespace(lora_name=None)
    client.calls.clear()

    run(engine.evict(FIRST.ref))

    assert client.calls == [("abort", (("x",), True)), ("remove", ["bot@2"])]
    assert set(states) == {"y", "z"}
    assert engine.admitted() == {SECOND.ref}


def test_evict_removes_again_what_a_late_request_loaded(engine, client):
    run(engine.admit(FIRST))
    client.late_loads = 2

    run(engine.evict(FIRST.ref))

    assert client.loaded == set()


def test_evict_says_when_the_engine_does_not_let_go(engine, client, requests):
    run(engine.admit(FIRST))
    client.late_loads = 10_000

    with pytest.raises(EngineRefusedError, match="still holds bot@1"):
        run(engine.evict(FIRST.ref))

    assert not requests
    assert engine.admitted() == frozenset()


def test_evict_of_an_unknown_ref_is_ignored(engine, client):
    run(engine.evict(FIRST.ref))

    assert client.calls == []


def test_health_is_what_the_engine_says(engine, client):
    assert asyncio.run(engine.is_healthy())

    client.fails = RuntimeError("engine dead")

    assert not asyncio.run(engine.is_healthy())


def state_of(request_id, prompt_len, written):
    detokenizer = SimpleNamespace(num_output_tokens=lambda: written)
    return SimpleNamespace(external_req_id=request_id, prompt_len=prompt_len, detokenizer=detokenizer)


def test_counts_of_a_request_are_those_of_all_its_prompts_and_choices(client, engine):
    client.output_processor.request_states = {
        "a": state_of("cmpl-0abc-0", 5, 2),
        "b": state_of("cmpl-0abc-0", 5, 3),
        "c": state_of("cmpl-0abc-1", 7, 1),
        "d": state_of("cmpl-0def-0", 100, 100),
    }

    assert engine.counts_of("0abc") == TokenCounts(12, 6)
    assert engine.counts_of("0aaa") is None


def test_room_is_the_schedulers_and_what_the_stat_logger_saw_last(engine, monkeypatch):
    monkeypatch.setattr(READINGS, "kv_use", 0.25)

    assert engine.room() == EngineRoom(32, 0.25)
