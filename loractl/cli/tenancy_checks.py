"""What ``loractl doctor`` looks at where there are tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loractl.cli.checks import Check, Health
from loractl.cli.style import count_text
from loractl.cli.tenancy_view import key_state
from loractl_registry.errors import RegistryError

if TYPE_CHECKING:
    from loractl_registry import Registry


def tenancy_checks(registry: Registry) -> Iterator[Check]:
    """Yield whether there are tenants, whether each is what the audit log says, and whether the pepper can be used."""
    tenancy = registry.tenancy
    try:
        tenancy.snapshot()
    except RegistryError as error:
        yield Check("pepper", Health.FAIL, str(error), error.hint)
    tenants, objections = tenancy.tenants(), tenancy.objections()
    if objections:
        name, objection = next(iter(objections.items()))
        yield Check("tenants", Health.FAIL, f"{name} is refused: {objection}", "see all of it: loractl audit verify")
    elif not tenants:
        yield Check("tenants", Health.OK, "none; whoever reaches a server may use every approved adapter")
    else:
        keys = tenancy.keys()
        active = sum(key_state(key) == "active" for key in keys)
        yield Check("tenants", Health.OK, f"{count_text(len(tenants), 'tenant')}, {count_text(active, 'key')} in use")
        yield Check("pepper", Health.OK, "private and intact; keep a copy: without it no API key works")
