"""Run the commands that the demo shows."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

COMMAND_TIMEOUT_S = 60.0
_KEPT = frozenset({"LORACTL_ACTOR"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    Attributes:
        output: What a user sees: data first, then talk.
    """

    exit_code: int
    output: str


def demo_environment(home: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return `inherited` without the caller's loractl settings, with the demo's own home, and offline."""
    kept = {key: value for key, value in inherited.items() if not key.startswith("LORACTL_") or key in _KEPT}
    return kept | {"LORACTL_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def loractl_argv(line: str) -> list[str]:
    """Turn the line ``loractl ...`` into an argument list that runs this very installation."""
    program, *arguments = shlex.split(line)
    if program != "loractl":
        raise ValueError(f"not a loractl command: {line}")
    return [sys.executable, "-m", "loractl", *arguments]


class Shell:
    """Runs loractl's own commands, as a user types them, from one folder and on one home."""

    def __init__(self, root: Path, environment: Mapping[str, str], columns: int | None) -> None:
        """Take the width of the terminal to run on, or None for none."""
        self.root = root
        self.environment = dict(environment)
        self._columns = columns

    def as_(self, person: str) -> Shell:
        """Return the shell of somebody who signs as the identity `person`."""
        who = {"LORACTL_IDENTITY": person, "LORACTL_ACTOR": person}
        return Shell(self.root, {**self.environment, **who}, self._columns)

    def run(self, line: str) -> Outcome:
        """Run one line to its end, on a terminal if there is one, and return how it ended."""
        if self._columns is None:
            exit_code, shown, talk = self._run_piped(line)
        else:
            exit_code, shown, talk = self._run_on_terminal(line, self._columns)
        return Outcome(exit_code, "\n".join(part.rstrip() for part in (shown, talk) if part.strip()))

    def rows(self, line: str) -> list[dict[str, object]]:
        """Run a ``--json`` line and return its rows; empty if it failed."""
        try:
            parsed: object = json.loads(self._run_piped(line)[1])
        except ValueError:
            return []
        items = cast("list[object]", parsed) if isinstance(parsed, list) else [parsed]
        return [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]

    def _run_piped(self, line: str) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as shown:
            exit_code, talk = self._run(line, shown.fileno())
            shown.seek(0)
            return exit_code, shown.read().decode(errors="replace"), talk

    def _run_on_terminal(self, line: str, columns: int) -> tuple[int, str, str]:
        """Give the command a terminal for its data, so that tables fit and have colour; talk is captured apart."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        with ThreadPoolExecutor(1) as pool:
            shown = pool.submit(_read_all, ours)
            try:
                exit_code, talk = self._run(line, theirs)
            finally:
                os.close(theirs)
            return exit_code, shown.result().replace("\r\n", "\n"), talk

    def _run(self, line: str, stdout: int) -> tuple[int, str]:
        try:
            done = subprocess.run(
                loractl_argv(line),
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, f"{line}: no end within {COMMAND_TIMEOUT_S:.0f} s"
        return done.returncode, done.stderr.decode(errors="replace")


def _read_all(terminal: int) -> str:
    """Read a terminal until the other side is closed, which Linux reports as an I/O error."""
    parts: list[bytes] = []
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        try:
            while part := stream.read(65536):
                parts.append(part)
        except OSError:
            pass
    return b"".join(parts).decode(errors="replace")
