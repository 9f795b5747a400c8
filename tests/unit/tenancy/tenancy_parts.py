"""What the tests of tenancy are made of."""

from datetime import UTC, datetime

from loractl_registry.tenancy import Pepper, Tenant

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
PEPPER = Pepper(bytes(range(32)))


def tenant(name="acme", **changes):
    return Tenant(name, **({"added_at": NOW, "added_by": "ada", "adapters": ("*",)} | changes))
