"""Bases as the chain has them: admitting and withdrawing are signed, and a row counts only if it says the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loractl_registry.ledger.errors import BaseDeniedError, BaseDisagreementError
from loractl_registry.ledger.pen import Pen
from loractl_registry.policies import BaseFacts, BaseRequest, Decision, evaluate_base
from loractl_registry.records import Base
from loractl_registry.trust import AdmissionVerb, BaseAdmission, BaseStatement, Chain, PredicateType, base_subject


@dataclass(frozen=True, slots=True)
class Admission:
    """A base by what was signed.

    Attributes:
        sequence, signer: Of the statement that spoke of it last.
    """

    digest: str
    source: str
    licence: str | None
    is_admitted: bool
    sequence: int
    signer: str


Admissions = Mapping[str, Admission]


def admissions_of(chain: Chain | None) -> Admissions:
    """Return every base that a statement is about, by name.

    Other files under a name that is taken, and a withdrawal of what is not admitted, change nothing.
    """
    admissions: dict[str, Admission] = {}
    for entry in () if chain is None else chain.of_kind(PredicateType.BASE):
        if isinstance(entry.statement, BaseStatement):
            after = _after(admissions.get(entry.statement.base), entry.statement)
            if after is not None:
                admissions[entry.statement.base] = after
    return admissions


def objection_to_base(base: Base, admissions: Admissions) -> str | None:
    """Return why the row of `base` is not what was signed, None if it is."""
    admission = admissions.get(base.name)
    if admission is None:
        return "no signed statement admits it"
    if not admission.is_admitted:
        return f"{admission.signer} has withdrawn it, statement {admission.sequence}"
    for what, held, signed in (
        ("digest", base.digest, admission.digest),
        ("source", base.source, admission.source),
        ("licence", base.licence, admission.licence),
    ):
        if held != signed:
            return f"the database says {what} {_short(held)}, and the signed statements say {_short(signed)}"
    return None


def require_admitted(chain: Chain | None, base: Base) -> None:
    """Return if `base` is what was signed.

    Raises:
        BaseDisagreementError: It is not.
    """
    if (objection := objection_to_base(base, admissions_of(chain))) is not None:
        raise BaseDisagreementError(base.name, objection)


def sign_admission(pen: Pen, base: Base) -> dict[str, object]:
    """Sign that `base` is admitted, if the policy lets the one who signs; return what the audit event says of it.

    Raises:
        BaseDeniedError: The policy says no; the message says which rule, and why.
        TrustError: The one who acts has no role for it.
    """
    decision = _require_allowed(pen, base)
    statement = _sign(pen, base, AdmissionVerb.ADMIT, policy=decision.policy_digest, evidence=(decision.digest,))
    return _signed(pen, statement) | {"policy": decision.policy_digest, "decision": decision.digest}


def sign_withdrawal(pen: Pen, base: Base) -> dict[str, object]:
    """Sign that `base` is withdrawn; return what the audit event says of it."""
    return _signed(pen, _sign(pen, base, AdmissionVerb.WITHDRAW, policy=pen.policy.digest, evidence=()))


def adopt_base(pen: Pen, base: Base, reason: str) -> None:
    """Sign for a base that was there before anything was signed."""
    _sign(pen, base, AdmissionVerb.ADMIT, policy=pen.policy.digest, evidence=(), reason=reason)


def _sign(
    pen: Pen, base: Base, verb: AdmissionVerb, *, policy: str, evidence: tuple[str, ...], reason: str | None = None
) -> str:
    place = pen.place()
    admission = BaseAdmission(
        **place,
        policy=policy,
        verb=verb,
        source=base.source,
        licence=base.licence,
        evidence=evidence,
        reason=reason,
    )
    return pen.sign(BaseStatement(subject=base_subject(base.name, base.digest), predicate=admission))


def _require_allowed(pen: Pen, base: Base) -> Decision:
    roles = frozenset(role.value for role in pen.acting.roles)
    facts = BaseFacts(base.name, base.digest, base.licence, base.source)
    decision = evaluate_base(pen.policy, BaseRequest(facts, pen.acting.name, roles))
    if not decision.allowed:
        first = decision.denials[0]
        where = first.rule if first.line is None else f"{first.rule}, line {first.line} of the policy"
        because = f"{first.why}; it asks for {first.required} ({where})"
        raise BaseDeniedError(base.name, pen.acting.name, because, first.way_out or "change the policy")
    return decision


def _signed(pen: Pen, statement: str) -> dict[str, object]:
    return {"statement": statement, "signer": pen.acting.name}


def _after(before: Admission | None, statement: BaseStatement) -> Admission | None:
    said = statement.predicate
    is_same = before is not None and before.is_admitted and before.digest == statement.manifest_digest
    is_free = before is None or not before.is_admitted
    is_admitted = said.verb is AdmissionVerb.ADMIT
    if not (is_same or (is_admitted and is_free)):
        return None
    digest, signer = statement.manifest_digest, said.signer.identity
    return Admission(digest, said.source, said.licence, is_admitted, said.sequence, signer)


def _short(text: str | None) -> str:
    return "none" if text is None else text[:100]
