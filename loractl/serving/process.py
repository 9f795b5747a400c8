"""The engine as a child process: its output, its signals, and its certain end."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loractl.serving import guard

_TAIL_LINES = 200
_MAX_LINE = 4096
_KILL_PATIENCE_S = 15.0
_POLL_S = 0.02
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class EngineProcess:
    """A command under `loractl.serving.guard`, in a session of its own.

    Nothing that it started outlives it, and it does not outlive this process, not even when this process is killed.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        on_line: Callable[[str], None],
        log: logging.Handler,
    ) -> None:
        """Start `argv`; `on_line` is called from another thread with each line that it prints."""
        self._on_line, self._log = on_line, log
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        control, self._control = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(control), *argv],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(control,),
                start_new_session=True,
            )
        except OSError:
            os.close(self._control)
            raise
        finally:
            os.close(control)
        self._reader = threading.Thread(target=self._read, name="engine-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the guard, which is also the process group of the engine."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the engine's exit code once it and everything that it started have ended."""
        if self._process.returncode is None and _has_ended(self._process.pid):
            # The guard stays a zombie until it is reaped, so its number, the group's, cannot be another's yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._close_control()
        return self._process.returncode

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end and for its last output; None if it is still running after `timeout_s`."""
        if self._process.returncode is None:
            _wait_for_end(self._process.pid, timeout_s)
        code = self.poll()
        if code is not None:
            self._reader.join(timeout=2.0)
        return code

    def drain(self) -> None:
        """Ask the engine to refuse new requests, finish the running ones, and end."""
        self._signal(signal.SIGUSR1)

    def terminate(self) -> None:
        """Ask the engine to end now."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the engine and everything that it started, without asking. Idempotent."""
        self._close_control()
        if self.wait(_KILL_PATIENCE_S) is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.wait(_KILL_PATIENCE_S)

    def tail(self, count: int) -> tuple[str, ...]:
        """Return the last `count` lines of its output, oldest first."""
        return tuple(self._tail)[-count:] if count else ()

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            self._process.send_signal(number)

    def _close_control(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _read(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            # A progress bar redraws itself with carriage returns; each redraw is a line here.
            for raw in iter(lambda: stream.readline(64 * 1024), b""):
                for part in raw.decode("utf-8", errors="replace").replace("\r", "\n").split("\n"):
                    self._take(_ANSI.sub("", part).rstrip()[:_MAX_LINE])
        self._log.close()

    def _take(self, line: str) -> None:
        if line:
            self._tail.append(line)
            self._log.handle(logging.LogRecord("engine", logging.INFO, "", 0, line, None, None))
            self._on_line(line)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait_for_end(pid: int, timeout_s: float) -> None:
    """Wait without reaping, which `subprocess.Popen.wait` cannot."""
    deadline = time.monotonic() + timeout_s
    while not _has_ended(pid) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def log_path(home: Path, base: str) -> Path:
    """Return where the engine's output for `base` is kept."""
    return home / "logs" / f"{base}.log"
