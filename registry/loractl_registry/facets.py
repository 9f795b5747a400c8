"""Parts of an open home that are objects of their own, reached through `Registry`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loractl_registry._context import Context

if TYPE_CHECKING:
    from loractl_registry.tenants import Tenancy


class Facets:
    """What an open home offers beside the operations on bases and adapters; imported when it is asked for."""

    _context: Context

    @property
    def tenancy(self) -> Tenancy:
        """Who may use what and how much of it, and their API keys."""
        from loractl_registry.tenants import Tenancy  # pydantic and cryptography, which listing does without

        return Tenancy(self._context)
