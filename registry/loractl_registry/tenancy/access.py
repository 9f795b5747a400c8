"""Which model names answer a tenant; whatever else it asks for does not exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loractl_registry.tenancy.tenants import Tenant, may_use


@dataclass(frozen=True, slots=True)
class Offer:
    """What stands behind a model name, as far as access goes.

    Attributes:
        version: Number of the version that answers; None for the base.
        data_classes: As the statement says that let it serve.
        allowed_tenants: Likewise; None if there is no statement.
    """

    adapter: str
    version: int | None
    data_classes: frozenset[str] = frozenset()
    allowed_tenants: frozenset[str] | None = None


def usable_names(tenant: Tenant, offers: Mapping[str, Offer]) -> frozenset[str]:
    """Return the names of `offers` that `tenant` may use.

    Made once for every change of tenants or versions. A request then asks whether its name is in the set, which takes
    the same one step for a name that is forbidden and for one that does not exist.
    """
    return frozenset(
        name
        for name, offer in offers.items()
        if may_use(tenant, offer.adapter, offer.version, offer.data_classes, allowed_tenants=offer.allowed_tenants)
    )
