"""What the policy of the home says about a rung: the facts that it judges, and its refusal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from loractl_registry._context import Context
from loractl_registry.home_errors import os_errors_named
from loractl_registry.ledger.facts import VersionFacts
from loractl_registry.ledger.standing import SignedApproval, Standing
from loractl_registry.policies import (
    POLICY_FILE,
    Approval,
    BaseFacts,
    Decision,
    Policy,
    Request,
    evaluate,
    parse_policy,
    preset,
)
from loractl_registry.policies.toml_text import MAX_BYTES
from loractl_registry.records import AdapterVersion, Base
from loractl_registry.refusals import PolicyDeniedError
from loractl_registry.stages import Stage
from loractl_registry.trust import Chain, Role
from loractl_registry.trust._small_files import read_small

_SERVABLE = (Stage.APPROVED, Stage.LIVE)


@dataclass(frozen=True, slots=True)
class Judge:
    """Who is judged by which policy.

    Attributes:
        identity: Whoever will sign.
        roles: What their key is trusted with.
        tenant: Who shall use it, None if that is not asked.
        break_glass: The reason for going without approvals and evidence, None for an ordinary climb.
    """

    policy: Policy
    identity: str
    roles: frozenset[Role]
    tenant: str | None = None
    break_glass: str | None = None

    def require(
        self,
        version: AdapterVersion,
        base: Base,
        rung: Stage,
        *,
        facts: VersionFacts,
        approvals: tuple[Approval, ...],
        now: datetime,
    ) -> Decision:
        """Return the decision that lets `version` enter `rung`.

        Raises:
            PolicyDeniedError: A rule says no; the message says which, and why.
        """
        decision = self.decide(version, base, rung, facts=facts, approvals=approvals, now=now)
        if not decision.allowed:
            raise _denied(version, rung, self.identity, decision)
        return decision

    def decide(
        self,
        version: AdapterVersion,
        base: Base,
        rung: Stage,
        *,
        facts: VersionFacts,
        approvals: tuple[Approval, ...],
        now: datetime,
    ) -> Decision:
        """Return what the policy says of `version` entering `rung`."""
        request = Request(
            ref=version.ref,
            digest=version.digest,
            stage=rung,
            actor=self.identity,
            now=now,
            roles=frozenset(role.value for role in self.roles),
            added_by=facts.added_by,
            rank=version.facts.rank,
            size_bytes=version.size_bytes,
            base=BaseFacts(base.name, base.digest, base.licence, base.source),
            engine=facts.engine,
            data=facts.data,
            signatures=facts.signatures,
            approvals=approvals,
            evidence=facts.evidence,
            tenant=self.tenant,
            break_glass=self.break_glass,
        )
        return evaluate(self.policy, request)


def home_policy(context: Context) -> Policy:
    """Return the policy that lies in the home, or the preset solo.

    Raises:
        PolicyFileError: It cannot be used; the message names the line.
    """
    path = context.home / POLICY_FILE
    with os_errors_named(path):
        try:
            data, _ = read_small(path, MAX_BYTES)
        except FileNotFoundError:
            return preset("solo")
    return parse_policy(data, name=str(path))


def is_solo(policy: Policy) -> bool:
    """Whether `policy` is the preset for one person on a workstation."""
    return policy.digest == preset("solo").digest


def standing_approvals(chain: Chain | None, standing: Standing | None, now: datetime) -> tuple[SignedApproval, ...]:
    """Return the approvals that count at `now`: not expired, by keys that are trusted still, for a servable stage."""
    if chain is None or standing is None:
        return ()
    return tuple(
        one
        for one in standing.approvals
        if one.to in _SERVABLE
        and (one.expires is None or now < one.expires)
        and chain.trust.active(one.key_id) is not None
    )


def approval_facts(chain: Chain | None, approvals: Iterable[SignedApproval]) -> tuple[Approval, ...]:
    """Return `approvals` as a policy judges them: with the roles that their keys have now."""
    facts: list[Approval] = []
    for one in approvals:
        grant = None if chain is None else chain.trust.active(one.key_id)
        roles = frozenset(role.value for role in grant.roles) if grant is not None else frozenset[str]()
        facts.append(Approval(one.identity, one.at, roles, one.reason or ""))
    return tuple(facts)


def _denied(version: AdapterVersion, rung: Stage, actor: str, decision: Decision) -> PolicyDeniedError:
    denials = decision.denials
    if not denials:
        return PolicyDeniedError(version.ref, rung, actor, "the policy has no rule for it", "give the policy a rule")
    first, more = denials[0], len(denials) - 1
    where = first.rule if first.line is None else f"{first.rule}, line {first.line} of the policy"
    others = f", and {more} more" if more else ""
    because = f"{first.why}; it asks for {first.required} ({where}{others})"
    return PolicyDeniedError(version.ref, rung, actor, because, first.way_out or "change the policy")
