"""What goes wrong with the home itself: locked, full, read-only, damaged or written by a newer loractl."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from loractl_registry.errors import ConflictError, NotFoundError, RegistryError


class LockedError(ConflictError):
    """Another process held the database for longer than we waited."""

    code = "registry.locked"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is locked by another process",
            hint="wait until the other loractl command has ended, then run this one again",
        )
        self.path = path


class DiskFullError(RegistryError):
    """The disk or the quota is full; nothing was stored."""

    code = "registry.disk_full"

    def __init__(self, path: Path) -> None:
        super().__init__(f"no space left to write {path}", hint="free some space, or run: loractl gc")
        self.path = path


class ReadOnlyError(RegistryError):
    """The home may not be written or read."""

    code = "registry.read_only"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"cannot write {path}: permission denied or read-only",
            hint="make it writable for you, or set LORACTL_HOME to a folder that is",
        )
        self.path = path


class DamagedDatabaseError(RegistryError):
    """The file is not a database, or SQLite finds it malformed."""

    code = "registry.damaged_database"

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(
            f"{path} is damaged: {found}",
            hint=f"move it away and restore a copy that `loractl backup` made to {path}, then run: loractl fsck",
        )
        self.path = path


class NewerDatabaseError(RegistryError):
    """The database knows a migration that this loractl does not."""

    code = "registry.newer_database"

    def __init__(self, path: Path, migration: str) -> None:
        super().__init__(
            f"{path} was written by a newer loractl (migration {migration[:80]!r})",
            hint="upgrade loractl, or point LORACTL_HOME at another home",
        )
        self.path, self.migration = path, migration


class HomeNotFoundError(NotFoundError):
    """There is no registry in this home yet."""

    code = "registry.home_not_found"

    def __init__(self, home: Path) -> None:
        super().__init__(f"no registry in {home}", hint="run: loractl base add NAME SOURCE, or set LORACTL_HOME")
        self.home = home


class StorageError(RegistryError):
    """The operating system refused in a way that none of the others describes."""

    code = "registry.storage"

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"cannot use {path}: {found}", hint="run: loractl fsck")
        self.path = path


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def refusal_of(error: OSError, path: Path) -> RegistryError:
    """Return the registry's error for what the operating system said about `path`."""
    named = Path(error.filename) if isinstance(error.filename, str) else path
    if error.errno in _FULL:
        return DiskFullError(named)
    if error.errno in _READ_ONLY:
        return ReadOnlyError(named)
    return StorageError(named, error.strerror or str(error))


@contextmanager
def os_errors_named(path: Path) -> Generator[None]:
    """Turn an `OSError` inside the block into a registry error that names the file, or `path` if it names none."""
    try:
        yield
    except OSError as error:
        raise refusal_of(error, path) from error
