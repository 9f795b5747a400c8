"""The gateway in front of a real vLLM, started by `loractl serve` and changed while it runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from support.engine import build_base, peft_adapter
from support.engine_rig import LONG
from support.vllm_source import vllm_routes

from loractl_registry import Ref, Registry, Stage

START_TIMEOUT_S = 240
# From commit to refusal. Bringing a version in takes as long as hashing and loading it does on a busy machine.
REFUSED_WITHIN_S = 1.0

pytestmark = [pytest.mark.engine, pytest.mark.timeout(START_TIMEOUT_S + 120)]


@dataclass(frozen=True)
class Served:
    """A running server, its registry, and folders of adapters that it can take."""

    url: str
    registry: Registry
    folders: list[Path]

    def live(self, name: str, folder: Path) -> Ref:
        """Add a version and climb with it to live."""
        version = self.registry.add(name, str(folder), actor="ada").version
        ref = Ref(version.ref.name, version.ref.number)
        self.registry.promote(ref, actor="ada", to=Stage.LIVE, reason="test")
        return ref

    def ask(self, model: str, **fields: object) -> httpx.Response:
        """Ask for a short completion."""
        body = {"model": model, "prompt": "hello world", "max_tokens": 2, "temperature": 0, **fields}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)

    def client(self) -> openai.OpenAI:
        """Return the official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    build_base("qwen3moe", root / "base")
    folders = [root / f"adapter-{seed}" for seed in range(4)]
    for seed, folder in enumerate(folders):
        peft_adapter(root / "base", folder, seed=seed, experts=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Registry.open(root / "home") as registry:
        registry.add_base("tiny", str(root / "base"), actor="ada")
        server = Served(f"http://127.0.0.1:{port}", registry, folders)
        server.live("poet", folders[0])
        server.live("clerk", folders[1])
        command = ["serve", "tiny", "--device", "cpu", "--port", str(port), "--max-adapters", "4", "--no-input"]
        with (root / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "loractl", *command],
                env={**os.environ, "LORACTL_HOME": str(root / "home")},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(process, server.url, root / "serve.log")
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the server did not answer; its last lines:\n{log.read_text(errors='replace')[-4000:]}")


def until(condition: Callable[[], bool], *, within_s: float = 10) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"still not so after {within_s} s"
        time.sleep(0.01)
    return time.monotonic() - began


def test_no_route_of_the_running_vllm_is_reachable_but_the_allowed_ones(served: Served) -> None:
    allowed = {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/health", "/metrics"}
    bodies = set()
    with httpx.Client(base_url=served.url) as client:
        for path in sorted({*vllm_routes(), "/docs", "/openapi.json", "/server_info"} - allowed):
            for method in ("GET", "POST"):
                answer = client.request(method, path.replace("{", "").replace("}", ""), json={})
                assert answer.status_code == 404, (method, path)
                bodies.add(answer.content)
        assert client.get("/metrics").text.count("vllm:") > 10

    assert len(bodies) == 1


def test_official_client_talks_to_the_exact_version(served: Served) -> None:
    with served.client() as client:
        models = [model.id for model in client.models.list()]
        chat = client.chat.completions.create(
            model="poet", messages=[{"role": "user", "content": "hello"}], max_tokens=3, temperature=0
        )
        chunks = list(client.completions.create(model="tiny", prompt="hello", max_tokens=3, stream=True))
        response = client.responses.create(model="clerk", input="hello", max_output_tokens=3)

    assert models[0] == "tiny"
    assert {"poet", "poet@1", "clerk", "clerk@1"} <= set(models)
    assert chat.model == "poet@1"
    assert {chunk.model for chunk in chunks} == {"tiny"}
    assert response.model == "clerk@1"


def test_promotion_and_revocation_reach_the_running_server(served: Served) -> None:
    ref = served.live("poet", served.folders[2])
    until(lambda: served.ask("poet").json().get("model") == str(ref))
    served.registry.revoke(ref, actor="ada", reason="test")
    revoked = until(lambda: served.ask(str(ref)).status_code == 404)
    served.registry.rollback("poet", actor="ada")
    until(lambda: served.ask("poet").json().get("model") == "poet@1")

    assert revoked < REFUSED_WITHIN_S
    assert served.ask(str(ref)).content == served.ask("nobody").content


def test_revocation_ends_streams_and_whole_answers_in_flight(served: Served) -> None:
    ref = served.live("brief", served.folders[3])
    until(lambda: served.ask("brief").status_code == 200)
    begun = threading.Event()
    body = {"ignore_eos": True}

    def streams() -> str | None:
        """Stream long answers one after the other, and return how the first ended that is not whole."""
        reason: str | None = "length"
        with served.client() as client:
            while reason == "length":
                try:
                    for chunk in client.completions.create(
                        model="brief", prompt="hello", max_tokens=LONG, stream=True, extra_body=body
                    ):
                        begun.set()
                        reason = chunk.choices[0].finish_reason
                except openai.APIError as error:
                    return error.code
        return reason

    def wholes() -> int:
        """Ask for whole ones, and return the first status that is not 200."""
        while True:
            status = served.ask("brief", max_tokens=LONG, **body).status_code
            if status != 200:
                return status

    with ThreadPoolExecutor(8) as pool:
        streaming, whole = [pool.submit(streams) for _ in range(3)], [pool.submit(wholes) for _ in range(3)]
        assert begun.wait(30)
        served.registry.revoke(ref, actor="ada", reason="test")

        reasons, statuses = {future.result() for future in streaming}, {future.result() for future in whole}
    # An answer may be written to its end before the revocation is known; one that is in flight then is ended.
    assert "abort" in reasons <= {"abort", "model_not_found"}
    assert statuses == {404}
    assert served.ask("clerk").status_code == 200


def test_requests_that_race_a_revocation_leave_nothing_behind(served: Served) -> None:
    for round_ in range(4):
        folder = served.folders[0].parent / f"racer-{round_}"
        peft_adapter(served.folders[0].parent / "base", folder, seed=100 + round_, experts=True)
        ref = served.live("racer", folder)
        until(lambda ref=ref: served.ask("racer").json().get("model") == str(ref))
        stop = threading.Event()

        def hammer(name: str, stop: threading.Event) -> set[int]:
            statuses = set()
            while not stop.is_set():
                statuses.add(served.ask(name, max_tokens=8).status_code)
            return statuses

        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(hammer, str(ref), stop) for _ in range(8)]
            time.sleep(0.3)
            served.registry.revoke(ref, actor="ada", reason="test")
            until(lambda ref=ref: served.ask(str(ref)).status_code == 404)
            time.sleep(0.5)
            stop.set()
            assert {status for future in futures for status in future.result()} <= {200, 404}
        assert served.ask(str(ref)).status_code == 404
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}


def test_fields_that_reach_into_the_engine_are_refused(served: Served) -> None:
    answer = served.ask("poet", kv_transfer_params={"do_remote_prefill": True})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "kv_transfer_params")
