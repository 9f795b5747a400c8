"""Rules about how many people must have signed or approved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from loractl_registry.policies.document import ApprovalRule, Rung, SignatureRule
from loractl_registry.policies.facts import Approval, Request
from loractl_registry.policies.locating import KeyPath
from loractl_registry.policies.naming_rules import any_of, person
from loractl_registry.policies.parsing import Policy
from loractl_registry.policies.patterns import names_someone, person_key
from loractl_registry.policies.verdicts import Finding, judged, listed

CLOCK_SKEW = timedelta(minutes=2)
"""How far ahead another machine's clock may be; an approval from further in the future does not count."""


def judge_signatures(policy: Policy, path: KeyPath, rule: SignatureRule, request: Request) -> Finding:
    """Judge the signatures over the files; a person counts once."""
    signers: set[str] = set()
    seen: list[str] = []
    for one in request.signatures:
        name = person(one.identity, one.roles)
        if not one.is_verified:
            seen.append(f"{name} does not verify")
        elif not names_someone(rule.by, one.identity, one.roles):
            seen.append(f"{name} is not named")
        else:
            signers.add(person_key(one.identity))
            seen.append(f"{name} counts")
    return judged(
        policy,
        path,
        required=f"{_counted(rule.count, 'signature')} by {any_of(rule.by)}",
        seen=listed(seen),
        denial=_too_few(len(signers), rule.count),
        way_out=f"ask {any_of(rule.by)} to run: loractl sign {request.ref}",
    )


def judge_approvals(policy: Policy, path: KeyPath, rung: Rung, rule: ApprovalRule, request: Request) -> Finding:
    """Judge the approvals; a person counts once, by the newest."""
    age = _max_age(rung, rule)
    wanted = f"{_counted(rule.count, 'approval')} by {any_of(rule.by)}"
    if rule.four_eyes:
        wanted += ", other than the one who added it"
    if age is not None:
        wanted += f", at most {age.days} days old"
    counted = len(_counting(rung, rule, request))
    denial = _too_few(counted, rule.count)
    way_out = f"ask {any_of(rule.by)} to run: loractl approve {request.ref} --reason TEXT"
    if rule.four_eyes and not request.added_by:
        denial = "nobody knows who added it, so four eyes cannot be told"
        way_out = "add its files again under another name, so that whoever adds them signs for it"
    return judged(
        policy,
        path,
        required=wanted,
        seen=listed(_seen(one, rung, rule, request) for one in request.approvals),
        denial=denial,
        way_out=way_out,
        well=f"{counted} of {rule.count}",
    )


def stands_since(rung: Rung, request: Request) -> datetime:
    """Return when the oldest approval was given that `rung` needs, or now if it needs none."""
    if rung.approvals is None:
        return request.now
    newest = sorted(_counting(rung, rung.approvals, request), reverse=True)
    return min([request.now, *newest[: rung.approvals.count]])


def _counting(rung: Rung, rule: ApprovalRule, request: Request) -> Sequence[datetime]:
    """Return when each person that counts approved last."""
    newest: dict[str, datetime] = {}
    for one in request.approvals:
        if _objection(one, rung, rule, request) is None:
            key = person_key(one.identity)
            newest[key] = max(one.at, newest.get(key, one.at))
    return list(newest.values())


def _seen(approval: Approval, rung: Rung, rule: ApprovalRule, request: Request) -> str:
    objection = _objection(approval, rung, rule, request)
    return f"{person(approval.identity, approval.roles)} {objection or 'counts'}"


def _objection(approval: Approval, rung: Rung, rule: ApprovalRule, request: Request) -> str | None:
    if not names_someone(rule.by, approval.identity, approval.roles):
        return "is not named"
    if rule.four_eyes and (request.added_by is None or person_key(approval.identity) == person_key(request.added_by)):
        return "added it"
    if approval.at - request.now > CLOCK_SKEW:
        return f"approved in the future, on {approval.at:%Y-%m-%d}"
    age = _max_age(rung, rule)
    if age is not None and request.now - approval.at >= age:
        return f"approved too long ago, on {approval.at:%Y-%m-%d}"
    return None


def _max_age(rung: Rung, rule: ApprovalRule) -> timedelta | None:
    days = rung.expires_days if rule.max_age_days is None else rule.max_age_days
    return None if days is None else timedelta(days=days)


def _counted(count: int, word: str) -> str:
    return f"1 {word}" if count == 1 else f"{count} {word}s"


def _too_few(found: int, wanted: int) -> str | None:
    return None if found >= wanted else f"{found} of {wanted} count"
