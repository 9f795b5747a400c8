"""Whether the rows of tenants and keys are what the sealed events say: what is not is left out and named."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from loractl_registry.clock import to_text
from loractl_registry.priority_classes import PriorityClass
from loractl_registry.tenancy import store
from loractl_registry.tenancy.events import LastEvent, last_key_events, last_tenant_events
from loractl_registry.tenancy.keys import ApiKey
from loractl_registry.tenancy.pepper import Pepper
from loractl_registry.tenancy.store import TenancySnapshot
from loractl_registry.tenancy.tenants import Tenant

ADDED, CHANGED, REMOVED = "tenant.add", "tenant.change", "tenant.remove"
CREATED, REVOKED = "key.create", "key.revoke"
# What an event of a loractl that did not know the field stands for.
_UNSAID: Mapping[str, object] = {"priority": PriorityClass.STANDARD.value}
_FORGED = "its newest event in the audit log was not written with the pepper of this home"


def checked_snapshot(connection: sqlite3.Connection, pepper: Pepper) -> TenancySnapshot:
    """Return the tenants and keys whose rows are what the audit log says, and why the others are not among them."""
    held = store.snapshot(connection)
    objections = tenant_objections(held.tenants, last_tenant_events(connection, pepper))
    tenants = {name: tenant for name, tenant in held.tenants.items() if name not in objections}
    events, keys, refused = last_key_events(connection, pepper), list[ApiKey](), dict[str, str]()
    for key in held.keys:
        if (tenant := tenants.get(key.tenant)) is None:
            continue
        objection = _objection_to_key(key, tenant, events.get(key.prefix))
        if objection is None:
            keys.append(key)
        else:
            refused[key.prefix] = objection
    return replace(held, tenants=tenants, keys=tuple(keys), refused_tenants=objections, refused_keys=refused)


def tenant_objections(tenants: Mapping[str, Tenant], events: Mapping[str, LastEvent]) -> dict[str, str]:
    """Return why the tenant of each name is not what the audit log says; those that are as it says are left out."""
    names = sorted(tenants.keys() | events.keys())
    found = {name: _objection_to_tenant(tenants.get(name), events.get(name)) for name in names}
    return {name: objection for name, objection in found.items() if objection is not None}


def said_of(tenant: Tenant) -> dict[str, object]:
    """Return what an event says of `tenant`, as JSON values."""
    return store.tenant_to_dict(tenant) | {"added_at": to_text(tenant.added_at), "added_by": tenant.added_by}


def said_of_key(key: ApiKey, tenant: Tenant) -> dict[str, object]:
    """Return what the event of its creation says of `key`, as JSON values.

    It binds the key to this tenant and no later one of the same name.
    """
    return {
        "tenant": key.tenant,
        "tenant_added_at": to_text(tenant.added_at),
        "expires_at": None if key.expires_at is None else to_text(key.expires_at),
    }


def _objection_to_tenant(tenant: Tenant | None, event: LastEvent | None) -> str | None:
    if event is None:
        return "no event of the audit log is about it"
    if not event.is_sealed:
        return _FORGED
    if tenant is None:
        return None if event.action == REMOVED else "the audit log says that it exists, and the database has no row"
    if event.action == REMOVED:
        return "the audit log says that it was removed"
    differing = [
        field for field, value in said_of(tenant).items() if event.detail.get(field, _UNSAID.get(field)) != value
    ]
    return f"its {', '.join(differing)} in the database differ from the audit log" if differing else None


def _objection_to_key(key: ApiKey, tenant: Tenant, event: LastEvent | None) -> str | None:
    if event is None:
        return "no event of the audit log is about it"
    if not event.is_sealed:
        return _FORGED
    if event.action != CREATED:
        return "the audit log says that it was revoked"
    if event.at != to_text(key.created_at) or dict(event.detail) != said_of_key(key, tenant):
        return "it is another one in the database than in the audit log"
    return None
