"""The engine's process: what it says is kept, and nothing of it outlives us."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import PREAMBLE, WITH_GRANDCHILDREN, eventually, is_alive, python

from loractl.logs import private_log_file
from loractl.serving.process import EngineProcess, log_path

HEEDLESS = PREAMBLE + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay('up')\ntime.sleep(600)"


class Started:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.lines: list[str] = []
        self.processes: list[EngineProcess] = []

    def __call__(self, source: str, environment: dict[str, str] | None = None) -> EngineProcess:
        process = EngineProcess(
            python(source),
            {"PATH": os.environ["PATH"]} if environment is None else environment,
            on_line=self.lines.append,
            log=private_log_file(log_path(self.home, "tiny")),
        )
        self.processes.append(process)
        return process

    def pids(self) -> list[int]:
        assert eventually(lambda: any(line.startswith("pids ") for line in self.lines)), self.lines
        return [int(word) for word in next(line for line in self.lines if line.startswith("pids ")).split()[1:]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path)
    yield started
    for process in started.processes:
        process.kill()


def test_exit_code_of_the_command_is_reported(start: Started) -> None:
    assert start(PREAMBLE + "sys.exit(7)").wait(10) == 7


def test_death_by_signal_is_reported_as_shells_do(start: Started) -> None:
    assert start(PREAMBLE + "os.kill(os.getpid(), signal.SIGSEGV)").wait(10) == 128 + signal.SIGSEGV


def test_poll_is_none_while_it_runs(start: Started) -> None:
    assert start(HEEDLESS).poll() is None


def test_both_streams_reach_the_tail_in_order_without_colours(start: Started) -> None:
    process = start(
        PREAMBLE + "say('\\x1b[32mone\\x1b[0m'); print('two', file=sys.stderr, flush=True); say('50%\\r100%')"
    )

    process.wait(10)

    assert process.tail(10) == ("one", "two", "50%", "100%")
    assert start.lines == ["one", "two", "50%", "100%"]


def test_tail_keeps_only_the_newest_lines(start: Started) -> None:
    process = start(PREAMBLE + "[say(str(n)) for n in range(1000)]")

    process.wait(10)

    assert process.tail(2) == ("998", "999")
    assert len(process.tail(10_000)) == 200


def test_output_is_kept_in_a_log_file_that_only_the_owner_reads(start: Started) -> None:
    start(PREAMBLE + "say('hello')").wait(10)

    log = log_path(start.home, "tiny")
    assert log.read_text() == "hello\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_bytes_that_are_no_text_do_not_stop_the_reader(start: Started) -> None:
    process = start(PREAMBLE + "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush(); say('after')")

    process.wait(10)

    assert process.tail(1) == ("after",)


def test_environment_is_exactly_what_was_given(start: Started) -> None:
    process = start(PREAMBLE + "say(','.join(sorted(set(os.environ) - {'LC_CTYPE'})))", {"ONLY": "this"})

    process.wait(10)

    assert process.tail(1) == ("ONLY",)


def test_drain_reaches_the_command_as_sigusr1(start: Started) -> None:
    process = start(PREAMBLE + "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))\nsay('up')\ntime.sleep(600)")
    assert eventually(lambda: "up" in start.lines)

    process.drain()

    assert process.wait(10) == 3


def test_terminate_reaches_the_command_as_sigterm(start: Started) -> None:
    process = start(PREAMBLE + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\nsay('up')\ntime.sleep(600)")
    assert eventually(lambda: "up" in start.lines)

    process.terminate()

    assert process.wait(10) == 4


def test_kill_ends_a_command_that_ignores_sigterm(start: Started) -> None:
    process = start(HEEDLESS)
    assert eventually(lambda: "up" in start.lines)
    process.terminate()
    assert process.wait(0.3) is None

    process.kill()

    assert process.poll() == 128 + signal.SIGKILL


def test_kill_is_idempotent(start: Started) -> None:
    process = start(PREAMBLE)
    process.wait(10)

    process.kill()
    process.kill()

    assert process.poll() == 0


def test_kill_ends_every_grandchild_also_in_another_session(start: Started) -> None:
    process = start(WITH_GRANDCHILDREN)
    pids = start.pids()

    process.kill()

    assert not any(is_alive(pid) for pid in pids)


def test_grandchildren_end_when_the_command_crashes(start: Started) -> None:
    process = start(WITH_GRANDCHILDREN)
    command, *others = start.pids()

    os.kill(command, signal.SIGKILL)

    assert process.wait(10) == 128 + signal.SIGKILL
    assert not any(is_alive(pid) for pid in others)


def test_command_ends_when_its_guard_is_killed(start: Started) -> None:
    process = start(WITH_GRANDCHILDREN)
    command, near, _ = start.pids()

    os.kill(process.pid, signal.SIGKILL)

    assert process.wait(10) is not None
    assert eventually(lambda: not is_alive(command) and not is_alive(near))


def test_kill_minus_nine_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    with owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)

        os.kill(owner.pid, signal.SIGKILL)
        owner.wait(10)

        began = time.monotonic()
        assert eventually(lambda: not any(is_alive(pid) for pid in pids))
        assert time.monotonic() - began < 5


_OWNER = f"""
import os, sys, time
from pathlib import Path
from loractl.logs import private_log_file
from loractl.serving.process import EngineProcess
lines = []
process = EngineProcess(
    [sys.executable, "-c", {WITH_GRANDCHILDREN!r}], dict(os.environ), on_line=lines.append,
    log=private_log_file(Path(sys.argv[1]) / "log"))
while not lines:
    time.sleep(0.01)
print(process.pid, *lines[0].split()[1:], flush=True)
time.sleep(600)
"""
