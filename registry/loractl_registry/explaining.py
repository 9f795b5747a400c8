"""What the policy, and everything else that judges a climb, would say of it; nothing is hashed and nothing changes."""

from __future__ import annotations

from dataclasses import dataclass

from loractl_registry._context import Context
from loractl_registry.climbing import base_of
from loractl_registry.ledger.admissions import Admissions, admissions_of, objection_to_base
from loractl_registry.ledger.chains import read_checkpoint, resumed_chain
from loractl_registry.ledger.errors import BaseDisagreementError, QuarantinedError
from loractl_registry.ledger.facts import facts_of
from loractl_registry.ledger.judging import Judge, approval_facts, home_policy, standing_approvals
from loractl_registry.ledger.soundness import newest_scan, unsound
from loractl_registry.ledger.standing import SignedEvidence, Standings
from loractl_registry.ledger.viewing import Viewer, viewer_of
from loractl_registry.policies import Decision, Finding, Policy, Verdict
from loractl_registry.policies.naming_rules import any_of, person
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion, Base
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import StageError
from loractl_registry.stages import LADDER, Stage, climb
from loractl_registry.trust import MAY_SIGN, Act, Role

_ACTS = {Stage.CANDIDATE: Act.TO_CANDIDATE, Stage.APPROVED: Act.TO_APPROVED, Stage.LIVE: Act.TO_LIVE}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why somebody may take a version to a stage, or may not.

    Attributes:
        roles: What the keys of `identity` are trusted with, sorted.
        policy: What the policy says.
        built_in: What holds under every policy: that the base was admitted by an operator or by whom the policy lets,
            the role that a signature needs, that the newest scan did not fail, and that the row and the signatures over
            the files are what was signed.
    """

    version: AdapterVersion
    to: Stage
    identity: str
    roles: tuple[str, ...]
    tenant: str | None
    policy: Decision
    built_in: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every rule, those of the policy first."""
        return (*self.policy.findings, *self.built_in)

    @property
    def is_allowed(self) -> bool:
        """Whether every rule says yes."""
        return self.policy.allowed and all(one.verdict is not Verdict.DENIED for one in self.built_in)


def explain(
    context: Context,
    ref: Ref | VersionRef,
    *,
    actor: str,
    to: Stage | None,
    tenant: str | None,
    identity: str | None,
) -> Explanation:
    """Judge a climb without making it; see `HomePolicies.explain`."""
    seen, policy, now = read_checkpoint(context), home_policy(context), context.clock()
    with context.database.reading() as connection:
        chain, version = resumed_chain(context, connection, seen), get_version(context, ref)
        standings = Standings(chain)
        facts = facts_of(context, connection, chain, standings.get(version.ref), version)
        objection = None if chain is None else unsound(context, connection, chain, standings, version)
    wanted = to or _next(version)
    base, _ = base_of(context, version)
    viewer = viewer_of(context, chain, policy, actor=actor, identity=identity)
    judge = Judge(policy, viewer.name, viewer.roles, tenant=tenant)
    approvals = approval_facts(chain, standing_approvals(chain, standings.get(version.ref), now))
    decision = judge.decide(version, base.base, wanted, facts=facts, approvals=approvals, now=now)
    standing = standings.get(version.ref)
    scan = None if chain is None or standing is None else newest_scan(chain, standing)
    row = () if objection is None else (_row(version, objection),)
    admitted = () if chain is None else (_admission(policy, base.base, admissions_of(context, chain)),)
    built_in = (*admitted, _signature(version, wanted, viewer), _quarantine(version, scan), *row)
    roles = tuple(sorted(role.value for role in viewer.roles))
    return Explanation(version, wanted, viewer.name, roles, tenant, decision, built_in)


def _next(version: AdapterVersion) -> Stage:
    """Return the next rung; of what is live, live itself.

    Raises:
        StageError: No climb leads on from its stage.
    """
    if version.stage is LADDER[-1]:
        return version.stage
    rungs = climb(version.stage, None)
    if not rungs:
        raise StageError("explain", version.ref, version.stage, "add a corrected version under the same name")
    return rungs[0]


def _signature(version: AdapterVersion, to: Stage, viewer: Viewer) -> Finding:
    """Say whether the key may sign the statement, which the table of roles decides whatever the policy says."""
    wanted = [f"role:{role.value}" for role in Role if role in MAY_SIGN[_ACTS[to]]]
    seen = person(viewer.name, [role.value for role in viewer.roles])
    if viewer.roles & MAY_SIGN[_ACTS[to]]:
        return Finding("signature", None, any_of(wanted), seen, Verdict.ALLOWED, "met")
    way_out = f"ask {any_of(wanted)} to run: loractl promote {version.ref} --to {to}"
    why = f"a {_ACTS[to]} counts only with one of these roles"
    return Finding("signature", None, any_of(wanted), seen, Verdict.DENIED, why, way_out)


def _admission(policy: Policy, base: Base, admissions: Admissions) -> Finding:
    """Say who admitted the base, which counts from an operator and from whom the policy names now."""
    rules = policy.document.base
    line, by = policy.line_of(("base", "by")), () if rules is None else rules.by
    required = any_of(list(dict.fromkeys([f"role:{Role.OPERATOR}", *by])))
    if (objection := objection_to_base(base, admissions)) is not None:
        refusal = BaseDisagreementError(base.name, objection)
        return Finding("base.by", line, required, objection, Verdict.DENIED, str(refusal), refusal.hint)
    admission = admissions[base.name]
    seen = f"{base.name} admitted by {person(admission.signer, [role.value for role in admission.roles])}"
    return Finding("base.by", line, required, seen, Verdict.ALLOWED, "met")


def _quarantine(version: AdapterVersion, scan: SignedEvidence | None) -> Finding:
    """Say whether the newest scan lets anything build on the version."""
    required = "a newest scan that has not failed"
    if scan is None:
        return Finding("quarantine", None, required, "no scan", Verdict.ALLOWED, "met")
    seen = f"{scan.kind or 'a scan'} {'failed' if scan.passed is False else 'passed'}, signed by {scan.identity}"
    if scan.passed is not False:
        return Finding("quarantine", None, required, seen, Verdict.ALLOWED, "met")
    refusal = QuarantinedError(version.ref, scan.digest)
    return Finding("quarantine", None, required, seen, Verdict.DENIED, str(refusal), refusal.hint)


def _row(version: AdapterVersion, objection: str) -> Finding:
    way_out = f"restore the newest backup, or end it: loractl revoke {version.ref} --reason TEXT"
    return Finding("signed", None, "a row that says what was signed", objection, Verdict.DENIED, objection, way_out)
