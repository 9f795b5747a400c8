"""Whether a version's stored files are still those that were verified."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from loractl_registry import AdapterVersion

Verify: TypeAlias = Callable[[AdapterVersion], "str | None"]
"""Hashes a version's stored files and says what is not as it was approved, or None. Called in worker threads."""

_Stamp: TypeAlias = tuple[str, int, int, int, int, int]
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Signature:
    """Device, inode, size, modification time and change time of a folder and of everything in it.

    Equal signatures mean that nobody wrote there in between: the change time cannot be set back without privileges.
    The folder's own stamp changes when an entry comes, goes or is renamed.
    """

    stamps: tuple[_Stamp, ...]


@dataclass(frozen=True, slots=True)
class Examination:
    """What hashing found: the signature of intact files, or what is wrong with them."""

    signature: Signature | None
    damage: str | None


def signature_of(folder: Path) -> Signature | None:
    """Return the signature of `folder`, or None if it cannot be read. Takes microseconds; opens no file."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        return Signature(tuple(_stamp(folder, name) for name in ("", *names)))
    except OSError:
        return None


def still_has(folder: Path, signature: Signature) -> bool:
    """Whether `folder` still has `signature`; cheap enough for every request, because it lists nothing.

    An entry that is not in the signature changes the folder's own stamp, which comes first.
    """
    try:
        return all(_stamp(folder, stamp[0]) == stamp for stamp in signature.stamps)
    except OSError:
        return False


def examine(version: AdapterVersion, verify: Verify) -> Examination:
    """Hash the files of `version`, and take a signature that surely belongs to what was hashed.

    Blocks for as long as hashing takes.
    """
    before = signature_of(version.path)
    for _ in range(_ATTEMPTS):
        damage = _verdict(version, verify)
        if damage is not None:
            return Examination(before, damage)
        after = signature_of(version.path)
        if before is not None and before == after:
            return Examination(before, None)
        before = after
    return Examination(before, "its files changed while they were being hashed")


def _verdict(version: AdapterVersion, verify: Verify) -> str | None:
    try:
        return verify(version)
    except Exception as error:  # noqa: BLE001  # whatever stops the check, the files are not known to be intact
        return f"its files could not be verified: {error}"


def _stamp(folder: Path, name: str) -> _Stamp:
    stat = os.lstat(f"{folder}/{name}" if name else folder)
    return name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
