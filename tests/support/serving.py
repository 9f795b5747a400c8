"""Children that behave like an engine, and a user interface that remembers, for the tests of serving."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loractl.serving.request import Ready
from loractl_registry.progress import SILENT, Progress

PREAMBLE = """
import os, signal, subprocess, sys, threading, time
def say(text):
    print(text, flush=True)
"""

_DEAF = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
"""

# The grandchildren ignore everything but SIGKILL, and one leaves the session, as a badly behaved worker may.
WITH_GRANDCHILDREN = (
    PREAMBLE
    + f"""
near = subprocess.Popen([sys.executable, "-c", {_DEAF!r}])
far = subprocess.Popen([sys.executable, "-c", {_DEAF!r}], start_new_session=True)
say(f"pids {{os.getpid()}} {{near.pid}} {{far.pid}}")
time.sleep(600)
"""
)


def python(source: str) -> list[str]:
    """Return the command that runs `source`."""
    return [sys.executable, "-u", "-c", source]


@dataclass
class RecordingUi:
    """Remembers everything that it is told."""

    progress: Progress = SILENT
    plans: list[object] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    readies: list[Ready] = field(default_factory=list)
    notices: list[tuple[str, str]] = field(default_factory=list)
    last: list[str] = field(default_factory=list)

    def prepared(self, server: object) -> None:
        self.plans.append(server)

    def step(self, label: str, elapsed_s: float) -> None:
        if not self.steps or self.steps[-1] != label:
            self.steps.append(label)

    def ready(self, ready: Ready) -> None:
        self.readies.append(ready)

    def notice(self, level: str, message: str) -> None:
        self.notices.append((level, message))

    def last_lines(self, lines: Sequence[str]) -> None:
        self.last.extend(lines)


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def eventually(claim: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether `claim` comes true in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if claim():
            return True
        time.sleep(0.02)
    return claim()


def descendants(pid: int) -> set[int]:
    """Return every process below `pid`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found: set[int] = set()
    pending = {pid}
    while pending:
        pending = {child for child, parent in parents.items() if parent in pending} - found
        found |= pending
    return found - {os.getpid()}


class ServeBody:
    """The body of `loractl serve` in a process of its own, and what it has said so far."""

    def __init__(self, home: Path, base: str, **fields: object) -> None:
        body = {"home": str(home), "base": base, "actor": "operator", "port": 0, **fields}
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("serve_body.py")), json.dumps(body)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, within_s: float = 280) -> dict[str, Any]:
        assert eventually(lambda: bool(self.of("ready")) or self.process.poll() is not None, within_s), self.events
        assert self.of("ready"), self.events
        return self.of("ready")[0]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in list(self.events) if event["event"] == kind]

    def notices(self) -> list[str]:
        return [event["message"] for event in self.of("notice")]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = 60) -> int:
        code = self.process.wait(within_s)
        self._reader.join(5)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
