"""Start `loractl serve` for the demo, wait for it, and stop it by its process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

HOST = "127.0.0.1"
READY_TIMEOUT_S = 240.0
_OK = 200
# A drain may take its time; the engine behind it has seconds to let go of its memory.
_PATIENCE_S = {"SIGINT": 40.0, "SIGTERM": 15.0, "SIGKILL": 15.0}
_GROUP_PATIENCE_S = 5.0
_POLL_S = 0.25


def pick_port(preferred: int) -> int:
    """Return `preferred` if nobody has it, else a port that is free now.

    Binds without reuse: an engine that is still loading has bound its port but does not listen yet.
    """
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port")


@dataclass(frozen=True, slots=True)
class Stopped:
    """How the server ended: the signal that ended it, its exit code, and what was left of it."""

    signal_name: str
    exit_code: int
    is_group_gone: bool
    is_port_closed: bool

    @property
    def is_clean(self) -> bool:
        """Whether it ended when asked and left nothing behind."""
        return self.signal_name in ("SIGINT", "SIGTERM") and self.is_group_gone and self.is_port_closed

    def __str__(self) -> str:
        children = "no child is left" if self.is_group_gone else "a child is still running"
        port = "the port is closed" if self.is_port_closed else "the port still answers"
        return f"ended by {self.signal_name} with exit code {self.exit_code}, {children}, {port}"


class Server:
    """A running `loractl serve`, in a process group of its own, so that Ctrl-C reaches it only through `stop`."""

    def __init__(self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str], port: int, log: Path) -> None:
        self.port = port
        self.log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self._process.poll()

    def wait_ready(self) -> bool:
        """Wait until it says that it is ready and lists its models; False if it ends or takes too long.

        Its own word comes first: whoever answers on the port before that is another server.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.exit_code() is None:
            if self._says_ready() and self._answers():
                return True
            time.sleep(_POLL_S)
        return False

    def _says_ready(self) -> bool:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.startswith("ready") and self.url in line for line in lines)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/models", timeout=5).status_code == _OK
        except httpx.TransportError:
            return False

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]

    def stop(self) -> Stopped:
        """End it: ask with SIGINT, then with SIGTERM, and in the end kill its whole group."""
        used = signal.SIGINT
        for used in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            self._send(used)
            try:
                self._process.wait(_PATIENCE_S[used.name])
            except subprocess.TimeoutExpired:
                continue
            break
        is_gone = self._is_group_gone()
        if not is_gone:
            self._kill_group()
        exit_code = self._process.returncode
        return Stopped(used.name, -1 if exit_code is None else exit_code, is_gone, self._is_port_closed())

    def _send(self, sent: signal.Signals) -> None:
        if self.exit_code() is not None:
            return
        if sent is signal.SIGKILL:
            self._kill_group()
        else:
            self._process.send_signal(sent)

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _is_group_gone(self) -> bool:
        deadline = time.monotonic() + _GROUP_PATIENCE_S
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(_POLL_S)
        return False

    def _is_port_closed(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex((HOST, self.port)) != 0
