"""The part of an open home that is about rules: what the policy says, and who decided what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loractl_registry._context import Context

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from loractl_registry.audit_records import AuditExported
    from loractl_registry.home_advisories import HomeAdvisories
    from loractl_registry.home_policies import HomePolicies
    from loractl_registry.outcomes import Promotion
    from loractl_registry.records import AuditEvent
    from loractl_registry.refs import Ref, VersionRef
    from loractl_registry.reviewing import Review
    from loractl_registry.stages import Stage


class Governing:
    """What a registry offers about its policy and its record. Everything is imported when it is asked for."""

    _context: Context

    @property
    def policies(self) -> HomePolicies:
        """The policy of the home: checked, tested, and explained."""
        from loractl_registry.home_policies import HomePolicies

        return HomePolicies(self._context)

    @property
    def advisories(self) -> HomeAdvisories:
        """Known flaws of the engine, as this home knows them."""
        from loractl_registry.home_advisories import HomeAdvisories

        return HomeAdvisories(self._context)

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

    def break_glass(self, ref: Ref | VersionRef, *, actor: str, reason: str, to: Stage | None = None) -> Promotion:
        """Take a version to a servable stage without approvals and evidence, for as many hours as the policy says.

        Files, preflight, caps, licences and data classes are checked all the same. It is over by itself: at that second
        the version answers no more.

        Args:
            ref: The version.
            actor: Who appears in the audit log; whoever signs has to be an operator.
            reason: Kept in the statement and in the audit log.
            to: Approved or live; default the next one.

        Raises:
            StageError: No climb leads there.
            DeniedError: Policy, role, base, bytes or preflight said no; the subclass says which.
        """
        from loractl_registry.breaking import break_glass

        return break_glass(self._context, ref, actor=actor, reason=reason, to=to)

    def broken_glass(self) -> Mapping[VersionRef, datetime]:
        """Return for which versions the glass was broken, and until when; by the rows, verifying no signature."""
        from loractl_registry import reading

        return reading.broken_glass(self._context)

    def events(
        self, *, subject: str | None = None, since: datetime | None = None, limit: int | None = None
    ) -> tuple[AuditEvent, ...]:
        """Return the newest events of the audit log, oldest first.

        Args:
            subject: Ref, name of an adapter with all its versions, base, or identity.
            since: Only from this moment on.
            limit: At most so many.
        """
        from loractl_registry._store import audit

        with self._context.database.reading() as connection:
            return audit.newest(connection, subject=subject, since=since, limit=limit)

    def export_audit(self, file: Path) -> AuditExported:
        """Write every signed statement, every audit row, the public keys and the checkpoint into one file.

        Equal records give equal bytes. Whoever knows the first key or the id of the home verifies it without the home.

        Raises:
            FileExistsRefusedError: `file` is there.
            NoSuchIdentityError: Nothing was ever signed.
            TrustError: The chain is not what was signed.
        """
        from loractl_registry.audit_records import export_record

        return export_record(self._context, file)
