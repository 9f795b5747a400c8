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
            ``schema``, ``audit``.
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


@dataclass(frozen=True, slots=True)
class TrustedAccount:
    """An account that signs without a key.

    Attributes:
        subject: What its certificates are for: an address, or the URI of a workflow.
        issuer: URL of the OpenID provider that vouches for it.
        trusted_root: Digest of the root of trust that is pinned for it.
    """

    subject: str
    issuer: str
    trusted_root: str


@dataclass(frozen=True, slots=True)
class Identity:
    """One key, or one account without a key, of one identity.

    Attributes:
        key_id: Of the key; of an account, what stands for it.
        public_key: PEM, to be given to whoever shall trust it; None of an account.
        roles: What the key may do now, sorted.
        is_trusted: Whether it may sign now.
        is_revoked: Whether it was trusted and is so no more, for good.
        is_here: Whether the private key lies in this home.
    """

    name: str
    key_id: str
    public_key: str | None
    roles: tuple[str, ...]
    is_trusted: bool
    is_revoked: bool
    is_here: bool
    account: TrustedAccount | None = None


@dataclass(frozen=True, slots=True)
class SignedStanding:
    """Where a version stands by what was signed.

    Attributes:
        by, sequence: Signer and place of the statement that moved it last; None if there is none.
        expires: When it ceases to be servable, None for never.
        objection: Why its row, or the whole chain, is not what was signed; None if it is.
        break_glass: The reason for which it is approved without review, None if it was reviewed.
    """

    stage: Stage | None
    by: str | None
    sequence: int | None
    expires: datetime | None
    objection: str | None
    break_glass: str | None = None


@dataclass(frozen=True, slots=True)
class SignedAdmission:
    """Whether a base is what was signed.

    Attributes:
        by, sequence: Signer and place of the newest statement about it; None if there is none.
        objection: Why its row, or the whole chain, is not what was signed; None if it is.
    """

    by: str | None
    sequence: int | None
    objection: str | None


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """The head of the chain that a checkpoint was signed for."""

    sequence: int
    head: str
    signer: str


@dataclass(frozen=True, slots=True)
class HistoryVerification:
    """What verifying everything that was signed found.

    Attributes:
        statements, events: How many there are.
        head: Digest of the newest statement, None if nothing was signed or the chain does not verify.
        problems: One line each; empty if all is as it was signed.
    """

    statements: int
    head: str | None
    events: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Approved:
    """An approval, and whether this call gave it or found the same identity's.

    Attributes:
        to: The rung that it is for.
        statement: Digest of the signed statement.
    """

    version: AdapterVersion
    to: Stage
    identity: str
    statement: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One signed approval since the version last left the servable stages.

    Attributes:
        roles: Roles of the key now.
        is_valid: Whether it may count: its key is trusted still, and it has not expired.
    """

    identity: str
    roles: tuple[str, ...]
    at: datetime
    to: Stage
    reason: str | None
    statement: str
    is_valid: bool


@dataclass(frozen=True, slots=True)
class ApprovalNeed:
    """What one rule of the policy asks for, what it saw, and whether that is enough.

    Attributes:
        rule: Key of the rule, such as ``adapter.approved.approvals``.
    """

    rule: str
    required: str
    seen: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Approvals:
    """The approvals of a version and what the policy asks for on its way to the next rung.

    Attributes:
        to: The next rung that an approval could be for, None if there is none.
        policy_digest: Of the policy that asks.
    """

    version: AdapterVersion
    to: Stage | None
    given: tuple[ApprovalRecord, ...]
    needed: tuple[ApprovalNeed, ...]
    policy_digest: str
