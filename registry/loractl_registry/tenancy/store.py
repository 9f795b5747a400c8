"""Rows of tenants, limits and API keys. Whoever changes one writes the audit event in the same transaction."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from loractl_registry._store.rows import Row, to_json
from loractl_registry.clock import from_text, to_text
from loractl_registry.tenancy.errors import ApiKeyNotFoundError, TenantExistsError, TenantNotFoundError
from loractl_registry.tenancy.keys import ApiKey
from loractl_registry.tenancy.limits import LIMIT_NAMES, NO_LIMITS, Limits
from loractl_registry.tenancy.tenants import Tenant

_ALL = ""  # the adapter under which the limits of a tenant in all are kept
_LIMITS = ", ".join(LIMIT_NAMES)
_TENANT = "id, name, adapters, data_classes, weight, priority, added_at, added_by"
_KEY = "prefix, tenant.name, digest, created_at, created_by, expires_at, revoked_at"
_KEYS = f"SELECT {_KEY} FROM api_key JOIN tenant ON tenant.id = api_key.tenant_id"  # noqa: S608 constants


@dataclass(frozen=True, slots=True)
class TenancySnapshot:
    """All tenants, and all keys that are not revoked, at one moment.

    Attributes:
        tenants: By name.
        refused_tenants: Name and reason of each whose row is not what the audit log says; it is not among `tenants`,
            and none of its keys among `keys`.
        refused_keys: Prefix and reason, likewise.
    """

    tenants: Mapping[str, Tenant]
    keys: tuple[ApiKey, ...]
    refused_tenants: Mapping[str, str] = field(default_factory=dict[str, str])
    refused_keys: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def is_empty(self) -> bool:
        """Whether the home has no tenants, not even refused ones: only then may a server be open to everybody."""
        return not (self.tenants or self.refused_tenants)


def snapshot(connection: sqlite3.Connection) -> TenancySnapshot:
    """Return what the rows say, whoever wrote them; read inside one transaction."""
    rows = connection.execute(f"{_KEYS} WHERE revoked_at IS NULL AND tenant.removed_at IS NULL ORDER BY prefix")
    keys = tuple(_key_from_row(row) for row in rows)
    return TenancySnapshot({tenant.name: tenant for tenant in list_tenants(connection)}, keys)


def list_tenants(connection: sqlite3.Connection) -> tuple[Tenant, ...]:
    """Return every tenant, by name."""
    rows = connection.execute(f"SELECT {_TENANT} FROM tenant WHERE removed_at IS NULL ORDER BY name").fetchall()  # noqa: S608 constants
    limits = _limits_by_tenant(connection)
    return tuple(_tenant_from_row(row, limits.get(row[0], {})) for row in rows)


def find_tenant(connection: sqlite3.Connection, name: str) -> Tenant | None:
    """Return the tenant `name`, or None."""
    row = connection.execute(
        f"SELECT {_TENANT} FROM tenant WHERE name = ? AND removed_at IS NULL",  # noqa: S608 constants and marks alone
        (name,),
    ).fetchone()
    return None if row is None else _tenant_from_row(row, _limits_by_tenant(connection, row[0]).get(row[0], {}))


def get_tenant(connection: sqlite3.Connection, name: str) -> Tenant:
    """Return the tenant `name`.

    Raises:
        TenantNotFoundError: There is none.
    """
    tenant = find_tenant(connection, name)
    if tenant is None:
        raise _not_found(connection, name)
    return tenant


def add_tenant(connection: sqlite3.Connection, tenant: Tenant) -> None:
    """Write a new tenant down.

    Raises:
        TenantExistsError: There is one of this name.
    """
    if find_tenant(connection, tenant.name) is not None:
        raise TenantExistsError(tenant.name)
    cursor = connection.execute(
        "INSERT INTO tenant (name, adapters, data_classes, weight, priority, added_at, added_by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (tenant.name, *_changeable(tenant), to_text(tenant.added_at), tenant.added_by),
    )
    assert cursor.lastrowid is not None  # noqa: S101  # an INSERT that succeeded has one
    _write_limits(connection, cursor.lastrowid, tenant)


def change_tenant(connection: sqlite3.Connection, tenant: Tenant) -> bool:
    """Make the tenant of this name what `tenant` says, and return whether that changes it.

    When and by whom it was added stays as it is.

    Raises:
        TenantNotFoundError: There is none.
    """
    tenant_id = _id_of(connection, tenant.name)
    if _said_of(get_tenant(connection, tenant.name)) == _said_of(tenant):
        return False
    connection.execute(
        "UPDATE tenant SET adapters = ?, data_classes = ?, weight = ?, priority = ? WHERE id = ?",
        (*_changeable(tenant), tenant_id),
    )
    connection.execute("DELETE FROM tenant_limit WHERE tenant_id = ?", (tenant_id,))
    _write_limits(connection, tenant_id, tenant)
    return True


def remove_tenant(connection: sqlite3.Connection, name: str, *, at: datetime) -> tuple[str, ...]:
    """Remove the tenant `name`, revoke its keys, and return their prefixes; the name is free again.

    Raises:
        TenantNotFoundError: There is none.
    """
    tenant_id, moment = _id_of(connection, name), to_text(at)
    rows = connection.execute(
        "UPDATE api_key SET revoked_at = ? WHERE tenant_id = ? AND revoked_at IS NULL RETURNING prefix",
        (moment, tenant_id),
    ).fetchall()
    connection.execute("UPDATE tenant SET removed_at = ? WHERE id = ?", (moment, tenant_id))
    return tuple(sorted(str(prefix) for (prefix,) in rows))


def add_key(connection: sqlite3.Connection, key: ApiKey) -> None:
    """Write down what is kept of a key.

    Raises:
        TenantNotFoundError: Its tenant does not exist.
    """
    connection.execute(
        "INSERT INTO api_key (prefix, tenant_id, digest, created_at, created_by, expires_at, revoked_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            key.prefix,
            _id_of(connection, key.tenant),
            key.digest,
            to_text(key.created_at),
            key.created_by,
            _text_or_none(key.expires_at),
            _text_or_none(key.revoked_at),
        ),
    )


def list_keys(connection: sqlite3.Connection, *, tenant: str | None = None) -> tuple[ApiKey, ...]:
    """Return the keys of the tenants that exist, or of one of them, oldest first; expired and revoked ones too.

    Raises:
        TenantNotFoundError: There is no such tenant.
    """
    clause, values = "tenant.removed_at IS NULL", tuple[object, ...]()
    if tenant is not None:
        clause, values = "tenant_id = ?", (_id_of(connection, tenant),)
    rows = connection.execute(f"{_KEYS} WHERE {clause} ORDER BY created_at, prefix", values)
    return tuple(_key_from_row(row) for row in rows)


def get_key(connection: sqlite3.Connection, prefix: str) -> ApiKey:
    """Return the key with this prefix.

    Raises:
        ApiKeyNotFoundError: There is none.
    """
    row = connection.execute(f"{_KEYS} WHERE prefix = ?", (prefix,)).fetchone()
    if row is None:
        raise ApiKeyNotFoundError(prefix)
    return _key_from_row(row)


def revoke_key(connection: sqlite3.Connection, prefix: str, *, at: datetime) -> tuple[ApiKey, bool]:
    """Revoke a key; return it as it is then, and whether it was revoked only now.

    Raises:
        ApiKeyNotFoundError: There is none.
    """
    get_key(connection, prefix)
    changed = connection.execute(
        "UPDATE api_key SET revoked_at = ? WHERE prefix = ? AND revoked_at IS NULL", (to_text(at), prefix)
    ).rowcount
    return get_key(connection, prefix), changed > 0


def tenant_to_dict(tenant: Tenant) -> dict[str, object]:
    """Return what can be changed about `tenant` as JSON values, for audit events and for show."""
    return {
        "adapters": list(tenant.adapters),
        "data_classes": list(tenant.data_classes),
        "weight": tenant.weight,
        "priority": tenant.priority.value,
        "limits": tenant.limits.to_dict(),
        "adapter_limits": {name: limits.to_dict() for name, limits in tenant.adapter_limits.items()},
    }


def _changeable(tenant: Tenant) -> tuple[str, str, float, str]:
    adapters, classes = to_json(list(tenant.adapters)), to_json(list(tenant.data_classes))
    return adapters, classes, float(tenant.weight), tenant.priority.value


def _said_of(tenant: Tenant) -> object:
    return tenant.adapters, tenant.data_classes, float(tenant.weight), tenant.priority, _rows_of(tenant)


def _rows_of(tenant: Tenant) -> dict[str, Limits]:
    held = {_ALL: tenant.limits, **tenant.adapter_limits}
    return {adapter: limits for adapter, limits in held.items() if limits != NO_LIMITS}


def _write_limits(connection: sqlite3.Connection, tenant_id: int, tenant: Tenant) -> None:
    connection.executemany(
        f"INSERT INTO tenant_limit (tenant_id, adapter, {_LIMITS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 constants and marks alone
        [
            (tenant_id, adapter, *(getattr(limits, name) for name in LIMIT_NAMES))
            for adapter, limits in _rows_of(tenant).items()
        ],
    )


def _limits_by_tenant(connection: sqlite3.Connection, tenant_id: int | None = None) -> Mapping[int, dict[str, Limits]]:
    rows = connection.execute(
        f"SELECT tenant_id, adapter, {_LIMITS} FROM tenant_limit WHERE tenant_id = coalesce(?, tenant_id)",  # noqa: S608 constants and marks alone
        (tenant_id,),
    )
    held: defaultdict[int, dict[str, Limits]] = defaultdict(dict)
    for owner, adapter, *values in rows:
        held[owner][adapter] = Limits(**dict(zip(LIMIT_NAMES, values, strict=True)))
    return held


def _id_of(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT id FROM tenant WHERE name = ? AND removed_at IS NULL", (name,)).fetchone()
    if row is None:
        raise _not_found(connection, name)
    return int(row[0])


def _not_found(connection: sqlite3.Connection, name: str) -> TenantNotFoundError:
    rows = connection.execute("SELECT name FROM tenant WHERE removed_at IS NULL").fetchall()
    return TenantNotFoundError(name, [str(known) for (known,) in rows])


def _tenant_from_row(row: Row, limits: Mapping[str, Limits]) -> Tenant:
    _, name, adapters, data_classes, weight, priority, added_at, added_by = row
    return Tenant(
        name=name,
        added_at=from_text(added_at),
        added_by=added_by,
        adapters=tuple(json.loads(adapters)),
        data_classes=tuple(json.loads(data_classes)),
        weight=weight,
        priority=priority,
        limits=limits.get(_ALL, NO_LIMITS),
        adapter_limits={adapter: held for adapter, held in limits.items() if adapter != _ALL},
    )


def _key_from_row(row: Row) -> ApiKey:
    prefix, tenant, digest, created_at, created_by, expires_at, revoked_at = row
    return ApiKey(
        prefix=prefix,
        tenant=tenant,
        digest=digest,
        created_at=from_text(created_at),
        created_by=created_by,
        expires_at=_moment_or_none(expires_at),
        revoked_at=_moment_or_none(revoked_at),
    )


def _text_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


def _moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else from_text(text)
