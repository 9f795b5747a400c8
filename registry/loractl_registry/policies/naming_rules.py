"""Rules about who acts, and about what must be one of a list."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from loractl_registry.policies.facts import BaseFacts
from loractl_registry.policies.locating import KeyPath
from loractl_registry.policies.parsing import Policy
from loractl_registry.policies.patterns import names_someone
from loractl_registry.policies.verdicts import Finding, judged

UNKNOWN = "not known"


def who_rule(
    policy: Policy, path: KeyPath, who: Sequence[str], actor: str, roles: Collection[str], *, way_out: str
) -> Finding:
    """Judge whether `who` names the one who acts."""
    is_named = names_someone(who, actor, roles)
    return judged(
        policy,
        path,
        required=any_of(who),
        seen=person(actor, roles),
        denial=None if is_named else f"it does not name {person(actor, roles)}",
        way_out=way_out,
    )


def licence_rule(policy: Policy, path: KeyPath, wanted: Sequence[str], found: str | None, *, way_out: str) -> Finding:
    """Judge one licence by its SPDX identifier, in any case."""
    return member_rule(policy, path, wanted, found, is_covered=_is_same_text, way_out=way_out)


def base_rule(policy: Policy, path: KeyPath, wanted: Sequence[str], base: BaseFacts | None, *, way_out: str) -> Finding:
    """Judge a base by its name or its digest."""
    denial = None
    if base is None:
        denial = "the base is not known"
    elif base.name not in wanted and base.digest not in wanted:
        denial = f"it names neither {base.name} nor its digest"
    seen = UNKNOWN if base is None else f"{base.name} {base.digest}"
    return judged(policy, path, required=any_of(wanted), seen=seen, denial=denial, way_out=way_out)


def member_rule(
    policy: Policy,
    path: KeyPath,
    wanted: Sequence[str],
    found: str | None,
    *,
    is_covered: Callable[[str, str], bool],
    way_out: str,
) -> Finding:
    """Judge whether one of `wanted` covers `found`; nothing covers what is not known."""
    denial = None
    if not found:
        denial = "it is not known"
    elif not any(is_covered(one, found) for one in wanted):
        denial = f"{found} is not among them"
    return judged(policy, path, required=any_of(wanted), seen=found or UNKNOWN, denial=denial, way_out=way_out)


def any_of(wanted: Sequence[str]) -> str:
    """Write what a list of the policy asks for, in its order."""
    return " or ".join(wanted)


def person(identity: str, roles: Collection[str]) -> str:
    """Write a person with the roles that count."""
    return f"{identity} ({', '.join(sorted(roles))})" if roles else identity


def _is_same_text(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()
