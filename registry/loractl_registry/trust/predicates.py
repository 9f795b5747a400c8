"""What statements say about versions and bases; see `identity_predicates` for who may sign."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from loractl_registry.stages import Stage, Verb, climb, target_of
from loractl_registry.trust.fields import (
    MAX_ITEMS,
    Actor,
    Digest,
    Digests,
    Hexadecimal,
    Moment,
    Name,
    Names,
    Reason,
    Sequence,
    Signer,
    Strict,
    Tenants,
    VersionName,
)
from loractl_registry.trust.roles import Act

LONGEST_BREAK_GLASS = timedelta(days=7)


class BaseRef(Strict):
    """A base, by name and by the digest of its manifest."""

    name: Name
    digest: Digest


class Predicate(Strict):
    """What every statement says.

    Attributes:
        home: The home that it is for; see `home_id`.
        sequence: Its place in the chain of that home, counted from 1.
        previous: Digest of the statement before it, None for the first.
        at: When it was signed, by the signer's clock.
    """

    home: Hexadecimal
    sequence: Sequence
    previous: Digest | None
    at: Moment
    signer: Signer

    @model_validator(mode="after")
    def _first_has_no_previous(self) -> Self:
        if (self.previous is None) != (self.sequence == 1):
            raise ValueError("previous must be null in the first statement and in no other")
        return self


class OfVersion(Predicate):
    """What every statement about a version says.

    Attributes:
        policy: Digest of the policy that was in force.
    """

    policy: Digest


class Addition(OfVersion):
    """A version was added: the signer brought these bytes, and says where they come from.

    Attributes:
        added_by: The actor that the version's row names; who counts is the signer.
        provenance: Digest of the provenance in its one form; see `provenance_digest`.
        signatures: Digests of the signatures over its files that were kept with it.
    """

    added_by: Actor
    provenance: Digest
    signatures: Digests

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.ADD


class FileSigning(OfVersion):
    """The signer has signed the files of a version that is here already; nothing moves.

    Attributes:
        signature: Digest of the signature over its files that was kept.
    """

    signature: Digest

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.SIGN_FILES


class EvidenceType(StrEnum):
    """What a piece of evidence is: results of an evaluation, a card, a scan, a review, or a proof of effect."""

    EVAL = "eval"
    CARD = "card"
    SCAN = "scan"
    REVIEW = "review"
    EFFECT = "effect"


Kind = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+/@-]{0,99}$")]
"""What made a piece of evidence, such as the name of a harness."""


class Testimony(OfVersion):
    """A piece of evidence about a version was kept; nothing moves.

    Attributes:
        evidence: Digest of its bytes.
        kind: What made it, None if nobody said.
        passed: Its verdict, None if it has none.
        metrics: Digest of the numbers that were read from it, in their one form; None if there are none.
    """

    evidence: Digest
    type: EvidenceType
    kind: Kind | None
    passed: bool | None
    metrics: Digest | None

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.ADD_EVIDENCE

    @model_validator(mode="after")
    def _says_whether_it_passed(self) -> Self:
        if self.passed is None and self.type in (EvidenceType.SCAN, EvidenceType.EFFECT):
            raise ValueError(f"passed must be said of a {self.type}")
        return self


class Terms(OfVersion):
    """What a statement says that lets a version be used.

    Attributes:
        tenants: Who may use it; `ANY_TENANT` alone for everybody, empty for nobody.
        data_classes: The classes of data that it may see.
        evidence: Digests of what it was decided on.
    """

    from_stage: Stage
    to_stage: Stage
    base: BaseRef
    tenants: Tenants
    data_classes: Names
    evidence: Digests


class OneRung(Terms):
    """What a statement says about one rung.

    Attributes:
        expires: From this second on it counts for nothing; None for never.
    """

    expires: Moment | None
    reason: Reason | None = None

    @model_validator(mode="after")
    def _is_one_rung(self) -> Self:
        if self.expires is not None and self.expires <= self.at:
            raise ValueError("expires must be later than at")
        if climb(self.from_stage, None) != (self.to_stage,):
            raise ValueError(f"no rung leads from {self.from_stage} to {self.to_stage}")
        return self


class Promotion(OneRung):
    """One rung was climbed."""

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        match self.to_stage:
            case Stage.CANDIDATE:
                return Act.TO_CANDIDATE
            case Stage.APPROVED:
                return Act.TO_APPROVED
            case _:
                return Act.TO_LIVE


class Approval(OneRung):
    """The signer is for climbing this rung, on these terms; nothing moves."""

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.APPROVE


class BreakGlass(Terms):
    """An operator took a version up without what the policy asks for, for a short time and a reason."""

    reason: Reason
    expires: Moment

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.BREAK_GLASS

    @model_validator(mode="after")
    def _is_short_climb(self) -> Self:
        if not self.to_stage.is_servable or not climb(self.from_stage, self.to_stage):
            raise ValueError(f"no climb to a servable stage leads from {self.from_stage} to {self.to_stage}")
        if not self.at < self.expires <= self.at + LONGEST_BREAK_GLASS:
            raise ValueError(f"expires must be later than at, by at most {LONGEST_BREAK_GLASS.days} days")
        return self


Granting = Promotion | Approval | BreakGlass
"""What lets a version be used, until it expires."""


class StepDown(OfVersion):
    """A version went down or out; whatever an earlier promotion said of its stage has ended."""

    verb: Literal[Verb.DEMOTE, Verb.REJECT, Verb.RETIRE]
    from_stage: Stage
    to_stage: Stage
    reason: Reason

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        match self.verb:
            case Verb.DEMOTE:
                return Act.DEMOTE
            case Verb.REJECT:
                return Act.REJECT
            case Verb.RETIRE:
                return Act.RETIRE

    @model_validator(mode="after")
    def _verb_leads_there(self) -> Self:
        if target_of(self.verb, self.from_stage) is not self.to_stage:
            raise ValueError(f"{self.verb} does not lead from {self.from_stage} to {self.to_stage}")
        return self


class Revocation(OfVersion):
    """These bytes are never served again, under any ref."""

    from_stage: Stage
    reason: Reason

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.REVOKE


class AdmissionVerb(StrEnum):
    """A base is admitted, by the digest of its manifest, or withdrawn."""

    ADMIT = "admit"
    WITHDRAW = "withdraw"


BaseText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class BaseAdmission(Predicate):
    """A base model may be used here, or may not any more.

    Attributes:
        policy: Digest of the policy that was in force.
        source: ``hf:OWNER/REPO@COMMIT`` or the absolute path that it came from.
        licence: What it was admitted under, None if nobody said.
        evidence: Digests of what it was decided on.
    """

    policy: Digest
    verb: AdmissionVerb
    source: BaseText
    licence: BaseText | None
    evidence: Digests
    reason: Reason | None = None

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.ADMIT_BASE if self.verb is AdmissionVerb.ADMIT else Act.WITHDRAW_BASE


class OlderVersion(Strict):
    """A version, by its ref and the digest of its content."""

    name: VersionName
    digest: Digest


class Inventory(Predicate):
    """These versions were there before additions were signed; every other one has a signed addition.

    Attributes:
        versions: At most 1000; what is more stands in the statements before the last.
        is_last: Whether the list ends here. From then on, a version that is not in it must have an addition.
        reason: Why nobody signed for them.
    """

    versions: Annotated[tuple[OlderVersion, ...], Field(max_length=MAX_ITEMS)]
    is_last: bool
    reason: Reason

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.TAKE_INVENTORY
