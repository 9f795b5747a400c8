"""What the registry's operations return beside the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry.records import AdapterVersion, Base
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

if TYPE_CHECKING:
    from loractl_registry.preflight import PreflightReport


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what its manifest says.

    Attributes:
        path: As the manifest names it.
        expected: Digest that the manifest holds, or what should be there.
        found: Digest of what is there, or ``missing``, ``unexpected file``, ``not a regular file``.
    """

    path: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class AddedBase:
    """A base, and whether this call admitted it or found it there with the same digest."""

    base: Base
    is_new: bool


@dataclass(frozen=True, slots=True)
class BaseVerification:
    """What re-checking a base's files found.

    Attributes:
        was_full: Every file was hashed, also those whose size and mtime had not changed.
        rehashed: Number of files that were hashed.
    """

    base: Base
    is_intact: bool
    was_full: bool
    rehashed: int
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class AddedVersion:
    """A version, and whether this call stored it or found the same bytes under that name."""

    version: AdapterVersion
    is_new: bool


@dataclass(frozen=True, slots=True)
class Promotion:
    """A climb.

    Attributes:
        entered: The stages entered, in order; empty if the version was there already.
        replaced: The version that was live until now and is approved now.
        preflight: The report of the check, if the climb passed candidate.
    """

    version: AdapterVersion
    from_stage: Stage
    entered: tuple[Stage, ...]
    replaced: VersionRef | None
    preflight: PreflightReport | None


@dataclass(frozen=True, slots=True)
class StageChange:
    """A step down or out.

    Attributes:
        same_bytes: Other servable versions that hold the very same bytes; a caller who revokes wants to know.
    """

    version: AdapterVersion
    from_stage: Stage
    same_bytes: tuple[VersionRef, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One tensor as a diff compares it: Torch dtype name, shape and digest of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Change:
    """One named thing on both sides; None on the side that lacks it."""

    name: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What differs between two versions; each tuple is sorted by name and holds only what differs."""

    before: AdapterVersion
    after: AdapterVersion
    facts: tuple[Change, ...]
    provenance: tuple[Change, ...]
    files: tuple[Change, ...]
    tensors: tuple[Change, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs that makes the versions behave differently."""
        return not (self.facts or self.files or self.tensors)


@dataclass(frozen=True, slots=True)
class VersionVerification:
    """What re-hashing a version's stored files found.

    Attributes:
        collected_at: When gc removed the bytes of this version on purpose; then nothing is damaged.
    """

    ref: VersionRef
    is_intact: bool
    damaged: tuple[Damage, ...]
    collected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that fsck found.

    Attributes:
        kind: Stable word: ``orphan``, ``stray``, ``leftover``, ``missing``, ``damaged``, ``mode``, ``database``,
            ``schema``.
        subject: A path below the home, or the refs concerned.
        is_repaired: Whether this run mended it.
    """

    kind: str
    subject: str
    detail: str
    is_repaired: bool


@dataclass(frozen=True, slots=True)
class FsckReport:
    """All findings, and how much was looked at."""

    findings: tuple[Finding, ...]
    contents_checked: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left to mend."""
        return all(finding.is_repaired for finding in self.findings)


@dataclass(frozen=True, slots=True)
class GcReport:
    """What gc removed, or with `is_dry_run` what it would remove.

    Attributes:
        contents: Digest and the versions, all rejected or revoked, whose bytes they were.
    """

    contents: Mapping[str, tuple[VersionRef, ...]]
    freed_bytes: int
    is_dry_run: bool


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The archive that was written."""

    file: Path
    refs: tuple[VersionRef, ...]
    size_bytes: int
    digest: str
