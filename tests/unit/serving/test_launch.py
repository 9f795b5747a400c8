"""What is checked before the engine starts, and how a server lives with an engine that is a script."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.serving import RecordingUi, eventually

from loractl.engine.plan import Device
from loractl.serving import launch
from loractl.serving.errors import BaseChangedError, EngineCrashedError, FlagRefusedError, PortTakenError
from loractl.serving.launch import prepare, serve
from loractl.serving.request import ServeRequest
from loractl.serving.state import RunState, process_start, running, write_state
from loractl.vllm_plugin.command import EngineCommand
from loractl_registry import NotFoundError, Registry, parse_ref

SERVER = Path(__file__).parents[2] / "support" / "fake_engine.py"


@pytest.fixture(autouse=True)
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_vllm_build", lambda device: device is Device.CPU)
    monkeypatch.setattr(launch, "has_nvidia_gpu", lambda: False)


@pytest.fixture
def request_(home: Path) -> ServeRequest:
    return ServeRequest(home=home, base="tiny", actor="operator", port=0)


def prepared(request: ServeRequest) -> launch.PreparedServer:
    with Registry.open(request.home) as registry:
        return prepare(request, registry=registry, ui=RecordingUi())


def damage(home: Path, ref: str) -> None:
    with Registry.open(home) as registry:
        file = registry.version(parse_ref(ref)).path / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")


def test_dry_run_plans_and_starts_nothing(request_: ServeRequest) -> None:
    server = prepared(request_)

    assert server.plan.base == "tiny"
    assert server.models == ("bot", "bot@1", "bot@2", "tiny")
    assert not (request_.home / "run").exists()
    assert not (request_.home / "logs").exists()


def test_shell_line_is_the_command_with_its_variables(request_: ServeRequest) -> None:
    words = shlex.split(prepared(replace(request_, engine_args=("--chat-template", "a b"))).shell)

    assert "HF_HUB_OFFLINE=1" in words
    assert words[-2:] == ["--chat-template", "a b"]
    assert words[words.index("--served-model-name") + 1] == "tiny"


def test_refused_flag_is_said_first(request_: ServeRequest) -> None:
    with pytest.raises(FlagRefusedError):
        prepared(replace(request_, base="nobody", engine_args=("--trust-remote-code",)))


def test_unknown_base_is_not_found(request_: ServeRequest) -> None:
    with pytest.raises(NotFoundError):
        prepared(replace(request_, base="nobody"))


def test_taken_port_is_said_before_the_engine_loads(request_: ServeRequest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTakenError):
        prepared(replace(request_, port=taken.getsockname()[1]))


def test_port_of_a_server_that_still_loads_is_taken(request_: ServeRequest) -> None:
    plan = prepared(request_).plan
    write_state(
        request_.home, RunState(os.getpid(), process_start(os.getpid()) or "", "127.0.0.1", 18765, "other", plan)
    )

    with pytest.raises(PortTakenError, match="base other"):
        prepared(replace(request_, port=18765))


def test_changed_base_is_refused_with_the_file_and_the_way_out(request_: ServeRequest) -> None:
    with Registry.open(request_.home) as registry:
        (registry.base("tiny").path / "config.json").write_text("{}")

    with pytest.raises(BaseChangedError, match=r"config\.json") as refused:
        prepared(request_)

    assert refused.value.hint == "restore the files and run: loractl base verify tiny --full"


def test_damaged_version_is_left_out_of_the_plan_and_others_stay(request_: ServeRequest) -> None:
    damage(request_.home, "bot@2")

    server = prepared(request_)

    assert [str(found.ref) for found in server.damaged] == ["bot@2"]
    assert server.models == ("bot", "bot@1", "tiny")


def run(
    request: ServeRequest, monkeypatch: pytest.MonkeyPatch, mode: str, *, when_ready: Callable[[], None] | None = None
) -> tuple[int, RecordingUi]:
    def command(*_: object, host: str, port: int, **__: object) -> EngineCommand:
        return EngineCommand((sys.executable, str(SERVER), mode, host, str(port)), {})

    ui = RecordingUi()
    monkeypatch.setattr(launch, "engine_command", command)

    def act() -> None:
        if eventually(lambda: bool(ui.readies)) and when_ready:
            when_ready()

    threading.Thread(target=act, daemon=True).start()
    with Registry.open(request.home) as registry:
        return serve(request, registry=registry, ui=ui), ui


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_server_says_where_it_answers_and_ends_with_zero_when_asked(
    request_: ServeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[RunState] = []

    def look_and_stop() -> None:
        states.extend(running(request_.home))
        stop()

    code, ui = run(request_, monkeypatch, "good", when_ready=look_and_stop)

    assert code == 0
    assert [state.url for state in states] == [ui.readies[0].endpoint.url]
    assert ui.readies[0].models == ("bot", "bot@1", "bot@2", "tiny")
    assert ui.readies[0].log.read_text().startswith("up")


def test_nothing_is_left_in_the_home_after_the_end(request_: ServeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    run(request_, monkeypatch, "good", when_ready=stop)

    assert sorted(path.name for path in (request_.home / "run").iterdir()) == ["operator.key", "tiny.lock"]


def test_crash_at_the_start_shows_the_last_lines(request_: ServeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    ui = RecordingUi()
    monkeypatch.setattr(
        launch,
        "engine_command",
        lambda *_, **__: EngineCommand((sys.executable, "-c", "raise SystemExit('no way')"), {}),
    )

    with Registry.open(request_.home) as registry, pytest.raises(EngineCrashedError, match="while it started"):
        serve(request_, registry=registry, ui=ui)

    assert ui.last == ["no way"]
    assert running(request_.home) == ()


def test_crash_while_serving_is_an_error(request_: ServeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineCrashedError, match="while it served with exit code 9"):
        run(request_, monkeypatch, "crash")


def test_engine_sees_no_secret_and_the_withheld_switch_is_said(
    request_: ServeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")

    _, ui = run(request_, monkeypatch, "good", when_ready=stop)

    log = ui.readies[0].log.read_text()
    assert "HF_TOKEN" not in log
    assert "VLLM_SERVER_DEV_MODE" not in log
    assert any("VLLM_SERVER_DEV_MODE" in message for _, message in ui.notices)


def test_damaged_version_is_said(request_: ServeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(request_.home, "bot@2")

    _, ui = run(request_, monkeypatch, "good", when_ready=stop)

    assert any(level == "ERROR" and "bot@2" in message for level, message in ui.notices)
