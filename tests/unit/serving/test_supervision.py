"""One engine from its start to its end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.serving import RecordingUi

from loractl.serving.errors import EngineCrashedError
from loractl.serving.steps import own_line, step_of
from loractl.serving.supervision import Inbox, Supervision


class ScriptedProcess:
    """Ends with `code` as soon as `ends` says so; remembers what it was asked."""

    def __init__(self, ends: Callable[[ScriptedProcess], bool], code: int = 0) -> None:
        self.ends, self.code = ends, code
        self.asked: list[str] = []

    def poll(self) -> int | None:
        return self.code if self.ends(self) else None

    def drain(self) -> None:
        self.asked.append("drain")

    def terminate(self) -> None:
        self.asked.append("terminate")

    def kill(self) -> None:
        self.asked.append("kill")

    def tail(self, count: int) -> tuple[str, ...]:
        return ("last words",)[-count:]


def follow(
    process: ScriptedProcess, inbox: Inbox, *, is_up: bool = True, drain_s: float = 5.0
) -> tuple[int, RecordingUi, list[float]]:
    ui, readies = RecordingUi(), list[float]()

    def ready(startup_s: float) -> None:
        readies.append(startup_s)

    code = Supervision(
        process,
        inbox,
        ui,
        answers=lambda: is_up,
        on_ready=ready,
        crash=lambda when, code: EngineCrashedError(when, code, Path("engine.log")),
        drain_s=drain_s,
    ).run()
    return code, ui, readies


def interrupt(times: int = 1, after_s: float = 0.0) -> None:
    def send() -> None:
        for _ in range(times):
            time.sleep(after_s)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()


def test_interrupt_of_a_serving_engine_drains_it_and_ends_with_zero() -> None:
    process = ScriptedProcess(lambda it: "drain" in it.asked)
    with Inbox() as inbox:
        interrupt(after_s=0.6)
        code, _, readies = follow(process, inbox)

    assert (code, process.asked, len(readies)) == (0, ["drain"], 1)


def test_interrupt_before_it_answers_kills_it_and_ends_with_130() -> None:
    process = ScriptedProcess(lambda it: "kill" in it.asked)
    with Inbox() as inbox:
        interrupt()
        code, _, readies = follow(process, inbox, is_up=False)

    assert (code, process.asked, readies) == (130, ["kill"], [])


def test_second_interrupt_ends_a_draining_engine_at_once() -> None:
    process = ScriptedProcess(lambda it: "kill" in it.asked)
    with Inbox() as inbox:
        interrupt(times=2, after_s=0.6)
        code, _, _ = follow(process, inbox)

    assert (code, process.asked) == (130, ["drain", "kill"])


def test_requests_that_outlast_the_deadline_are_cut_off() -> None:
    process = ScriptedProcess(lambda it: "terminate" in it.asked)
    with Inbox() as inbox:
        interrupt(after_s=0.6)
        code, ui, _ = follow(process, inbox, drain_s=0.2)

    assert (code, process.asked) == (0, ["drain", "terminate"])
    assert any(level == "WARNING" and "0.2 s" in message for level, message in ui.notices)


def test_engine_that_ignores_its_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loractl.serving.supervision._END_PATIENCE_S", 0.2)
    process = ScriptedProcess(lambda it: "kill" in it.asked)
    with Inbox() as inbox:
        interrupt(after_s=0.6)
        code, _, _ = follow(process, inbox, drain_s=0.1)

    assert (code, process.asked) == (0, ["drain", "terminate", "kill"])


@pytest.mark.parametrize(("is_up", "when"), [(False, "while it started"), (True, "while it served")])
def test_crash_raises_with_the_last_lines_shown(*, is_up: bool, when: str) -> None:
    began = time.monotonic()
    process = ScriptedProcess(lambda _: time.monotonic() > began + 0.5, code=134)
    ui = RecordingUi()
    with Inbox() as inbox, pytest.raises(EngineCrashedError, match=f"{when} with exit code 134"):
        Supervision(
            process,
            inbox,
            ui,
            answers=lambda: is_up,
            on_ready=lambda _: None,
            crash=lambda when, code: EngineCrashedError(when, code, Path("engine.log")),
            drain_s=1,
        ).run()

    assert ui.last == ["last words"]


def test_steps_of_the_start_are_shown_in_order() -> None:
    process = ScriptedProcess(lambda it: "kill" in it.asked)
    with Inbox() as inbox:
        inbox.add_line("(EngineCore pid=7) INFO 01-01 gpu_model_runner.py:1 Starting to load model /m...")
        interrupt(after_s=0.6)
        _, ui, _ = follow(process, inbox, is_up=False)

    assert ui.steps == ["loading the weights"]


def test_own_lines_become_notices() -> None:
    process = ScriptedProcess(lambda it: "kill" in it.asked)
    with Inbox() as inbox:
        inbox.add_line("(APIServer pid=7) loractl WARNING bot@3 is refused: rank 64 is above 16")
        interrupt(after_s=0.6)
        _, ui, _ = follow(process, inbox, is_up=False)

    assert ui.notices == [("WARNING", "bot@3 is refused: rank 64 is above 16")]


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with Inbox():
        assert signal.getsignal(signal.SIGTERM) is not before

    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            "(APIServer pid=1) INFO 11-24 model.py:600 Resolved architecture: Qwen3MoeForCausalLM",
            "reading the configuration",
        ),
        ("INFO 11-24 kv_cache_utils.py:1 GPU KV cache size: 1,024 tokens", "reserving the KV cache"),
        ("INFO:     Waiting for application startup.", "admitting the approved adapters"),
        ("something else", None),
    ],
)
def test_step_of_reads_vllm_lines(line: str, step: str | None) -> None:
    assert step_of(line) == step


@pytest.mark.parametrize("line", ["loractl is fine", "INFO loractl WARNING x", "(APIServer pid=1) hello"])
def test_lines_of_others_are_not_ours(line: str) -> None:
    assert own_line(line) is None
