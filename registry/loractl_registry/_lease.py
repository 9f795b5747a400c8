"""Who is writing temporary files: shared by those who do, exclusive for the one who clears up after the dead."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from loractl_registry.home_errors import os_errors_named

_FILE = "store.lock"


@contextmanager
def writing_lease(home: Path) -> Generator[None]:
    """Hold a lease while temporary files of this process are in the store; the kernel ends it with the process."""
    handle = _open(home)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def sole_lease(home: Path) -> Generator[bool]:
    """Give True if no other process is writing temporary files, and keep it so inside the block."""
    handle = _open(home)
    try:
        yield _is_free(handle)
    finally:
        os.close(handle)


def _open(home: Path) -> int:
    path = home / _FILE
    with os_errors_named(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
