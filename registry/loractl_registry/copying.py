"""Copying a file and hashing the very bytes that are written."""

from __future__ import annotations

import hashlib
import os
import queue
import threading

from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.progress import Progress

BUFFER_BYTES = 4 * 2**20
_BUFFERS = 4


def copy_hashed(source: int, target: int, *, name: str, expected_bytes: int, progress: Progress) -> str:
    """Copy one open file to another, put it on the disk, and return ``sha256:hex`` of what was written.

    Reading and writing run here, hashing in a second thread; both leave the interpreter's lock. A source that changes
    meanwhile cannot make the digest differ from the copy.

    Raises:
        ChangedWhileReadError: The source is not `expected_bytes` long any more.
        OSError: Reading or writing failed.
    """
    if expected_bytes <= BUFFER_BYTES:
        return _copy_small(source, target, name, expected_bytes, progress)
    hasher = _Hasher()
    try:
        _copy_large(source, target, name, expected_bytes, progress, hasher)
        os.fsync(target)
    finally:
        digest = hasher.finish()
    return digest


def _copy_small(source: int, target: int, name: str, expected_bytes: int, progress: Progress) -> str:
    data = b""
    while len(data) <= expected_bytes and (part := os.read(source, expected_bytes + 1 - len(data))):
        data += part
    if len(data) != expected_bytes:
        raise ChangedWhileReadError(name)
    _write_all(target, memoryview(data))
    os.fsync(target)
    progress.advance(len(data))
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _copy_large(source: int, target: int, name: str, expected_bytes: int, progress: Progress, hasher: _Hasher) -> None:
    copied = 0
    while True:
        buffer = hasher.take_buffer()
        taken = os.readv(source, [buffer])
        copied += taken
        if copied > expected_bytes or (taken == 0 and copied < expected_bytes):
            raise ChangedWhileReadError(name)
        if taken == 0:
            return
        hasher.hash(buffer, taken)
        # Both only read the buffer; it is filled again by this thread, which has written it by then.
        _write_all(target, memoryview(buffer)[:taken])
        progress.advance(taken)


def _write_all(target: int, data: memoryview) -> None:
    while data:
        data = data[os.write(target, data) :]


class _Hasher:
    """A thread that hashes buffers in the order in which they come."""

    def __init__(self) -> None:
        self._full: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        self._hashed: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._digest = hashlib.sha256()
        for _ in range(_BUFFERS):
            self._hashed.put(bytearray(BUFFER_BYTES))
        self._thread = threading.Thread(target=self._run, name="loractl-hash")
        self._thread.start()

    def take_buffer(self) -> bytearray:
        """Wait for a buffer whose bytes are hashed, to be filled again."""
        return self._hashed.get()

    def hash(self, buffer: bytearray, num_bytes: int) -> None:
        """Hash the first `num_bytes` soon; the caller may read the buffer meanwhile."""
        self._full.put((buffer, num_bytes))

    def finish(self) -> str:
        """Wait until every buffer is hashed, end the thread, and return the digest."""
        self._full.put(None)
        self._thread.join()
        return f"sha256:{self._digest.hexdigest()}"

    def _run(self) -> None:
        while (filled := self._full.get()) is not None:
            buffer, num_bytes = filled
            self._digest.update(memoryview(buffer)[:num_bytes])
            self._hashed.put(buffer)
