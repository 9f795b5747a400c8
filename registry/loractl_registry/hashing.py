"""Digests of files, at the speed of the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.progress import SILENT, Progress
from loractl_registry.records import FileEntry

BUFFER_BYTES = 4 * 2**20
MAX_WORKERS = 8

Signature = tuple[int, int, int, int]


def signature_of(status: os.stat_result) -> Signature:
    """Return size, mtime and ctime in nanoseconds, and inode: what tells an untouched file without reading it."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@contextmanager
def shown_progress(progress: Progress, label: str, total_bytes: int) -> Generator[Progress]:
    """Start `label`, and end it also after a failure."""
    progress.start(label, total_bytes)
    try:
        yield progress
    finally:
        progress.done()


def hash_files(
    root: Path,
    files: Iterable[str],
    progress: Progress = SILENT,
    workers: int | None = None,
    *,
    label: str = "hashing",
) -> tuple[FileEntry, ...]:
    """Hash files below `root`, several at once, and return their entries sorted by path.

    Args:
        root: Folder that `files` are below.
        files: POSIX paths relative to `root`; links are followed.
        progress: Told about every buffer that was hashed.
        workers: Threads; the default is one a core, at most 8. Hashing runs outside the interpreter's lock.
        label: What progress calls it.

    Raises:
        ChangedWhileReadError: A file became longer or shorter meanwhile.
        RegistryError: The operating system refused.
    """
    names = sorted(files)
    with os_errors_named(root):
        sizes = {name: (root / name).stat().st_size for name in names}
    # The largest first, so that no thread begins a shard of 5 GB when the others have ended.
    largest_first = sorted(names, key=lambda name: -sizes[name])
    with shown_progress(progress, label, sum(sizes.values())):
        digests = _hash_each(root, largest_first, sizes, progress, workers)
    return tuple(FileEntry(name, sizes[name], digests[name]) for name in names)


def hash_file(path: Path, *, expected_bytes: int, progress: Progress = SILENT) -> str:
    """Return ``sha256:hex`` of one file that is `expected_bytes` long.

    Raises:
        ChangedWhileReadError: It is not.
        RegistryError: The operating system refused.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(BUFFER_BYTES, max(1, expected_bytes + 1))))
    count = 0
    with os_errors_named(path), path.open("rb", buffering=0) as stream:
        while taken := stream.readinto(buffer):
            digest.update(buffer[:taken])
            progress.advance(taken)
            count += taken
            if count > expected_bytes:
                break
    if count != expected_bytes:
        raise ChangedWhileReadError(path.name)
    return f"sha256:{digest.hexdigest()}"


def _hash_each(
    root: Path, names: Sequence[str], sizes: Mapping[str, int], progress: Progress, workers: int | None
) -> dict[str, str]:
    count = min(workers or min(os.cpu_count() or 1, MAX_WORKERS), len(names))
    if count <= 1:
        return {name: hash_file(root / name, expected_bytes=sizes[name], progress=progress) for name in names}
    from concurrent.futures import ThreadPoolExecutor  # only worth its import when there is something to share

    with ThreadPoolExecutor(count, thread_name_prefix="loractl-hash") as pool:
        jobs = {
            name: pool.submit(hash_file, root / name, expected_bytes=sizes[name], progress=progress) for name in names
        }
        try:
            return {name: job.result() for name, job in jobs.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
