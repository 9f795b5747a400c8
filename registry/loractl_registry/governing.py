"""The part of an open home that is about rules: what the policy says, and who decided what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loractl_registry._context import Context

if TYPE_CHECKING:
    from loractl_registry.home_policies import HomePolicies


class Governing:
    """What a registry offers about its policy and its record. Everything is imported when it is asked for."""

    _context: Context

    @property
    def policies(self) -> HomePolicies:
        """The policy of the home: checked, tested, and explained."""
        from loractl_registry.home_policies import HomePolicies

        return HomePolicies(self._context)
