"""The body of `loractl serve` on a real vLLM: who answers to which name, while the registry changes under it.

One engine serves most claims, and each test uses adapters of its own. The last test in this file kills that engine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from support.engine import build_base
from support.registry import BaseShape, write_adapter
from support.serving import ServeBody, descendants, eventually, is_alive

from loractl.serving.state import running
from loractl_registry import Registry, Stage, VersionRef, parse_ref

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

BASE = "tiny"
SHAPE = BaseShape(hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, experts=8, expert_hidden=96)
LONG = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}


@dataclass(frozen=True)
class World:
    """A registry with a base and adapters, and the server on it."""

    home: Path
    files: Path
    server: ServeBody
    url: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def ask(self, model: str, **fields: object) -> httpx.Response:
        body = {"model": model, "prompt": "hello world", "max_tokens": 4, "temperature": 0, **fields}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=120)

    def answering(self, model: str) -> str | None:
        response = self.ask(model, max_tokens=1)
        return response.json()["model"] if response.status_code == 200 else None

    def add(self, name: str, *, seed: int, rank: int = 4, to: Stage | None = None) -> VersionRef:
        return add(self.home, self.files, name, seed=seed, rank=rank, to=to)

    def promote(self, ref: VersionRef, to: Stage = Stage.LIVE) -> None:
        with Registry.open(self.home) as registry:
            registry.promote(parse_ref(str(ref)), actor="tester", to=to)

    def revoke(self, ref: VersionRef) -> None:
        with Registry.open(self.home) as registry:
            registry.revoke(parse_ref(str(ref)), actor="tester", reason="test")

    def store(self, ref: VersionRef) -> Path:
        with Registry.open(self.home) as registry:
            return registry.version(ref).path


def add(
    home: Path, files: Path, name: str, *, seed: int, rank: int = 4, experts: bool = False, to: Stage | None = None
) -> VersionRef:
    folder = write_adapter(files / f"{name}-{seed}", SHAPE, rank=rank, seed=seed, base=BASE, on_experts=experts)
    with Registry.open(home) as registry:
        ref = registry.add(name, str(folder), actor="tester").version.ref
        if to is not None:
            registry.promote(parse_ref(str(ref)), actor="tester", to=to)
    return ref


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / BASE
    build_base("qwen3moe", folder)
    return folder


def new_home(root: Path, base: Path) -> Path:
    with Registry.open(root / "home") as registry:
        registry.add_base(BASE, str(base), actor="tester")
    return root / "home"


def flip_a_byte(version: Path) -> None:
    """Damage stored weights as one with the owner's rights can."""
    file = version / "adapter_model.safetensors"
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 1]))
    file.chmod(0o444)


@pytest.fixture(scope="module")
def world(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("serve")
    home, files = new_home(root, base), root / "files"
    add(home, files, "warm", seed=1, to=Stage.LIVE)
    add(home, files, "warm", seed=2, to=Stage.APPROVED)
    add(home, files, "cool", seed=3, experts=True, to=Stage.LIVE)
    add(home, files, "shy", seed=4)
    with Registry.open(home) as registry:
        spoiled = registry.version(add(home, files, "spoiled", seed=5, to=Stage.LIVE)).path
        gone = add(home, files, "gone", seed=6, to=Stage.LIVE)
        registry.revoke(parse_ref(str(gone)), actor="tester", reason="test")
    flip_a_byte(spoiled)
    server = ServeBody(home, BASE)
    try:
        yield World(home, files, server, server.wait_ready()["url"])
    finally:
        server.end()


def test_models_lists_the_base_and_what_is_approved(world: World) -> None:
    listed = {model.id for model in world.client.models.list()}

    assert {BASE, "warm", "warm@1", "warm@2", "cool", "cool@1"} <= listed
    assert not {name for name in listed if name.partition("@")[0] in {"shy", "gone", "spoiled"}}


@pytest.mark.parametrize(
    ("asked", "answered"), [("warm", "warm@1"), ("warm@live", "warm@1"), ("warm@2", "warm@2"), (BASE, BASE)]
)
def test_answer_names_the_exact_version(world: World, asked: str, answered: str) -> None:
    assert world.answering(asked) == answered


def test_openai_client_completes_chats_and_responds(world: World) -> None:
    message = [{"role": "user", "content": "hello"}]

    completion = world.client.completions.create(model="cool", prompt="hello", max_tokens=4)
    chat = world.client.chat.completions.create(model="cool", messages=message, max_tokens=4)  # type: ignore[arg-type]
    response = world.client.responses.create(model="cool", input="hello", max_output_tokens=4)

    assert (completion.model, chat.model, response.model) == ("cool@1", "cool@1", "cool@1")
    assert completion.usage is not None
    assert completion.usage.completion_tokens > 0


def test_openai_client_streams(world: World) -> None:
    stream = world.client.completions.create(model="warm", prompt="hello", max_tokens=8, stream=True)

    chunks = list(stream)

    assert len(chunks) > 1
    assert {chunk.model for chunk in chunks} == {"warm@1"}


def test_adapters_and_base_differ_in_one_mixed_batch(world: World) -> None:
    models = [BASE, "warm", "warm@2", "cool"] * 2
    texts: list[str] = [""] * len(models)

    def ask(index: int) -> None:
        texts[index] = world.ask(models[index], max_tokens=16, ignore_eos=True).json()["choices"][0]["text"]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert texts[:4] == texts[4:]
    assert len(set(texts[:4])) == 4


def test_everything_that_is_not_served_answers_alike(world: World) -> None:
    answers = [world.ask(model) for model in ("shy", "shy@1", "gone", "gone@1", "spoiled", "nobody", "warm@9")]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1


def test_every_other_route_of_vllm_is_absent(world: World) -> None:
    log = Path(world.server.of("ready")[0]["log"]).read_text()
    routes = {line.partition("Route: ")[2].partition(",")[0] for line in log.splitlines() if "Route: " in line}
    served = {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/health", "/metrics"}
    assert len(routes) > 20

    found = {}
    for path in (routes - served) | {"/docs", "/openapi.json", "/v1/load_lora_adapter", "/invocations", "/pause"}:
        for method in ("GET", "POST"):
            found[method, path] = httpx.request(method, f"{world.url}{path}", json={}, timeout=30).status_code

    assert set(found.values()) == {404}, {key: code for key, code in found.items() if code != 404}


def test_health_and_metrics_answer(world: World) -> None:
    assert httpx.get(f"{world.url}/health").status_code == 200
    assert "vllm:" in httpx.get(f"{world.url}/metrics").text


def test_damaged_version_is_refused_audited_and_said(world: World) -> None:
    with Registry.open(world.home) as registry:
        events = [event for event in registry.history("spoiled") if event.action == "adapter.refused"]

    assert [event.subject for event in events] == ["spoiled@1"]
    assert any("spoiled@1" in notice for notice in world.server.notices())


def test_byte_flipped_while_serving_is_refused_and_others_go_on(world: World) -> None:
    ref = world.add("victim", seed=20, to=Stage.LIVE)
    assert eventually(lambda: world.answering("victim") == str(ref))

    flip_a_byte(world.store(ref))

    assert world.ask("victim").status_code == 404
    assert world.ask(str(ref)).status_code == 404
    assert world.answering("warm") == "warm@1"
    with Registry.open(world.home) as registry:
        assert eventually(lambda: "adapter.refused" in [event.action for event in registry.history("victim")])
    assert eventually(lambda: any(str(ref) in notice for notice in world.server.notices()))


def test_promotion_answers_within_a_second(world: World) -> None:
    first = world.add("fresh", seed=30, to=Stage.LIVE)
    assert eventually(lambda: world.answering("fresh") == str(first))
    second = world.add("fresh", seed=31, to=Stage.APPROVED)
    assert eventually(lambda: world.answering(str(second)) == str(second))

    world.promote(second)
    began = time.monotonic()

    assert eventually(lambda: world.answering("fresh") == str(second), within_s=5)
    assert time.monotonic() - began < 1


def test_revoking_a_streaming_adapter_aborts_it_and_frees_the_engine(world: World) -> None:
    ref = world.add("doomed", seed=40, to=Stage.LIVE)
    assert eventually(lambda: world.answering("doomed") == str(ref))
    stream = world.client.completions.create(model="doomed", prompt="hello", stream=True, **LONG)  # type: ignore[call-overload]
    next(iter(stream))

    began = time.monotonic()
    world.revoke(ref)
    tokens = 0
    try:
        for _ in stream:
            tokens += 1
    except openai.APIError:
        pass

    assert time.monotonic() - began < 2
    assert tokens < 1400
    assert world.ask("doomed").status_code == 404
    assert eventually(lambda: f"{ref} is out of the engine" in world.server.notices())


def test_promotion_that_does_not_fit_keeps_what_was_live(world: World) -> None:
    first = world.add("wide", seed=50, to=Stage.LIVE)
    assert eventually(lambda: world.answering("wide") == str(first))

    second = world.add("wide", seed=51, rank=32, to=Stage.LIVE)

    assert eventually(lambda: any(str(second) in notice for notice in world.server.notices()))
    assert any("restart" in notice for notice in world.server.notices() if str(second) in notice)
    assert world.answering("wide") == str(first)
    assert world.ask(str(second)).status_code == 404
    (state,) = running(world.home)
    with Registry.open(world.home) as registry:
        assert "rank 32" in (state.plan.refusal_of(registry.version(second)) or "")


def test_second_server_on_the_same_base_is_a_conflict(world: World) -> None:
    other = ServeBody(world.home, BASE)
    try:
        assert other.wait(30) == 1
        (error,) = other.of("error")
    finally:
        other.end()

    assert error["code"] == "serve.already_served"
    assert world.url in error["message"]


def test_log_names_no_prompt(world: World) -> None:
    world.ask("warm", prompt="a secret that nobody may keep")
    log = Path(world.server.of("ready")[0]["log"])

    assert "secret" not in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_sigterm_finishes_running_requests_and_leaves_nothing(base: Path, tmp_path: Path) -> None:
    home = new_home(tmp_path, base)
    server = ServeBody(home, BASE, drain_s=60)
    try:
        url = server.wait_ready()["url"]
        children = descendants(server.pid)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with httpx.Client(base_url=url) as watcher:  # made and connected before, so that it does not miss the drain
            assert watcher.get("/health").status_code == 200
            stream = client.completions.create(
                model=BASE, prompt="hello", stream=True, max_tokens=1500, extra_body={"ignore_eos": True}
            )
            next(iter(stream))

            server.send(signal.SIGTERM)
            assert eventually(lambda: watcher.get("/health").status_code == 503)
        reasons = [chunk.choices[0].finish_reason for chunk in stream]

        assert reasons[-1] == "length"
        assert server.wait(60) == 0
        assert not any(is_alive(pid) for pid in children)
        assert running(home) == ()
    finally:
        server.end()


def test_kill_minus_nine_leaves_nothing(world: World) -> None:
    children = descendants(world.server.pid)
    assert len(children) >= 3
    assert [state.url for state in running(world.home)] == [world.url]

    world.server.send(signal.SIGKILL)
    world.server.wait(10)

    assert eventually(lambda: not any(is_alive(pid) for pid in children))
    assert running(world.home) == ()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{world.url}/health")
