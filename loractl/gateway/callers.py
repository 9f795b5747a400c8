"""Who asks, and which names answer them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from loractl.gateway.asgi import Headers, header_values
from loractl.gateway.errors import UnauthorizedError
from loractl.gateway.table import ServingTable, Target
from loractl.observability.definitions import OPERATOR
from loractl_registry import DeniedError, NotFoundError, utc_now
from loractl_registry.tenancy import (
    KeyRing,
    Offer,
    Pepper,
    TenancySnapshot,
    Tenant,
    cache_salt,
    parse_bearer,
    usable_names,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        tenant: None for the operator, who may use everything and has no limits.
        salt: What keeps their prefixes in the engine's cache to themselves; None where nobody else asks.
    """

    tenant: Tenant | None = None
    salt: str | None = None

    @property
    def label(self) -> str:
        """What metrics, records and queues call them."""
        return OPERATOR if self.tenant is None else self.tenant.name


@dataclass(frozen=True, slots=True)
class Callers:
    """Everybody who may ask, at one moment; immutable.

    Attributes:
        tenants: By name, each with its salt; empty where the operator is alone.
        ring: Their keys; None if no key can be checked, so that none is good.
        refused: Name and reason of each whose row is not what was sealed; nobody asks in their name.
        trouble: Why no key can be checked.
    """

    tenants: Mapping[str, Caller] = field(default_factory=lambda: MappingProxyType(dict[str, Caller]()))
    ring: KeyRing | None = None
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(dict[str, str]()))
    trouble: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody was ever told of, so that the operator is alone."""
        return not (self.tenants or self.refused or self.trouble)


class TenancySource(Protocol):
    """What the gateway needs of a `Tenancy`."""

    def snapshot(self) -> TenancySnapshot:
        """Return every tenant and every key that is not revoked, read in one transaction."""
        ...

    def pepper(self) -> Pepper:
        """Return what keys are checked with."""
        ...


def callers_of(source: TenancySource) -> Callers:
    """Return everybody who may ask; where keys cannot be checked, nobody with a key may.

    Raises:
        RegistryError: The database cannot be read.
    """
    try:
        snapshot = source.snapshot()
        if snapshot.is_empty:
            return Callers()
        pepper = source.pepper()
    except (NotFoundError, DeniedError) as error:
        return Callers(trouble=f"no key can be checked: {error}")
    salted = {name: Caller(tenant, cache_salt(tenant, pepper)) for name, tenant in snapshot.tenants.items()}
    return Callers(MappingProxyType(salted), KeyRing(snapshot.keys, pepper), snapshot.refused_tenants)


class Door:
    """Tells who asks, and what they may use. Used from one event loop only.

    Args:
        operator_keys: Each of them is the operator's.
        is_guarded: Whether a key is wanted even while there are no tenants.
        clock: Tells when a key has expired. Where it goes back, the latest that it ever said counts.
    """

    def __init__(
        self,
        operator_keys: frozenset[str] = frozenset(),
        *,
        is_guarded: bool = False,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.callers = Callers()
        self._operator_digests = [hashlib.sha256(key.encode()).digest() for key in operator_keys]
        self._is_guarded = is_guarded
        self._clock = clock
        self._latest = clock()
        self._names: dict[str, tuple[ServingTable, Tenant, frozenset[str]]] = {}

    @property
    def is_open(self) -> bool:
        """Whether everybody who can connect is the operator: never again once there was a tenant.

        A database that lost its tenants, or another one in its place, looks like one that never had any.
        """
        return self.callers.is_empty and not self._is_guarded

    def identify(self, headers: Headers) -> Caller:
        """Return who asks.

        Raises:
            UnauthorizedError: A key is wanted, and there is none that is good.
        """
        if self.is_operator(headers):
            return Caller()
        presented, ring = parse_bearer(header_values(headers, b"authorization")), self.callers.ring
        key = None if presented is None or ring is None else ring.find(presented, at=self._now())
        caller = None if key is None else self.callers.tenants.get(key.tenant)
        if caller is None:
            raise UnauthorizedError
        return caller

    def require_operator(self, headers: Headers) -> None:
        """Return if the operator asks.

        Raises:
            UnauthorizedError: Somebody else does.
        """
        if not self.is_operator(headers):
            raise UnauthorizedError

    def is_operator(self, headers: Headers) -> bool:
        """Return whether the operator asks."""
        return self.is_open or self._has_operator_key(headers)

    def resolve(self, caller: Caller, table: ServingTable, model: str) -> Target | None:
        """Return who answers `caller` to `model`, or None: what they may not use does not exist for them."""
        return table.resolve(model) if model in self.names_for(caller, table) else None

    def names_for(self, caller: Caller, table: ServingTable) -> Collection[str]:
        """Return the names of `table` that `caller` may use."""
        return table.targets.keys() if caller.tenant is None else self._names_of(caller.tenant, table)

    def _names_of(self, tenant: Tenant, table: ServingTable) -> frozenset[str]:
        # Made once for every table and tenant: a request only asks whether its name is in it.
        known = self._names.get(tenant.name)
        if known is None or known[0] is not table or known[1] is not tenant:
            known = self._names[tenant.name] = (table, tenant, usable_names(tenant, _offers(table)))
        return known[2]

    def weight_of(self, label: str) -> float:
        """Return the weight of a tenant in the queue; the operator's is 1."""
        caller = self.callers.tenants.get(label)
        return 1.0 if caller is None or caller.tenant is None else caller.tenant.weight

    def adopt(self, callers: Callers) -> None:
        """Let these ask from now on, and nobody else."""
        self.callers = callers
        self._is_guarded = self._is_guarded or not callers.is_empty
        self._names = {name: known for name, known in self._names.items() if name in callers.tenants}

    def _now(self) -> datetime:
        self._latest = max(self._latest, self._clock())
        return self._latest

    def _has_operator_key(self, headers: Headers) -> bool:
        values = header_values(headers, b"authorization")
        scheme, _, key = (values[0] if len(values) == 1 else b"").partition(b" ")
        digest = hashlib.sha256(key).digest()
        # Every key is compared, so that the time says nothing about which one nearly matched.
        matches = [hmac.compare_digest(digest, known) for known in self._operator_digests]
        return scheme.lower() == b"bearer" and any(matches)


def _offers(table: ServingTable) -> Mapping[str, Offer]:
    return {name: _offer(table, target) for name, target in table.targets.items()}


def _offer(table: ServingTable, target: Target) -> Offer:
    if target.version is None:
        return Offer(table.base.name, None)
    ref, terms = target.version.ref, target.terms
    if terms is None:
        return Offer(ref.name, ref.number, allowed_tenants=frozenset())
    return Offer(ref.name, ref.number, frozenset(terms.data_classes), frozenset(terms.tenants))
