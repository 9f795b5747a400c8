"""Approvals: signed statements that somebody is for a version's next rung, which the policy counts."""

from __future__ import annotations

from loractl_registry._context import Context
from loractl_registry._store import audit, bases
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor, require_reason
from loractl_registry.climbing import require_intact
from loractl_registry.ledger.chains import read_checkpoint, resumed_chain
from loractl_registry.ledger.errors import DisagreementError
from loractl_registry.ledger.facts import facts_of
from loractl_registry.ledger.grounds import grounds_of
from loractl_registry.ledger.judging import Judge, approval_facts, home_policy, standing_approvals
from loractl_registry.ledger.pen import signed_writing
from loractl_registry.ledger.standing import SignedApproval, Standings, objection_to
from loractl_registry.ledger.writing import Rung, sign_approval
from loractl_registry.outcomes import ApprovalNeed, ApprovalRecord, Approvals, Approved
from loractl_registry.policies import Policy, Verdict
from loractl_registry.policies.patterns import person_key
from loractl_registry.reading import get_version
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import BaseGoneError, SelfApprovalError, StageError
from loractl_registry.stages import Stage, climb
from loractl_registry.trust import BaseRef, Chain


def approve(context: Context, ref: Ref | VersionRef, *, actor: str, reason: str) -> Approved:
    """Sign that the one who acts is for the next rung of `ref`; see `Registry.approve`."""
    actor, reason = parse_actor(actor), require_reason(f"approve {ref}", reason)
    require_intact(context, get_version(context, ref))
    with signed_writing(context, actor=actor) as pen:
        version = get_version(context, ref)
        to = rung_after(version.stage)
        if to is None or version.base is None or version.base_digest is None:
            raise StageError("approve", version.ref, version.stage, f"promote it first: loractl promote {version.ref}")
        place = pen.place()
        if (objection := objection_to(version, pen.standings)) is not None:
            raise DisagreementError(version.ref, objection)
        identity = place["signer"].identity
        for one in standing_approvals(pen.chain, pen.standing(version.ref, version.digest), pen.at):
            if (one.key_id, one.to) == (place["signer"].key_id, to):
                return Approved(version, to, identity, one.statement, is_new=False)
        facts = pen.facts(version)
        is_own = facts.added_by is not None and person_key(identity) == person_key(facts.added_by)
        if is_own and _needs_four_eyes(pen.policy, to):
            raise SelfApprovalError(version.ref, identity)
        base = BaseRef(name=version.base, digest=version.base_digest)
        grounds = grounds_of(pen.policy, facts)
        statement = sign_approval(pen, Rung(version, base, version.stage, to), grounds=grounds, reason=reason)
        detail = {"statement": statement, "signer": identity, "to": to.value}
        event = NewEvent("adapter.approve", str(version.ref), actor, pen.at, reason=reason, detail=detail)
        audit.append(pen.connection, event)
    return Approved(version, to, identity, statement, is_new=True)


def approvals(context: Context, ref: Ref | VersionRef) -> Approvals:
    """Return the approvals of `ref` and what the policy asks for; see `Registry.approvals`."""
    seen, policy = read_checkpoint(context), home_policy(context)
    with context.database.reading() as connection:
        chain, version = resumed_chain(context, connection, seen), get_version(context, ref)
        held = None if version.base is None else bases.find(connection, version.base)
        standing, now = Standings(chain).get(version.ref), context.clock()
        facts = facts_of(context, connection, chain, standing, version)
    valid = standing_approvals(chain, standing, now)
    given = () if standing is None else standing.approvals
    to = rung_after(version.stage)
    needed: tuple[ApprovalNeed, ...] = ()
    if to is not None and held is not None:
        judge = Judge(policy, "", frozenset())
        counted = approval_facts(chain, valid)
        findings = judge.decide(version, held.base, to, facts=facts, approvals=counted, now=now).findings
        needed = tuple(
            ApprovalNeed(one.rule, one.required, one.seen, one.verdict is Verdict.ALLOWED)
            for one in findings
            if one.rule.endswith(".approvals")
        )
    elif to is not None and version.base is not None:
        raise BaseGoneError(version.ref, version.base, version.base_digest or "")
    return Approvals(
        version, to, tuple(_record(chain, one, is_valid=one in valid) for one in given), needed, policy.digest
    )


def rung_after(stage: Stage) -> Stage | None:
    """Return the servable stage that a promotion from `stage` would enter next; only for those are there approvals."""
    rungs = climb(stage, None)
    return rungs[0] if rungs and rungs[0].is_servable else None


def _needs_four_eyes(policy: Policy, to: Stage) -> bool:
    adapter = policy.document.adapter
    rungs = {} if adapter is None else dict(adapter.rungs())
    rung = rungs.get(to)
    return rung is not None and rung.approvals is not None and rung.approvals.four_eyes


def _record(chain: Chain | None, one: SignedApproval, *, is_valid: bool) -> ApprovalRecord:
    grant = None if chain is None else chain.trust.active(one.key_id)
    roles = () if grant is None else tuple(sorted(role.value for role in grant.roles))
    return ApprovalRecord(one.identity, roles, one.at, one.to, one.reason, one.statement, is_valid)
