"""What a statement says it was decided on, and whom it lets use the version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loractl_registry.ledger.facts import VersionFacts
from loractl_registry.policies import Policy
from loractl_registry.policies.patterns import matches
from loractl_registry.trust import ANY_TENANT
from loractl_registry.trust.fields import TENANT_PATTERN


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a rung or an approval stands on.

    Attributes:
        tenants: Patterns of names, `ANY_TENANT` alone for everybody, empty for nobody.
        data_classes: Of the data sets that the version was trained on.
        evidence: Digests of the evidence and of the verified signatures that were there to be counted.
    """

    tenants: tuple[str, ...] = (ANY_TENANT,)
    data_classes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


def grounds_of(policy: Policy, facts: VersionFacts) -> Grounds:
    """Return what a statement binds that is made on `facts` under `policy`."""
    classes = tuple(sorted({one.data_class for one in facts.data if one.data_class is not None}))
    return Grounds(_tenants(policy, classes), classes, facts.counted)


def _tenants(policy: Policy, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return who may use data of every one of `classes`; everybody where the policy has no rule about data."""
    rules = None if policy.document.adapter is None else policy.document.adapter.data
    if rules is None:
        return (ANY_TENANT,)
    allowed: tuple[str, ...] = (ANY_TENANT,) if classes else ()
    for name in classes:
        allowed = _both(allowed, tuple(rules.tenants.get(name, ())))
    # A tenant has a name; what cannot be one is for nobody.
    named = tuple(one for one in allowed if re.fullmatch(TENANT_PATTERN, one))
    return (ANY_TENANT,) if ANY_TENANT in named else named


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns that lie within both lists: never more than what both allow, at times less."""
    within = [each for each in one if any(matches(pattern, each) for pattern in other)]
    return tuple(dict.fromkeys([*within, *(each for each in other if any(matches(pattern, each) for pattern in one))]))
