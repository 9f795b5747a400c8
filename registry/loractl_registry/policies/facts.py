"""The facts that a policy judges; whatever nobody knows is None or empty, and denies where a rule asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

NO_ROLES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base that a version belongs to, or that shall be admitted.

    Attributes:
        digest: Digest of its manifest.
        source: ``hf:OWNER/REPO@COMMIT`` or the absolute path that it came from.
    """

    name: str
    digest: str
    licence: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set that a version was trained on."""

    name: str
    licence: str | None = None
    data_class: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature over the files of the version.

    Attributes:
        is_verified: Whether it was checked against these files and a key that is trusted now.
        roles: Roles of the signer now.
    """

    identity: str
    is_verified: bool
    roles: frozenset[str] = NO_ROLES


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's approval of exactly this version.

    Attributes:
        roles: Roles of `identity` now, so that an approval falls with the role.
    """

    identity: str
    at: datetime
    roles: frozenset[str] = NO_ROLES
    reason: str = ""

    def __post_init__(self) -> None:
        require_moment(self.at)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence about exactly this version.

    Attributes:
        type: ``eval``, ``card``, ``scan``, ``review`` or ``effect``.
        kind: What made it.
        passed: Its own verdict, None if it has none. A scan and an effect proof count only if they have passed.
    """

    type: str
    digest: str
    kind: str | None = None
    passed: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Request:
    """Someone wants a version in a stage, and, with `tenant`, used by that tenant.

    Attributes:
        digest: Digest of the version's manifest.
        stage: The stage to enter.
        roles: Roles of `actor`.
        engine: Version of the engine that serves.
        break_glass: The reason for going without approvals and evidence; None for an ordinary request.
    """

    ref: VersionRef
    digest: str
    stage: Stage
    actor: str
    now: datetime
    roles: frozenset[str] = NO_ROLES
    added_by: str | None = None
    rank: int | None = None
    size_bytes: int | None = None
    base: BaseFacts | None = None
    engine: str | None = None
    data: tuple[DataSet, ...] = ()
    signatures: tuple[Signature, ...] = ()
    approvals: tuple[Approval, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    tenant: str | None = None
    break_glass: str | None = None

    def __post_init__(self) -> None:
        require_moment(self.now)


@dataclass(frozen=True, slots=True)
class BaseRequest:
    """Someone wants to admit a base."""

    base: BaseFacts
    actor: str
    roles: frozenset[str] = NO_ROLES


def require_moment(moment: datetime) -> datetime:
    """Return `moment` if it can be judged.

    Raises:
        ValueError: It has no time zone, or lies in a year that no end can be counted from.
    """
    if moment.tzinfo is None:
        raise ValueError("a time with its zone, such as 2026-01-31T09:00:00Z")
    if not 1970 <= moment.year < 9000:
        raise ValueError("a time between the years 1970 and 9000")
    return moment
