"""What the chain says of each version: a fold over its statements, and whether a row agrees with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from loractl_registry.provenance import provenance_digest
from loractl_registry.records import AdapterVersion, ServingTerms
from loractl_registry.refs import VersionRef, parse_ref
from loractl_registry.stages import Stage
from loractl_registry.trust import (
    AboutIdentity,
    AdditionStatement,
    ApprovalStatement,
    BaseStatement,
    BreakGlassStatement,
    Chain,
    Entry,
    EvidenceStatement,
    EvidenceType,
    FileSigningStatement,
    Inventory,
    InventoryStatement,
    PredicateType,
    PromotionStatement,
    RevocationStatement,
    StepDownStatement,
)


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """An approval that still stands.

    Attributes:
        to: The rung that it is for.
        statement: Digest of the statement.
    """

    identity: str
    key_id: str
    at: datetime
    to: Stage
    reason: str | None
    expires: datetime | None
    base_digest: str
    statement: str


@dataclass(frozen=True, slots=True)
class SignedAddition:
    """Who added a version, and with what.

    Attributes:
        identity, key_id: Who signed for it; this is who added it, whatever the row says.
        added_by: The actor that the row names.
        provenance: Digest of its provenance.
        signatures: Digests of the signatures over its files.
    """

    identity: str
    key_id: str
    added_by: str
    provenance: str
    signatures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignedEvidence:
    """A piece of evidence that somebody signed for.

    Attributes:
        digest: Of its bytes.
        metrics: Digest of its numbers, None if it has none.
        statement: Digest of the statement.
    """

    type: EvidenceType
    digest: str
    kind: str | None
    passed: bool | None
    metrics: str | None
    identity: str
    key_id: str
    at: datetime
    statement: str


_NEVER_ADDED = "it is in the database, and no signed statement says that it was added"
_NO_TERMS = ServingTerms((), (), "")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a version stands by what was signed.

    Attributes:
        base: Name and digest of the base that it was promoted on, None before the first promotion.
        approved_until, live_until: When the rung ceases to count; None for never.
        sequence, signer: Of the statement that moved it last.
        approvals: Those given since the version last left the servable stages.
        terms: On what terms the statement that raised it last lets it be used.
        break_glass: The reason for which it is approved without review, None if it was reviewed.
        addition: None for a version from before additions were signed.
        is_older: Whether an inventory lists it as from before additions were signed.
        signatures: Digests of the signatures over its files that were made since.
        evidence: All that was ever kept, in order.
    """

    digest: str
    stage: Stage = Stage.DRAFT
    base: tuple[str, str] | None = None
    approved_until: datetime | None = None
    live_until: datetime | None = None
    sequence: int = 0
    signer: str = ""
    approvals: tuple[SignedApproval, ...] = ()
    terms: ServingTerms = _NO_TERMS
    break_glass: str | None = None
    addition: SignedAddition | None = None
    is_older: bool = False
    signatures: tuple[str, ...] = ()
    evidence: tuple[SignedEvidence, ...] = ()

    @property
    def file_signatures(self) -> tuple[str, ...]:
        """Digests of the signatures over its files that somebody has signed for, in order."""
        added = () if self.addition is None else self.addition.signatures
        return tuple(dict.fromkeys((*added, *self.signatures)))

    @property
    def expires(self) -> datetime | None:
        """When it ceases to be servable, None for never."""
        ends = [self.approved_until, self.live_until if self.stage is Stage.LIVE else None]
        return min((end for end in ends if end is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A version's place in an inventory of what is older than additions."""

    digest: str
    sequence: int


class Standings(Mapping[VersionRef, Standing]):
    """Where every version stands that a statement is about, each folded when somebody asks for it.

    A statement that does not go on from where the version stood, or that is about other bytes or another base under the
    same ref, moves nothing: who may sign one rung could otherwise skip those that others must sign.

    Attributes:
        is_complete: Whether the inventory of what is older is signed: a version that has neither an addition nor a
            place in it was put into the database by hand.
    """

    def __init__(self, chain: Chain | None) -> None:
        self._chain = chain
        self._folded: dict[VersionRef, Standing | None] = {}
        self._listed: dict[VersionRef, list[_Listed]] = {}
        self.is_complete = False
        for entry in self._of_kind(PredicateType.INVENTORY):
            if isinstance(entry.statement, InventoryStatement):
                self._list(entry.statement.predicate)

    def __getitem__(self, ref: VersionRef) -> Standing:
        if ref not in self._folded:
            entries = () if self._chain is None else self._chain.by_subject.get(str(ref), ())
            self._folded[ref] = _folded(entries, self._listed.get(ref, ()))
        if (standing := self._folded[ref]) is None:
            raise KeyError(ref)
        return standing

    def __iter__(self) -> Iterator[VersionRef]:
        # The names of bases and identities have no number.
        subjects = () if self._chain is None else self._chain.by_subject
        spoken_of = dict.fromkeys(_ref_of(subject) for subject in subjects if "@" in subject)
        return (ref for ref in spoken_of | dict.fromkeys(self._listed) if ref in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def revoked(self) -> Mapping[str, VersionRef]:
        """Return the contents that were revoked, and under which ref."""
        ends = self._of_kind(PredicateType.REVOCATION)
        refs = {end.statement.ref for end in ends if isinstance(end.statement, RevocationStatement)}
        return {self[ref].digest: ref for ref in refs if ref in self and self[ref].stage is Stage.REVOKED}

    def _of_kind(self, kind: PredicateType) -> Iterable[Entry]:
        return () if self._chain is None else self._chain.of_kind(kind)

    def _list(self, inventory: Inventory) -> None:
        """Take what is listed as older, until the list has ended: nothing is older than the end of it."""
        if self.is_complete:
            return
        for one in inventory.versions:
            self._listed.setdefault(_ref_of(one.name), []).append(_Listed(one.digest, inventory.sequence))
        self.is_complete = inventory.is_last


def _ref_of(name: str) -> VersionRef:
    ref = parse_ref(name)
    return VersionRef(ref.name, ref.number or 0)


def _folded(entries: Iterable[Entry], listed: Sequence[_Listed]) -> Standing | None:
    """Return where a version stands after what was said of it and its places in the inventory, in their order."""
    standing: Standing | None = None
    said: list[Entry | _Listed] = [*entries, *listed]
    for one in sorted(said, key=_sequence_of):
        standing = _as_listed(standing, one) if isinstance(one, _Listed) else _after_entry(standing, one)
    return standing


def _sequence_of(one: Entry | _Listed) -> int:
    return one.sequence if isinstance(one, _Listed) else one.statement.predicate.sequence


def _as_listed(before: Standing | None, listed: _Listed) -> Standing:
    standing = before or Standing(listed.digest)
    is_older = standing.digest == listed.digest and standing.addition is None
    return replace(standing, is_older=True) if is_older else standing


def _after_entry(before: Standing | None, entry: Entry) -> Standing | None:
    statement = entry.statement
    if isinstance(statement, AboutIdentity | BaseStatement | InventoryStatement):
        return before
    if isinstance(statement, AdditionStatement):
        # An addition is the first that is said of a version: nobody takes over what another has added.
        return _added(statement) if before is None else before
    return _after(before or Standing(statement.content_digest), entry) or before


def objection_to(version: AdapterVersion, standings: Standings) -> str | None:
    """Return why the row of `version` is not what was signed, None if it is."""
    standing = standings.get(version.ref)
    if standing is None:
        if version.stage is Stage.DRAFT:
            return _NEVER_ADDED if standings.is_complete else None
        return f"the database says {version.stage}, and no signed statement is about it"
    if standings.is_complete and standing.addition is None and not standing.is_older:
        return _NEVER_ADDED
    if standing.digest != version.digest:
        return f"the database says content {version.digest[:19]}, and the signed statements say {standing.digest[:19]}"
    if (objection := _addition_objection(version, standing.addition)) is not None:
        return objection
    if standing.stage is not version.stage:
        return f"the database says {version.stage}, and the signed statements say {standing.stage}"
    if standing.base is not None and standing.base != (version.base, version.base_digest):
        held, signed = version.base_digest or "none", standing.base[1]
        return f"the database says base {held[:19]}, and the signed statements say {signed[:19]}"
    return None


def _addition_objection(version: AdapterVersion, addition: SignedAddition | None) -> str | None:
    if addition is None:
        return None
    if addition.added_by != version.added_by:
        return (
            f"the database says it was added by {version.added_by}, and its addition was signed as {addition.added_by}"
        )
    if addition.provenance != (found := provenance_digest(version.provenance)):
        return f"the database says provenance {found[:19]}, and its addition was signed with {addition.provenance[:19]}"
    return None


def _added(statement: AdditionStatement) -> Standing:
    said = statement.predicate
    by = said.signer
    addition = SignedAddition(by.identity, by.key_id, said.added_by, said.provenance, said.signatures)
    return Standing(statement.content_digest, sequence=said.sequence, signer=by.identity, addition=addition)


def _after(before: Standing, entry: Entry) -> Standing | None:
    """Return where a version stands after a statement, None where that moves nothing."""
    statement = entry.statement
    if isinstance(statement, AboutIdentity | BaseStatement | InventoryStatement | AdditionStatement):
        return None
    if statement.content_digest != before.digest:
        return None
    if isinstance(statement, EvidenceStatement | FileSigningStatement):
        return _noted(before, statement, entry.digest)
    signed = replace(before, sequence=statement.predicate.sequence, signer=statement.predicate.signer.identity)
    if isinstance(statement, RevocationStatement):
        return replace(signed, stage=Stage.REVOKED)
    if statement.predicate.from_stage is not before.stage:
        return None
    if isinstance(statement, StepDownStatement):
        to = statement.predicate.to_stage
        if to.is_servable:
            return replace(signed, stage=to)
        return replace(signed, stage=to, approvals=(), break_glass=None)
    base = (statement.predicate.base.name, statement.predicate.base.digest)
    if before.base not in (None, base):
        return None
    if isinstance(statement, ApprovalStatement):
        return replace(before, approvals=(*before.approvals, _approval(statement, entry.digest)))
    said = statement.predicate
    terms = ServingTerms(said.tenants, said.data_classes, entry.digest)
    return _raised(replace(signed, base=base, terms=terms), statement)


def _noted(before: Standing, statement: EvidenceStatement | FileSigningStatement, digest: str) -> Standing:
    if isinstance(statement, FileSigningStatement):
        return replace(before, signatures=(*before.signatures, statement.predicate.signature))
    return replace(before, evidence=(*before.evidence, _evidence(statement, digest)))


def _raised(signed: Standing, statement: PromotionStatement | BreakGlassStatement) -> Standing:
    to, end = statement.predicate.to_stage, statement.predicate.expires
    raised = replace(signed, stage=to)
    if isinstance(statement, BreakGlassStatement):
        return replace(raised, approved_until=end, live_until=end, break_glass=statement.predicate.reason)
    if to is Stage.LIVE:
        return replace(raised, live_until=end)
    return replace(raised, approved_until=end, live_until=None, break_glass=None)


def _approval(statement: ApprovalStatement, digest: str) -> SignedApproval:
    said = statement.predicate
    return SignedApproval(
        identity=said.signer.identity,
        key_id=said.signer.key_id,
        at=said.at,
        to=said.to_stage,
        reason=said.reason,
        expires=said.expires,
        base_digest=said.base.digest,
        statement=digest,
    )


def _evidence(statement: EvidenceStatement, digest: str) -> SignedEvidence:
    said = statement.predicate
    return SignedEvidence(
        type=said.type,
        digest=said.evidence,
        kind=said.kind,
        passed=said.passed,
        metrics=said.metrics,
        identity=said.signer.identity,
        key_id=said.signer.key_id,
        at=said.at,
        statement=digest,
    )
