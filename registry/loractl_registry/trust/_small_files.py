"""Reading a small file that somebody else may have put there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_small(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """Return what is in a regular file and its mode; of a larger one, a byte more than `max_bytes`.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return stream.read(max_bytes + 1), stat.S_IMODE(mode)
    finally:
        os.close(handle)
