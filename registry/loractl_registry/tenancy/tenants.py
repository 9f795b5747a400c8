"""Tenants: who is billed, and what each may use."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from loractl_registry.clock import to_text
from loractl_registry.errors import InvalidNameError
from loractl_registry.policies.patterns import matches
from loractl_registry.priority_classes import PriorityClass
from loractl_registry.refs import MAX_VERSION_NUMBER, parse_name
from loractl_registry.tenancy.errors import TenantError
from loractl_registry.tenancy.limits import NO_LIMITS, Limits
from loractl_registry.tenancy.pepper import Pepper

EVERY = "*"
"""Alone among data classes: every one of them. In a pattern it stands for any characters."""

MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0
MAX_ITEMS = 1000

_PATTERN = re.compile(r"[a-z0-9*][a-z0-9._*-]{0,62}(?:@([1-9][0-9]{0,9}))?", re.ASCII)
_SALT_PURPOSE = "cache-salt/1"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is billed, and what they may use; with no pattern it is nothing.

    Attributes:
        adapters: Names of adapters and bases in which ``*`` stands for any characters, or one version as ``name@3``.
        data_classes: Classes of data of which versions may be; `EVERY` alone for all.
        weight: Share of the engine against the other tenants while it is short.
        limits: For all requests together.
        adapter_limits: For the requests to one adapter, beside those above.
        priority: The class in which its requests wait while the engine is short; the weight counts within it.

    Raises:
        InvalidNameError: `name` breaks the rule for names, which is the one for adapters.
        TenantError: One of the others cannot be so; the error names it.
    """

    name: str
    added_at: datetime
    added_by: str
    adapters: tuple[str, ...] = ()
    data_classes: tuple[str, ...] = ()
    weight: float = 1.0
    limits: Limits = NO_LIMITS
    adapter_limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    priority: PriorityClass = PriorityClass.STANDARD

    def __post_init__(self) -> None:
        parse_name(self.name)
        object.__setattr__(self, "adapters", _as_set("adapters", self.adapters))
        object.__setattr__(self, "data_classes", _as_set("data classes", self.data_classes))
        object.__setattr__(self, "adapter_limits", MappingProxyType(dict(sorted(self.adapter_limits.items()))))
        for pattern in self.adapters:
            _check_pattern(pattern)
        if self.data_classes != (EVERY,):
            _check_names("data class", self.data_classes, "use lower-case names such as internal, or '*' alone")
        _check_names("adapter", self.adapter_limits, "limits are for one adapter, named in full")
        if not (math.isfinite(self.weight) and MIN_WEIGHT <= self.weight <= MAX_WEIGHT):
            raise TenantError("weight", self.weight, hint=f"choose a number from {MIN_WEIGHT} to {MAX_WEIGHT:g}")
        object.__setattr__(self, "priority", _as_class(self.priority))


def may_use(
    tenant: Tenant,
    adapter: str,
    version: int | None,
    data_classes: Collection[str] = (),
    *,
    allowed_tenants: Collection[str] | None = None,
) -> bool:
    """Tell whether `tenant` may be answered by a version, or by a base.

    Args:
        tenant: Who asks.
        adapter: Name of the adapter or base.
        version: Number of the version; None for a base.
        data_classes: All the classes of data that the version has to do with; the tenant must have every one.
        allowed_tenants: Names and patterns of those for whom the version was approved, None if nobody said.
    """
    if not any(_covers(pattern, adapter, version) for pattern in tenant.adapters):
        return False
    if tenant.data_classes != (EVERY,) and not set(data_classes) <= set(tenant.data_classes):
        return False
    return allowed_tenants is None or any(matches(pattern, tenant.name) for pattern in allowed_tenants)


def cache_salt(tenant: Tenant, pepper: Pepper) -> str:
    """Return what keeps the tenant's prefixes in the engine's cache to itself: 64 hexadecimal digits.

    Nobody without the pepper can compute it. A tenant that is removed and added again gets another one, because the
    name may have gone to somebody else.
    """
    return pepper.mac(_SALT_PURPOSE, f"{tenant.name}\0{to_text(tenant.added_at)}".encode("ascii")).hex()


def _covers(pattern: str, adapter: str, version: int | None) -> bool:
    name, at, number = pattern.partition("@")
    return matches(name, adapter) and (not at or (version is not None and number == str(version)))


def _as_set(field_name: str, items: tuple[str, ...]) -> tuple[str, ...]:
    if len(items) > MAX_ITEMS:
        raise TenantError(field_name, items, hint=f"name at most {MAX_ITEMS}")
    return tuple(sorted(set(items)))


def _as_class(priority: str) -> PriorityClass:
    try:
        return PriorityClass(priority)
    except ValueError:
        raise TenantError("priority", priority, hint=f"choose one of {', '.join(PriorityClass)}") from None


def _check_pattern(pattern: str) -> None:
    found = _PATTERN.fullmatch(pattern)
    if found is None or (found[1] is not None and int(found[1]) > MAX_VERSION_NUMBER):
        raise TenantError("adapter pattern", pattern, hint="write NAME, NAME@NUMBER, or a pattern such as 'support-*'")


def _check_names(what: str, names: Collection[str], hint: str) -> None:
    for name in names:
        try:
            parse_name(name)
        except InvalidNameError:
            raise TenantError(what, name, hint=hint) from None
