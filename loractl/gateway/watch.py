"""Reading the registry from one thread, so that the event loop never waits for the database."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeAlias

from loractl.gateway.callers import Callers, TenancySource, callers_of
from loractl_registry import ServingSnapshot, VersionRef, utc_now


class RegistrySource(Protocol):
    """What the gateway needs of a `Registry`."""

    def changes(self) -> int:
        """Return a number that differs once anything was committed."""
        ...

    def snapshot(self, base: str) -> ServingSnapshot:
        """Return what may answer on `base`, read in one transaction."""
        ...

    @property
    def tenancy(self) -> TenancySource:
        """Who may ask."""
        ...

    def record_refusal(self, ref: VersionRef, *, actor: str, reason: str, detail: Mapping[str, object]) -> None:
        """Write one audit event ``adapter.refused``."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


Trace: TypeAlias = tuple[tuple[int, int, int] | None, ...]


def trace_of(database: Path) -> Trace:
    """Return inode, size and modification time of a database file and of its write-ahead log; takes microseconds.

    A commit changes it, but for one that overwrites the log in the very tick of the clock of the one before. So it
    tells early that a look is due, and only SQLite tells that none is.
    """
    return _entry(database), _entry(f"{database}-wal")


def _entry(path: Path | str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116  # a Path for the log would cost more than the call
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look found.

    Attributes:
        snapshot: What may answer now, if that can be something else than at the last look.
        callers: Who may ask, likewise.
        error: Why the registry could not be read, or None.
    """

    snapshot: ServingSnapshot | None = None
    callers: Callers | None = None
    error: str | None = None


class RegistryWatch:
    """One connection to the registry of one home. Every method blocks and must be called from the same thread.

    Args:
        open_registry: Opens the registry; must not create one.
        database: Its database file. When the path leads to another file than before, that one is opened: the open one
            would be watched for ever without a change.
        base: The base whose versions are watched.
        clock: Tells when something expires.
    """

    def __init__(
        self,
        open_registry: Callable[[], RegistrySource],
        database: Path,
        base: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._open_registry = open_registry
        self._database = database
        self._base = base
        self._clock = clock
        self._last: ServingSnapshot | None = None
        self._registry: RegistrySource | None = None
        self._file: tuple[int, int] | None = None
        self._changes: int | None = None

    def look(self) -> Sight:
        """Look at the registry; after a failure the next look starts from a fresh connection."""
        try:
            return self.poll()
        except Exception as failure:  # noqa: BLE001  # whatever it is, what may answer is not known any more
            return Sight(error=str(failure) or type(failure).__name__)

    def poll(self) -> Sight:
        """Return what may answer now, and who may ask, if that can be something else than at the last poll.

        That is after a commit, after something expired, and while the registry is distrusted: the file that would
        clear it is not in the database. Raises whatever the registry raises.
        """
        try:
            registry = self._connection()
            changes = registry.changes()
            has_changed = changes != self._changes
            if not has_changed and not self._is_due():
                return Sight()
            snapshot = registry.snapshot(self._base)
            callers = callers_of(registry.tenancy)
        except BaseException:
            self.close()
            raise
        # The number from before the snapshot: a commit in between is read again rather than missed.
        self._changes = changes
        is_same, self._last = snapshot == self._last, snapshot
        return Sight() if is_same and not has_changed else Sight(snapshot, callers)

    def close(self) -> None:
        """Let go of the database; the next poll opens it again."""
        registry, self._registry, self._changes = self._registry, None, None
        self._last = None
        if registry is not None:
            registry.close()

    def _is_due(self) -> bool:
        last = self._last
        if last is None or last.distrust is not None:
            return True
        return last.until is not None and self._clock() >= last.until

    def _connection(self) -> RegistrySource:
        stat = self._database.stat()
        file = stat.st_dev, stat.st_ino
        if self._registry is not None and file != self._file:
            self.close()
        if self._registry is None:
            self._registry, self._file = self._open_registry(), file
        return self._registry
