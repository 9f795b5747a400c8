"""How tenants and API keys look, as JSON and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loractl.cli.limits import limit_words
from loractl.cli.payloads import time_text
from loractl.cli.style import Style
from loractl.cli.tables import Column, facts, table
from loractl.cli.views import when

if TYPE_CHECKING:
    from loractl_registry.tenancy import ApiKey, Tenant

_TENANT_COLUMNS = (
    Column("tenant", Style.bold),
    Column("may use"),
    Column("data classes", priority=4),
    Column("weight", priority=3, is_number=True),
    Column("priority", priority=4),
    Column("limits", priority=2),
    Column("keys", priority=1, is_number=True),
    Column("state"),
)
_KEY_COLUMNS = (
    Column("prefix", Style.bold),
    Column("tenant"),
    Column("state"),
    Column("created", Style.dim, priority=2),
    Column("by", Style.dim, priority=3),
    Column("expires", priority=1),
)


def tenant_row(tenant: Tenant) -> dict[str, object]:
    """Return a tenant as every command that knows one shows it."""
    return {
        "name": tenant.name,
        "adapters": list(tenant.adapters),
        "data_classes": list(tenant.data_classes),
        "weight": tenant.weight,
        "priority": tenant.priority.value,
        "limits": tenant.limits.to_dict(),
        "adapter_limits": {adapter: limits.to_dict() for adapter, limits in tenant.adapter_limits.items()},
        "added_at": time_text(tenant.added_at),
        "added_by": tenant.added_by,
    }


def listed_row(tenant: Tenant, objections: Mapping[str, str], active: Mapping[str, int]) -> dict[str, object]:
    """Return one row of ``tenant list``; `keys` counts those that may be used."""
    return tenant_row(tenant) | {"objection": objections.get(tenant.name), "keys": active.get(tenant.name, 0)}


def key_row(key: ApiKey) -> dict[str, object]:
    """Return what may be shown of a key."""
    return {
        "prefix": key.prefix,
        "tenant": key.tenant,
        "state": key_state(key),
        "created_at": time_text(key.created_at),
        "created_by": key.created_by,
        "expires_at": None if key.expires_at is None else time_text(key.expires_at),
        "revoked_at": None if key.revoked_at is None else time_text(key.revoked_at),
    }


def key_state(key: ApiKey) -> str:
    """Return ``active``, ``expired`` or ``revoked``."""
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.is_active(datetime.now(UTC)) else "expired"


def active_by_tenant(keys: Sequence[ApiKey]) -> Mapping[str, int]:
    """Count the keys of each tenant that may be used."""
    return Counter(key.tenant for key in keys if key_state(key) == "active")


def access_text(tenant: Tenant) -> str:
    """Say what a tenant may use."""
    return f"may use {', '.join(tenant.adapters)}" if tenant.adapters else "may use nothing yet"


def tenant_table(
    tenants: Sequence[Tenant], objections: Mapping[str, str], active: Mapping[str, int], style: Style
) -> Iterator[str]:
    """Yield ``tenant list``."""
    return table(_TENANT_COLUMNS, (_tenant_cells(each, objections, active) for each in tenants), style)


def tenant_lines(tenant: Tenant, keys: Sequence[ApiKey], objection: str | None, style: Style) -> Iterator[str]:
    """Yield ``tenant show``."""
    yield from facts(
        [
            ("tenant", tenant.name),
            ("refused", objection or ""),
            ("may use", ", ".join(tenant.adapters) or "nothing"),
            ("data classes", ", ".join(tenant.data_classes)),
            ("weight", f"{tenant.weight:g}"),
            ("priority", tenant.priority.value),
            ("limits", ", ".join(_limits_of(tenant)) or "none"),
            ("added", f"{when(tenant.added_at)} by {tenant.added_by}"),
        ],
        style,
    )
    if keys:
        yield ""
        yield from key_table(keys, style)


def key_table(keys: Sequence[ApiKey], style: Style) -> Iterator[str]:
    """Yield ``key list``."""
    return table(_KEY_COLUMNS, map(_key_cells, keys), style)


def expiry_text(key: ApiKey) -> str:
    """Say when a key ends."""
    return "never" if key.expires_at is None else when(key.expires_at)


def _tenant_cells(tenant: Tenant, objections: Mapping[str, str], active: Mapping[str, int]) -> tuple[str, ...]:
    return (
        tenant.name,
        ", ".join(tenant.adapters) or "nothing",
        ", ".join(tenant.data_classes),
        f"{tenant.weight:g}",
        tenant.priority.value,
        ", ".join(_limits_of(tenant)),
        str(active.get(tenant.name, 0)),
        "refused" if tenant.name in objections else "ok",
    )


def _key_cells(key: ApiKey) -> tuple[str, ...]:
    return key.prefix, key.tenant, key_state(key), when(key.created_at), key.created_by, expiry_text(key)


def _limits_of(tenant: Tenant) -> list[str]:
    by_adapter = {adapter: limits.to_dict() for adapter, limits in tenant.adapter_limits.items()}
    return limit_words(tenant.limits.to_dict(), by_adapter)
