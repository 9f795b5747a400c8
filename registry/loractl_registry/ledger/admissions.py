"""Bases as the chain has them: admitting and withdrawing are signed, and a row counts only if it says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loractl_registry._context import Context
from loractl_registry.ledger.errors import BaseDeniedError, BaseDisagreementError
from loractl_registry.ledger.judging import home_policy
from loractl_registry.ledger.pen import Pen
from loractl_registry.policies import BaseFacts, BaseRequest, Decision, PolicyFileError, evaluate_base
from loractl_registry.policies.patterns import names_someone
from loractl_registry.records import Base
from loractl_registry.trust import (
    AdmissionVerb,
    BaseAdmission,
    BaseStatement,
    Chain,
    PredicateType,
    Role,
    base_subject,
)


@dataclass(frozen=True, slots=True)
class Admission:
    """A base by what was signed.

    Attributes:
        sequence, signer: Of the statement that spoke of it last.
        roles: What the signer's key was trusted with then.
    """

    digest: str
    source: str
    licence: str | None
    is_admitted: bool
    sequence: int
    signer: str
    roles: frozenset[Role]


Admissions = Mapping[str, Admission]


def admissions_of(context: Context, chain: Chain | None) -> Admissions:
    """Return every base that a statement is about, by name, under the policy that is in the home now.

    Other files under a name that is taken, and a withdrawal of what is not admitted, change nothing. An operator's
    statement counts whatever the policy says by now; that of anybody else only while the policy lets them admit.
    """
    admissions: dict[str, Admission] = {}
    named: Sequence[str] | None = None
    for entry in () if chain is None else chain.of_kind(PredicateType.BASE):
        statement = entry.statement
        if chain is None or not isinstance(statement, BaseStatement):
            continue
        grant = chain.granted(statement)
        if Role.OPERATOR not in grant.roles:
            named = _named(context) if named is None else named
            if not names_someone(named, grant.identity, grant.roles):
                continue
        after = _after(admissions.get(statement.base), statement, grant.roles)
        if after is not None:
            admissions[statement.base] = after
    return admissions


def _named(context: Context) -> Sequence[str]:
    """Return whom the policy lets admit bases; a policy that cannot be read lets nobody."""
    try:
        rules = home_policy(context).document.base
    except PolicyFileError:
        return ()
    return () if rules is None else rules.by


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


def require_admitted(context: Context, chain: Chain | None, base: Base) -> None:
    """Return if `base` is what was signed.

    Raises:
        BaseDisagreementError: It is not.
    """
    if (objection := objection_to_base(base, admissions_of(context, chain))) is not None:
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


def _after(before: Admission | None, statement: BaseStatement, roles: frozenset[Role]) -> Admission | None:
    said = statement.predicate
    is_same = before is not None and before.is_admitted and before.digest == statement.manifest_digest
    is_free = before is None or not before.is_admitted
    is_admitted = said.verb is AdmissionVerb.ADMIT
    if not (is_same or (is_admitted and is_free)):
        return None
    digest, signer = statement.manifest_digest, said.signer.identity
    return Admission(digest, said.source, said.licence, is_admitted, said.sequence, signer, roles)


def _short(text: str | None) -> str:
    return "none" if text is None else text[:100]
