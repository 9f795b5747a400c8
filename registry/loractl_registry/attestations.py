"""What the registry tells of signatures over files and of evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from loractl_registry.records import AdapterVersion


@dataclass(frozen=True, slots=True)
class FileSignatureRecord:
    """A signature over the files of a version that a statement names, as far as it holds now.

    Attributes:
        digest: Of the signature file.
        kind: ``key``, ``shipped`` or ``keyless``; empty where it is gone.
        signer: Id of the key, or what the signature says of it.
        identity: Whose key it is, None if nobody's here.
        roles: What that key is trusted with now.
        is_verified: Whether it is over exactly these files, by a key that is trusted now.
        problem: Why it cannot be what was kept, None if it can.
    """

    digest: str
    kind: str
    signer: str
    identity: str | None
    roles: tuple[str, ...]
    is_verified: bool
    at: datetime | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FilesSigned:
    """A signature over the files of a version, and whether this call made it or found one by the same key.

    Attributes:
        signature: Digest of the signature file.
        statement: Digest of the statement that it was kept by; None if it was found.
    """

    version: AdapterVersion
    identity: str
    signature: str
    statement: str | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """A piece of evidence that somebody signed for.

    Attributes:
        type: ``eval``, ``card``, ``scan``, ``review`` or ``effect``.
        kind: What made it, None if nobody said.
        passed: Its verdict, None if it has none.
        digest: Of its bytes.
        by: Who signed for it.
        is_counted: Whether a policy may count it: its signer's key is trusted still, and its numbers are those signed.
        statement: Digest of the statement.
    """

    type: str
    kind: str | None
    passed: bool | None
    digest: str
    metrics: Mapping[str, float]
    by: str
    at: datetime
    is_counted: bool
    statement: str


@dataclass(frozen=True, slots=True)
class AddedEvidence:
    """A piece of evidence, and whether this call kept it or found it there.

    Attributes:
        is_quarantined: Whether the version is in quarantine now, because its newest scan failed.
        is_served: Whether it may be served all the same, because of the stage that it is in.
    """

    version: AdapterVersion
    evidence: EvidenceRecord
    is_new: bool
    is_quarantined: bool
    is_served: bool
