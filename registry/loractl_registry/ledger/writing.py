"""The statements about versions, each made from the change that it is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from loractl_registry.ledger.grounds import Grounds
from loractl_registry.ledger.pen import Pen
from loractl_registry.policies import Decision
from loractl_registry.records import AdapterVersion
from loractl_registry.stages import Stage, Verb
from loractl_registry.trust import (
    Approval,
    ApprovalStatement,
    BaseRef,
    BreakGlass,
    BreakGlassStatement,
    Promotion,
    PromotionStatement,
    Revocation,
    RevocationStatement,
    StepDown,
    StepDownStatement,
    subject_of,
    to_the_second,
)


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of a climb: of which version, on which base, from where to where."""

    version: AdapterVersion
    base: BaseRef
    before: Stage
    after: Stage


UNJUDGED = Grounds()
"""Of what stood before anybody was asked: everybody may use it, and nothing is known of it."""


def sign_promotion(
    pen: Pen,
    rung: Rung,
    policy: str,
    *,
    decision: Decision | None,
    approvals: tuple[str, ...],
    reason: str | None,
    grounds: Grounds = UNJUDGED,
) -> str:
    """Sign that a version climbed `rung`; return the digest of the statement.

    Args:
        pen: The transaction.
        rung: What was climbed.
        policy: Digest of the policy in force.
        decision: What that policy said, None where nobody was asked because the version was there already.
        approvals: Digests of the approvals that counted.
        reason: Why.
        grounds: What the decision stands on.
    """
    place = pen.place()
    end = None if decision is None or decision.expires is None else to_the_second(decision.expires)
    promotion = Promotion(
        **place,
        policy=policy,
        from_stage=rung.before,
        to_stage=rung.after,
        base=rung.base,
        tenants=grounds.tenants,
        data_classes=grounds.data_classes,
        evidence=(*approvals, *grounds.evidence, *(() if decision is None else (decision.digest,))),
        expires=end,
        reason=reason,
    )
    version = rung.version
    return pen.sign(PromotionStatement(subject=subject_of(version.ref, version.digest), predicate=promotion))


def sign_approval(pen: Pen, rung: Rung, *, grounds: Grounds, reason: str) -> str:
    """Sign that the one who acts is for `rung`; return the digest of the statement."""
    place = pen.place()
    approval = Approval(
        **place,
        policy=pen.policy.digest,
        from_stage=rung.before,
        to_stage=rung.after,
        base=rung.base,
        tenants=grounds.tenants,
        data_classes=grounds.data_classes,
        evidence=grounds.evidence,
        expires=None,
        reason=reason,
    )
    version = rung.version
    return pen.sign(ApprovalStatement(subject=subject_of(version.ref, version.digest), predicate=approval))


def sign_break_glass(
    pen: Pen, rung: Rung, decision: Decision, *, grounds: Grounds, expires: datetime, reason: str
) -> str:
    """Sign that the glass was broken for `rung`, which may be a climb over several; return the statement's digest."""
    place = pen.place()
    glass = BreakGlass(
        **place,
        policy=decision.policy_digest,
        from_stage=rung.before,
        to_stage=rung.after,
        base=rung.base,
        tenants=grounds.tenants,
        data_classes=grounds.data_classes,
        evidence=(*grounds.evidence, decision.digest),
        expires=expires,
        reason=reason,
    )
    subject = subject_of(rung.version.ref, rung.version.digest)
    return pen.sign(BreakGlassStatement(subject=subject, predicate=glass))


def sign_step(pen: Pen, version: AdapterVersion, verb: Verb, before: Stage, after: Stage, *, reason: str) -> str:
    """Sign that a version went down or out; return the digest of the statement."""
    subject, place, policy = subject_of(version.ref, version.digest), pen.place(), pen.policy.digest
    if verb is Verb.REVOKE:
        revocation = Revocation(**place, policy=policy, from_stage=before, reason=reason)
        return pen.sign(RevocationStatement(subject=subject, predicate=revocation))
    step = StepDown(**place, policy=policy, verb=verb, from_stage=before, to_stage=after, reason=reason)
    return pen.sign(StepDownStatement(subject=subject, predicate=step))
