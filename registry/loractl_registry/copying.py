"""Copying a file and hashing the very bytes that were written."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Iterator

from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.progress import Progress

STEP_BYTES = 32 * 2**20
BUFFER_BYTES = 2**20

_NO_KERNEL_COPY = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})


def copy_hashed(source: int, target: int, *, name: str, expected_bytes: int, progress: Progress) -> str:
    """Copy one open file to another, put it on the disk, and return ``sha256:hex`` of what was written.

    A second thread copies in the kernel while this one hashes what has arrived in `target`, so that the digest is that
    of the copy, whatever becomes of the source meanwhile. `target` is open for reading and writing, and empty.

    Raises:
        ChangedWhileReadError: The source is not `expected_bytes` long any more.
        OSError: Reading or writing failed.
    """
    copier = _Copier(source, target, expected_bytes)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(BUFFER_BYTES, max(expected_bytes, 1))))
    hashed = 0
    try:
        for arrived in copier.steps():
            while hashed < arrived:
                taken = os.preadv(target, [buffer[: arrived - hashed]], hashed)
                digest.update(buffer[:taken])
                progress.advance(taken)
                hashed += taken
    finally:
        copier.stop()
    if hashed != expected_bytes or os.read(source, 1):
        raise ChangedWhileReadError(name)
    os.fsync(target)
    return f"sha256:{digest.hexdigest()}"


class _Copier:
    """A thread that copies step by step and says how far it is."""

    def __init__(self, source: int, target: int, expected_bytes: int) -> None:
        self._source, self._target, self._expected_bytes = source, target, expected_bytes
        self._arrived: queue.SimpleQueue[int | OSError | None] = queue.SimpleQueue()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="loractl-copy")
        self._thread.start()

    def steps(self) -> Iterator[int]:
        """Yield how many bytes have arrived, until all have or the source ends. Raises what the thread met."""
        while (arrived := self._arrived.get()) is not None:
            if isinstance(arrived, OSError):
                raise arrived
            yield arrived

    def stop(self) -> None:
        """End the thread, after the step that it is at."""
        self._is_stopped = True
        self._thread.join()

    def _run(self) -> None:
        copied = 0
        try:
            while copied < self._expected_bytes and not self._is_stopped:
                step = _copy_step(self._source, self._target, min(STEP_BYTES, self._expected_bytes - copied))
                if step == 0:
                    break
                copied += step
                self._arrived.put(copied)
        except OSError as error:
            self._arrived.put(error)
        self._arrived.put(None)


def _copy_step(source: int, target: int, num_bytes: int) -> int:
    """Copy up to `num_bytes` from where both files stand, and return how many; 0 at the end of the source."""
    try:
        # Shares the blocks instead of copying them where the file system can.
        copied = os.copy_file_range(source, target, num_bytes)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        copied = 0
    # Some file systems answer 0 where they cannot, as at the end of a file; reading tells which it is.
    return copied or _copy_buffered(source, target, min(num_bytes, BUFFER_BYTES))


def _copy_buffered(source: int, target: int, num_bytes: int) -> int:
    data = memoryview(os.read(source, num_bytes))
    copied = len(data)
    while data:
        data = data[os.write(target, data) :]
    return copied
