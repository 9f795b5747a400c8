"""Children that behave like an engine, and a user interface that remembers, for the tests of serving."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
