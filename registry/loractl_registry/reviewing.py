"""What waits for somebody's approval, and what they would approve: the difference from what is live now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loractl_registry._context import Context
from loractl_registry._store import bases, versions
from loractl_registry.approving import rung_after
from loractl_registry.attestations import EvidenceRecord
from loractl_registry.change_norms import ModuleChange, changes_of_modules
from loractl_registry.checking import diff
from loractl_registry.evidence import EvidenceShelf
from loractl_registry.ledger.chains import read_checkpoint, resumed_chain
from loractl_registry.ledger.facts import facts_of
from loractl_registry.ledger.judging import Judge, approval_facts, home_policy, standing_approvals
from loractl_registry.ledger.standing import SignedApproval, Standings, objection_to
from loractl_registry.ledger.viewing import Viewer, viewer_of
from loractl_registry.outcomes import VersionDiff
from loractl_registry.policies import Finding, Policy
from loractl_registry.policies.document import ApprovalRule
from loractl_registry.policies.patterns import names_someone, person_key
from loractl_registry.records import AdapterVersion, Base
from loractl_registry.stages import Stage
from loractl_registry.trust import MAY_SIGN, Act

APPROVALS = ".approvals"
_ASKED_ABOUT = tuple(stage for stage in Stage if stage is Stage.LIVE or rung_after(stage) is not None)
"""What may wait for an approval, and what it is compared with; drafts are many and wait for none."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One version that waits.

    Attributes:
        to: The rung that an approval would be for.
        open: What the policy does not find met: the approvals, and evidence or anything else that is missing.
        live: The version of the same name that is live now, None if there is none.
        diff: From that one; None if there is none.
        evidence: About it; `live_evidence` is about the live one.
        changes: How far each module is from the live version's, or from the base where none is live.
    """

    version: AdapterVersion
    to: Stage
    open: tuple[Finding, ...]
    live: AdapterVersion | None
    diff: VersionDiff | None
    evidence: tuple[EvidenceRecord, ...]
    live_evidence: tuple[EvidenceRecord, ...]
    changes: tuple[ModuleChange, ...]


@dataclass(frozen=True, slots=True)
class Review:
    """What waits for one identity.

    Attributes:
        roles: What its keys are trusted with, sorted.
    """

    identity: str
    roles: tuple[str, ...]
    waiting: tuple[Waiting, ...]


def review(context: Context, *, actor: str, identity: str | None) -> Review:
    """Return every version whose next rung lacks an approval that the one who asks may give; see `Governing.review`."""
    seen, policy = read_checkpoint(context), home_policy(context)
    with context.database.reading() as connection:
        chain = resumed_chain(context, connection, seen)
        rows = versions.select(connection, context.path_of, stages=_ASKED_ABOUT)
        admitted = {base.name: base for base in bases.select(connection)}
        standings = Standings(chain)
        known = {
            row.ref: facts_of(context, connection, chain, standings.get(row.ref), row)
            for row in rows
            if rung_after(row.stage) is not None
        }
    viewer, now = viewer_of(context, chain, policy, actor=actor, identity=identity), context.clock()
    live = {row.ref.name: row for row in rows if row.stage is Stage.LIVE and objection_to(row, standings) is None}
    found: list[Waiting] = []
    for version in rows:
        to, base = rung_after(version.stage), admitted.get(version.base or "")
        if to is None or base is None or objection_to(version, standings) is not None:
            continue
        given = standing_approvals(chain, standings.get(version.ref), now)
        judge = Judge(policy, viewer.name, viewer.roles)
        facts, counted = known[version.ref], approval_facts(chain, given)
        decision = judge.decide(version, base, to, facts=facts, approvals=counted, now=now)
        if _may_close(viewer, policy, facts.added_by, given, to, decision.denials):
            found.append(_waiting(context, version, base, to, decision.denials, live.get(version.ref.name)))
    return Review(viewer.name, tuple(sorted(role.value for role in viewer.roles)), tuple(found))


def _may_close(
    viewer: Viewer,
    policy: Policy,
    added_by: str | None,
    given: tuple[SignedApproval, ...],
    to: Stage,
    denials: tuple[Finding, ...],
) -> bool:
    """Whether an approval by `viewer` is one of those that are missing, and can be signed."""
    if not viewer.roles & MAY_SIGN[Act.APPROVE] or any((one.identity, one.to) == (viewer.name, to) for one in given):
        return False
    # Four eyes counts nobody's approval of a version of which nobody signed the addition.
    is_own = added_by is None or person_key(viewer.name) == person_key(added_by)
    lacking = {one.rule for one in denials if one.rule.endswith(APPROVALS)}
    return any(
        names_someone(rule.by, viewer.name, [role.value for role in viewer.roles]) and not (rule.four_eyes and is_own)
        for stage, rule in _approval_rules(policy)
        if f"adapter.{stage}{APPROVALS}" in lacking
    )


def _approval_rules(policy: Policy) -> Iterator[tuple[Stage, ApprovalRule]]:
    adapter = policy.document.adapter
    for stage, rung in () if adapter is None else adapter.rungs():
        if rung is not None and rung.approvals is not None:
            yield stage, rung.approvals


def _waiting(
    context: Context,
    version: AdapterVersion,
    base: Base,
    to: Stage,
    denials: tuple[Finding, ...],
    live: AdapterVersion | None,
) -> Waiting:
    # Norms are of what is added to one and the same base.
    before = live if live is not None and live.base_digest == version.base_digest else None
    changes = changes_of_modules(None if before is None else before.path, version.path, base.config)
    compared = None if live is None or live.ref == version.ref else diff(context, live.ref, version.ref)
    # Who may climb is no matter of the one who approves.
    missing = tuple(one for one in denials if not one.rule.endswith(".by"))
    shelf = EvidenceShelf(context)
    about_live = () if live is None else shelf.select(live.ref)
    return Waiting(version, to, missing, live, compared, shelf.select(version.ref), about_live, changes)
