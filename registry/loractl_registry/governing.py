"""The part of an open home that is about rules: what the policy says, and who decided what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loractl_registry._context import Context

if TYPE_CHECKING:
    from loractl_registry.home_policies import HomePolicies
    from loractl_registry.reviewing import Review


class Governing:
    """What a registry offers about its policy and its record. Everything is imported when it is asked for."""

    _context: Context

    @property
    def policies(self) -> HomePolicies:
        """The policy of the home: checked, tested, and explained."""
        from loractl_registry.home_policies import HomePolicies

        return HomePolicies(self._context)

    def review(self, *, actor: str, identity: str | None = None) -> Review:
        """Return every version whose next rung lacks an approval that the one who asks may give, and what it changes.

        Args:
            actor: Who asks, where there is no identity yet.
            identity: Whose reviews; default those of whoever would sign here.

        Raises:
            NotFoundError: No such identity.
            TrustError: The chain is not what was signed.
        """
        from loractl_registry.reviewing import review

        return review(self._context, actor=actor, identity=identity)
