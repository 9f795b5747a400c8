"""Tenants of one open home: who they are, what they may use, and their API keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from loractl_registry._context import Context
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor, require_reason
from loractl_registry.errors import RegistryError
from loractl_registry.priority_classes import PriorityClass
from loractl_registry.refs import parse_name
from loractl_registry.tenancy import store
from loractl_registry.tenancy.errors import TenantError, TenantExistsError, TenantRefusedError
from loractl_registry.tenancy.events import (
    append_sealed,
    has_events,
    key_subject,
    last_tenant_events,
    tenant_subject,
)
from loractl_registry.tenancy.keys import ApiKey, KeyRing, PresentedKey, create_key, parse_prefix
from loractl_registry.tenancy.limits import LIMIT_NAMES, NO_LIMITS, Limits
from loractl_registry.tenancy.pepper import Pepper, ensure_pepper, load_pepper
from loractl_registry.tenancy.standing import (
    ADDED,
    CHANGED,
    CREATED,
    REMOVED,
    REVOKED,
    checked_snapshot,
    said_of,
    said_of_key,
    tenant_objections,
)
from loractl_registry.tenancy.store import TenancySnapshot
from loractl_registry.tenancy.tenants import Tenant

LimitChanges = Mapping[str, int | None]
"""Limits to set, by name; None takes one away, and those that are not named stay."""


@dataclass(frozen=True, slots=True)
class AddedTenant:
    """A tenant, and whether this call added it or found the same one."""

    tenant: Tenant
    is_new: bool


@dataclass(frozen=True, slots=True)
class ChangedTenant:
    """A tenant as it is now.

    Attributes:
        was: What was changed, by name, as it was before; empty if all was so already.
    """

    tenant: Tenant
    was: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RemovedTenant:
    """A tenant that is no more, and the prefixes of its keys, which were revoked with it."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key, and whether this call revoked it or found it revoked."""

    key: ApiKey
    is_new: bool


class Tenancy:
    """The tenants of one open home. Every change is one transaction with one audit event, under a seal.

    The pepper is read from the home whenever it is needed; whatever needs it raises a `RegistryError` that says what is
    wrong with it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def tenants(self) -> tuple[Tenant, ...]:
        """Return every tenant as its row says, by name; `objections` says whose row is not to be believed."""
        with self._context.database.reading() as connection:
            return store.list_tenants(connection)

    def tenant(self, name: str) -> Tenant:
        """Return the tenant `name` as its row says, or raise `TenantNotFoundError`."""
        with self._context.database.reading() as connection:
            return store.get_tenant(connection, parse_name(name))

    def objections(self) -> Mapping[str, str]:
        """Return why a tenant is refused, by name; one whose row is as the audit log says is not there.

        Where there is no pepper that could be used, all of them are.
        """
        with self._context.database.reading() as connection:
            try:
                return self._checked(connection).refused_tenants
            except RegistryError as error:
                return {tenant.name: str(error) for tenant in store.list_tenants(connection)}

    def add(
        self,
        name: str,
        *,
        actor: str,
        adapters: Iterable[str] = (),
        data_classes: Iterable[str] = (),
        weight: float = 1.0,
        priority: PriorityClass = PriorityClass.STANDARD,
        limits: Limits = NO_LIMITS,
        adapter_limits: Mapping[str, Limits] | None = None,
    ) -> AddedTenant:
        """Add a tenant. The same one again is a no-op.

        Args:
            name: Follows the rule for names.
            actor: Who adds it.
            adapters: Patterns of what it may use; with none it may use nothing. See `Tenant`.
            data_classes: Classes of data of which the versions that it uses may be.
            weight: Share of the engine against the others while it is short.
            priority: The class in which its requests wait then.
            limits: For all its requests together.
            adapter_limits: For its requests to one adapter.

        Raises:
            TenantError, InvalidNameError: Something that was said cannot be so.
            TenantExistsError: There is another one of this name.
        """
        context, actor, pepper = self._context, parse_actor(actor), ensure_pepper(self._context.home)
        at = context.clock()
        limited = dict(adapter_limits or {})
        wanted = Tenant(name, at, actor, tuple(adapters), tuple(data_classes), weight, limits, limited, priority)
        with context.database.writing() as connection:
            held = store.find_tenant(connection, wanted.name)
            if held is not None:
                if store.tenant_to_dict(held) != store.tenant_to_dict(wanted) or self._objection(connection, name):
                    raise TenantExistsError(name)
                return AddedTenant(held, is_new=False)
            store.add_tenant(connection, wanted)
            event = NewEvent(ADDED, tenant_subject(name), actor, at, detail=said_of(wanted))
            append_sealed(connection, event, pepper)
        return AddedTenant(wanted, is_new=True)

    def change(
        self,
        name: str,
        *,
        actor: str,
        adapters: Iterable[str] | None = None,
        data_classes: Iterable[str] | None = None,
        weight: float | None = None,
        priority: PriorityClass | None = None,
        limits: LimitChanges | None = None,
        adapter_limits: Mapping[str, LimitChanges] | None = None,
    ) -> ChangedTenant:
        """Change what is given of a tenant and leave the rest; a change that changes nothing is a no-op.

        Patterns and classes are replaced as a whole, limits one by one.

        Raises:
            TenantNotFoundError: There is none.
            TenantRefusedError: Its row is not what the audit log says.
            TenantError: Something that was said cannot be so.
        """
        context, actor = self._context, parse_actor(actor)
        with context.database.writing() as connection:
            held = self._trusted(connection, name)
            wanted = replace(
                held,
                adapters=held.adapters if adapters is None else tuple(adapters),
                data_classes=held.data_classes if data_classes is None else tuple(data_classes),
                weight=held.weight if weight is None else weight,
                priority=held.priority if priority is None else priority,
                limits=_changed(held.limits, limits or {}),
                adapter_limits=_changed_each(held.adapter_limits, adapter_limits or {}),
            )
            before, after = store.tenant_to_dict(held), store.tenant_to_dict(wanted)
            was = {field: value for field, value in before.items() if after[field] != value}
            if was:
                store.change_tenant(connection, wanted)
                detail = said_of(wanted) | {"was": was}
                event = NewEvent(CHANGED, tenant_subject(held.name), actor, context.clock(), detail=detail)
                append_sealed(connection, event, self.pepper())
        return ChangedTenant(wanted, was)

    def remove(self, name: str, *, actor: str, reason: str) -> RemovedTenant:
        """Remove a tenant and revoke its keys, for good; the name is free again.

        Takes one that is refused as well, also where only the audit log knows it.

        Raises:
            TenantNotFoundError: There is none.
        """
        context, name, actor = self._context, parse_name(name), parse_actor(actor)
        reason = require_reason(f"remove tenant {name}", reason)
        with context.database.writing() as connection:
            at, keys = context.clock(), tuple[str, ...]()
            if store.find_tenant(connection, name) is not None or not self._is_only_logged(connection, name):
                keys = store.remove_tenant(connection, name, at=at)
            event = NewEvent(REMOVED, tenant_subject(name), actor, at, reason=reason, detail={"keys": list(keys)})
            append_sealed(connection, event, ensure_pepper(context.home))
        return RemovedTenant(name, keys)

    def create_key(self, tenant: str, *, actor: str, expires_at: datetime | None = None) -> tuple[ApiKey, PresentedKey]:
        """Create a key of `tenant`; return what is kept of it, and its clear text, which nobody can show again.

        Raises:
            TenantNotFoundError: There is no such tenant.
            TenantRefusedError: Its row is not what the audit log says.
            ApiKeyExpiryError: The key would be expired from the start.
        """
        context, actor = self._context, parse_actor(actor)
        with context.database.writing() as connection:
            owner, at = self._trusted(connection, tenant), context.clock()
            pepper = self.pepper()
            presented, key = create_key(owner.name, pepper=pepper, actor=actor, at=at, expires_at=expires_at)
            store.add_key(connection, key)
            detail = said_of_key(key, owner)
            append_sealed(connection, NewEvent(CREATED, key_subject(key.prefix), actor, at, detail=detail), pepper)
        return key, presented

    def keys(self, tenant: str | None = None) -> tuple[ApiKey, ...]:
        """Return the keys of `tenant`, or of every one, oldest first; expired and revoked ones too.

        Raises:
            TenantNotFoundError: There is no such tenant.
        """
        with self._context.database.reading() as connection:
            return store.list_keys(connection, tenant=None if tenant is None else parse_name(tenant))

    def revoke_key(self, prefix: str, *, actor: str, reason: str) -> RevokedKey:
        """Revoke the key with this prefix, for good. Revoking twice is a no-op.

        Raises:
            ApiKeyPrefixError: That is no prefix.
            ApiKeyNotFoundError: No key has it.
        """
        context, prefix, actor = self._context, parse_prefix(prefix), parse_actor(actor)
        reason = require_reason(f"revoke key {prefix}", reason)
        with context.database.writing() as connection:
            at = context.clock()
            key, is_new = store.revoke_key(connection, prefix, at=at)
            if is_new:
                detail = {"tenant": key.tenant}
                event = NewEvent(REVOKED, key_subject(prefix), actor, at, reason=reason, detail=detail)
                append_sealed(connection, event, ensure_pepper(context.home))
        return RevokedKey(key, is_new)

    def snapshot(self) -> TenancySnapshot:
        """Return what a server needs to know, read in one transaction: what the audit log says, and no more.

        A home that never had a tenant needs no pepper.
        """
        with self._context.database.reading() as connection:
            return self._checked(connection)

    def pepper(self) -> Pepper:
        """Return the pepper of the home, for `cache_salt` and `KeyRing`."""
        return load_pepper(self._context.home)

    def ring(self, snapshot: TenancySnapshot | None = None) -> KeyRing:
        """Return what recognises the keys of `snapshot`, or those of now."""
        held = self.snapshot() if snapshot is None else snapshot
        return KeyRing(held.keys, self.pepper())

    def _checked(self, connection: sqlite3.Connection) -> TenancySnapshot:
        if not has_events(connection) and not store.list_tenants(connection):
            return TenancySnapshot({}, ())
        return checked_snapshot(connection, self.pepper())

    def _objection(self, connection: sqlite3.Connection, name: str) -> str | None:
        return self._checked(connection).refused_tenants.get(name)

    def _is_only_logged(self, connection: sqlite3.Connection, name: str) -> bool:
        """Tell whether the audit log is all that speaks of a tenant that was never removed as it should be."""
        if not has_events(connection):
            return False
        return name in tenant_objections({}, last_tenant_events(connection, ensure_pepper(self._context.home)))

    def _trusted(self, connection: sqlite3.Connection, name: str) -> Tenant:
        tenant = store.get_tenant(connection, parse_name(name))
        objection = self._objection(connection, tenant.name)
        if objection is not None:
            raise TenantRefusedError(tenant.name, objection)
        return tenant


def tenancy_problems(context: Context, connection: sqlite3.Connection) -> list[str]:
    """Return one line for every tenant and key that is not what the audit log says, or for the pepper."""
    if not has_events(connection) and not store.list_tenants(connection):
        return []
    try:
        held = checked_snapshot(connection, load_pepper(context.home))
    except RegistryError as error:
        return [str(error)]
    tenants = [f"tenant {name}: {objection}" for name, objection in held.refused_tenants.items()]
    return tenants + [f"API key {prefix}: {objection}" for prefix, objection in held.refused_keys.items()]


def _changed(limits: Limits, changes: LimitChanges) -> Limits:
    for name in changes:
        if name not in LIMIT_NAMES:
            raise TenantError("limit", name, hint=f"choose one of {', '.join(LIMIT_NAMES)}")
    return replace(limits, **changes)


def _changed_each(held: Mapping[str, Limits], changes: Mapping[str, LimitChanges]) -> Mapping[str, Limits]:
    changed = {adapter: _changed(held.get(adapter, NO_LIMITS), change) for adapter, change in changes.items()}
    return {adapter: limits for adapter, limits in {**held, **changed}.items() if limits != NO_LIMITS}
