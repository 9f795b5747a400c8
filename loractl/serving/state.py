"""What a running server says about itself to other loractl commands on the same home."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl.engine.plan import EnginePlan, PlanError
from loractl.serving.errors import AlreadyServedError
from loractl.serving.readiness import Endpoint

_FOLDER = "run"
# How long another command may hold the lock of a dead server while it removes what that one left.
_CLEANING_S = 0.5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class RunState:
    """One `loractl serve`, from the moment that its engine starts.

    Attributes:
        pid: Process id of `loractl serve` itself.
        started: When that process started, as the kernel counts; with `pid` it names one process for good.
        plan: What its engine was started for; `plan.refusal_of` says why a version has to wait for a restart.
    """

    pid: int
    started: str
    host: str
    port: int
    base: str
    plan: EnginePlan

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it."""
        return Endpoint(self.host, self.port).url

    @property
    def is_running(self) -> bool:
        """Whether exactly that process still exists."""
        return process_start(self.pid) == self.started


def running(home: Path, *, base: str | None = None) -> tuple[RunState, ...]:
    """Return the servers that run on `home` now, by base; remove what dead ones left behind."""
    found = [state for path in sorted((home / _FOLDER).glob("*.json")) if (state := _read_or_clean(path)) is not None]
    return tuple(state for state in found if base is None or state.base == base)


def write_state(home: Path, state: RunState) -> None:
    """Publish `state`: readers see the old file or the new one, whole."""
    body = {
        "pid": state.pid,
        "started": state.started,
        "host": state.host,
        "port": state.port,
        "base": state.base,
        "plan": state.plan.to_json(),
    }
    write_private(_path(home, state.base), json.dumps(body, indent=1))


def remove_state(home: Path, base: str) -> None:
    """Withdraw what `write_state` published. Idempotent."""
    _path(home, base).unlink(missing_ok=True)


@contextlib.contextmanager
def sole_server(home: Path, base: str) -> Generator[None]:
    """Hold the right to serve `base` from `home`; the kernel takes it back however this process ends.

    Raises:
        AlreadyServedError: Another process holds it.
    """
    descriptor = _open_lock(run_folder(home), base)
    try:
        if not _lock(descriptor, patience_s=_CLEANING_S):
            other = next(iter(running(home, base=base)), None)
            raise AlreadyServedError(base, f" at {other.url} by process {other.pid}" if other else "")
        yield
    finally:
        os.close(descriptor)


def run_folder(home: Path) -> Path:
    """Return the folder of run-time files below `home`, which it creates, mode 0700."""
    folder = home / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write `path` at once and whole, readable by its owner alone."""
    run_folder(path.parent.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(path)


def read_private(path: Path) -> str:
    """Return the text of `path`, without following a link.

    Raises:
        PermissionError: It is not a file that its owner, who is asking, alone can read.
        OSError: It cannot be read.
    """
    # Opening a FIFO would otherwise wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{path} is not a file of yours alone")
        return stream.read()


def process_start(pid: int) -> str | None:
    """Return when process `pid` started, as ``boot/ticks``, or None if there is no such process."""
    try:
        # The command name, which may hold anything, ends at the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}/{started}"


def _path(home: Path, base: str) -> Path:
    return home / _FOLDER / f"{base}.json"


def _read_or_clean(path: Path) -> RunState | None:
    state = _read(path)
    if state is not None and state.is_running:
        return state
    with contextlib.suppress(OSError):
        # A read-only home keeps its litter; whoever reads it is not misled.
        _clean(path)
    return None


def _clean(path: Path) -> None:
    """Remove what a dead server left, unless a new one has taken its place in the meantime."""
    descriptor = _open_lock(path.parent, path.stem)
    try:
        if _lock(descriptor, patience_s=0):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _open_lock(folder: Path, base: str) -> int:
    return os.open(folder / f"{base}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(descriptor: int, *, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _read(path: Path) -> RunState | None:
    try:
        body: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
        pid, started, port = body["pid"], body["started"], body["port"]
        if not isinstance(pid, int) or not isinstance(port, int):
            return None
        plan = EnginePlan.from_json(body["plan"])
        return RunState(pid, str(started), str(body["host"]), port, str(body["base"]), plan)
    except (OSError, ValueError, KeyError, TypeError, PlanError):
        return None
