"""Run one command and leave nothing of it behind; a script, started with ``python -I -S guard.py FD COMMAND...``.

It stands between `loractl serve` and the engine because the engine starts processes of its own, which outlive it when
it is killed, and because ``PR_SET_PDEATHSIG`` reaches one generation only. The guard adopts every orphan among its
descendants (``PR_SET_CHILD_SUBREAPER``) and kills all of them when the command ends, or when the pipe FD reaches its
end, which happens however `loractl serve` ends, ``kill -9`` included. SIGTERM, SIGINT and SIGUSR1 are passed on to
the command.

Standard library only, so that it starts in milliseconds and stays small.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_KILL_DEADLINE_S = 10.0
KILLED = 128 + signal.SIGKILL


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number has gone down the wake-up pipe, and the default action must not be taken."""


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _die_with_guard() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command name, which may hold anything, ends at the last parenthesis.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    return parents


def _descendants() -> set[int]:
    parents = _parents()
    found: set[int] = set()
    pending = {os.getpid()}
    while pending:
        pending = {pid for pid, parent in parents.items() if parent in pending} - found
        found |= pending
    return found


def _end_descendants() -> None:
    """Kill until no child is left: a process may start another while it dies, and its orphans come to us."""
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while time.monotonic() < deadline:
        for pid in _descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _reap(command: int) -> int | None:
    """Collect every child that has ended and return the exit code of `command` if it was among them."""
    code: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if not pid:
            return code
        if pid == command:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def _watch(command: int, control: int, wakeup: int) -> int:
    """Return the command's exit code, or `KILLED` once the owner is gone."""
    while True:
        ready, _, _ = select.select([control, wakeup], [], [])
        if control in ready and not os.read(control, 1):
            return KILLED
        if wakeup in ready:
            for number in os.read(wakeup, 512):
                if number in _PASSED_ON:
                    os.kill(command, number)
            if (code := _reap(command)) is not None:
                return code


def main(arguments: list[str]) -> int:
    """Run the command after the first of `arguments`, the number of the pipe; return what it returned."""
    control = int(arguments[0])
    os.set_inheritable(control, False)  # noqa: FBT003
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup, wakeup_in = os.pipe()
    os.set_blocking(wakeup_in, False)
    signal.set_wakeup_fd(wakeup_in, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD):
        signal.signal(number, _ignore)
    # This process has one thread, which is what makes preexec_fn safe.
    process = subprocess.Popen(arguments[1:], preexec_fn=_die_with_guard)  # noqa: PLW1509
    try:
        return _watch(process.pid, control, wakeup)
    finally:
        _end_descendants()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
