"""Run loractl as a user does: in this process, as a process of its own, or on a terminal."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LORACTL = (sys.executable, "-m", "loractl")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>]")


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What ``--json`` wrote to stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """What ``--json`` wrote to stderr."""
        return dict(json.loads(self.err)["error"])


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which only `home` says anything about loractl."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LORACTL_", "XDG_", "HF_", "COV_"))
        and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    user = home.parent / "user"
    user.mkdir(exist_ok=True)
    return kept | {"HOME": str(user), "LORACTL_HOME": str(home), "LORACTL_ACTOR": "alice", "TERM": "xterm"} | more


def run_process(argv: Sequence[str], environment: Mapping[str, str], *, stdin: str = "") -> Result:
    """Run ``loractl`` as a process without a terminal."""
    done = subprocess.run(
        [*LORACTL, *argv], env=dict(environment), input=stdin, capture_output=True, text=True, timeout=60
    )
    return Result(done.returncode, done.stdout, done.stderr)


def plain(text: str) -> str:
    """Return what a terminal would show of `text`."""
    return _ESCAPES.sub("", text).replace("\r", "")


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], *, columns: int = 100) -> None:
        self.raw = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.execvpe(argv[0], list(argv), dict(environment))
            finally:
                os._exit(127)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    @property
    def text(self) -> str:
        """What the terminal has shown so far."""
        return plain(self.raw)

    def send(self, text: str) -> None:
        """Type `text`."""
        os.write(self._fd, text.encode())

    def expect(self, text: str, *, timeout_s: float = 20.0) -> None:
        """Wait until the terminal shows `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            if time.monotonic() > deadline or not self._read(0.2):
                raise AssertionError(f"{text!r} never came; there is: {self.text!r}")

    def wait(self, *, timeout_s: float = 20.0) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(0.2):
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
                raise AssertionError(f"still running; it showed: {self.text!r}")
        _, status = os.waitpid(self._pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)

    def _read(self, timeout_s: float) -> bool:
        """Take in what has arrived; False once the process has closed its side."""
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise
        self.raw += data.decode(errors="replace")
        return bool(data)
