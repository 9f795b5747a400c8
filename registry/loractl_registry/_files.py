"""Writing one file so that it is whole or not there, and never over another."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from loractl_registry.home_errors import os_errors_named
from loractl_registry.refusals import FileExistsRefusedError

TEMPORARY = "tmp"

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@contextmanager
def written_beside(target: Path) -> Generator[Path]:
    """Give a temporary file in the folder of `target`; at the end it is on disk under that name.

    Raises:
        FileExistsRefusedError: `target` is there, before or at the end.
    """
    if target.exists() or target.is_symlink():
        raise FileExistsRefusedError(target)
    with os_errors_named(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            fsync(part)
            _name_it(part, target)
            fsync(target.parent)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()


def write_whole(target: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` in the place of `target` in one step, on disk when this returns.

    Raises:
        RegistryError: The operating system refused; the file is as it was.
    """
    with os_errors_named(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(target)
            fsync(target.parent)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()


@contextmanager
def temporary_folder(home: Path) -> Generator[Path]:
    """Give an empty folder below `home`, gone at the end; fsck clears up what a killed process leaves."""
    root = home / TEMPORARY
    root.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=root) as name:
        yield Path(name)


def fsync(path: Path) -> None:
    """Put a file or a folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name_it(part: Path, target: Path) -> None:
    """Give `part` its name, as a link where the file system has them, because that never overwrites."""
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise FileExistsRefusedError(target) from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        part.rename(target)
