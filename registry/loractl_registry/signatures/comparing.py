"""Whether the files that were signed are exactly those at hand."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from loractl_registry.home_errors import os_errors_named
from loractl_registry.records import Manifest
from loractl_registry.signatures.bundle import MAX_FILES, SignedFiles
from loractl_registry.signatures.errors import (
    IgnoredFileError,
    MissingSignedFileError,
    SignedDigestError,
    UnsignableFileError,
    UnsignedFileError,
)


def require_signed(signed: SignedFiles, manifest: Manifest) -> None:
    """Return if every file of `manifest` is signed, with the digest that it has there.

    The signer's ``ignore_paths`` count for nothing. model-signing obeys them when it verifies, so that a file named
    there may be swapped and still verifies; here they are only the reason why a file is not signed.

    Raises:
        IgnoredFileError, UnsignedFileError: The signature leaves out a file of the manifest.
        SignedDigestError: A file has another digest.
    """
    unsigned = [entry.path for entry in manifest.files if entry.path not in signed.digests]
    if ignored := [path for path in unsigned if _is_below(path, signed.ignored)]:
        raise IgnoredFileError(ignored)
    if unsigned:
        raise UnsignedFileError(unsigned)
    for entry in manifest.files:
        if (digest := signed.digests[entry.path]) != entry.digest:
            raise SignedDigestError(entry.path, digest, entry.digest)


def require_nothing_else(signed: SignedFiles, manifest: Manifest) -> None:
    """Return if no file is signed that `manifest` lacks.

    Raises:
        MissingSignedFileError: One is.
    """
    if missing := signed.digests.keys() - {entry.path for entry in manifest.files}:
        raise MissingSignedFileError(missing)


def require_exact_folder(folder: Path, manifest: Manifest, *, beside: Collection[str] = ()) -> None:
    """Return if `folder` holds the files of `manifest`, by path and size, and nothing but `beside` them.

    Their contents are not read: whoever made or checked the manifest has hashed them.

    Raises:
        UnsignedFileError: Something else is there; of a folder, the folder alone is named.
        MissingSignedFileError: A file is not there.
        SignedDigestError: A file has another size.
        UnsignableFileError: Something is a link or a device.
        RegistryError: The operating system refused.
    """
    expected = {entry.path: entry for entry in manifest.files}
    sizes = sizes_in(folder, [*expected, *beside])
    if extra := sizes.keys() - expected.keys() - set(beside):
        raise UnsignedFileError(extra)
    if missing := expected.keys() - sizes.keys():
        raise MissingSignedFileError(missing)
    for path, entry in expected.items():
        if sizes[path] != entry.size_bytes:
            raise SignedDigestError(path, f"{entry.size_bytes} bytes", f"{sizes[path]} bytes")


def sizes_in(folder: Path, expected: Iterable[str]) -> dict[str, int]:
    """Return the size of every file below `folder`, by POSIX path, without following a link.

    Folders on the way to `expected` are entered; any other is one entry that ends in a slash, whatever is in it.

    Raises:
        UnsignableFileError: Something is a link or a device.
        UnsignedFileError: There is too much of it.
        RegistryError: The operating system refused.
    """
    entered = {str(parent) for path in expected if "/" in path for parent in PurePosixPath(path).parents}
    sizes: dict[str, int] = {}
    waiting = [""]
    with os_errors_named(folder):
        while waiting:
            here = waiting.pop()
            with os.scandir(os.path.join(folder, here)) as entries:  # noqa: PTH118  a third of what the check takes
                for entry in entries:
                    path = f"{here}/{entry.name}" if here else entry.name
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        waiting += [path] if path in entered else []
                        sizes |= {} if path in entered else {f"{path}/": 0}
                    elif stat.S_ISREG(status.st_mode):
                        sizes[path] = status.st_size
                    else:
                        is_link = stat.S_ISLNK(status.st_mode)
                        raise UnsignableFileError(path, "a symbolic link" if is_link else "not a regular file")
                    if len(sizes) > MAX_FILES:
                        raise UnsignedFileError([path])
    return sizes


def _is_below(path: str, ignored: Iterable[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(PurePosixPath(each)) for each in ignored)
