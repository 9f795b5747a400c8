"""Removing the bytes that no version may ever need again, and copying the database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._files import written_beside
from loractl_registry._store import audit, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.database import named_errors
from loractl_registry.actors import parse_actor
from loractl_registry.home_errors import os_errors_named
from loractl_registry.outcomes import GcReport

REGISTRY = "(registry)"
"""What the audit log calls the registry itself; no base can have this name."""


def gc(context: Context, *, is_dry_run: bool, actor: str) -> GcReport:
    """Remove the bytes that only rejected and revoked versions refer to; see `Registry.gc`.

    The rows say so before the folders go: a kill in between leaves an orphan, never a version that looks damaged.
    """
    actor = parse_actor(actor)
    if is_dry_run:
        with context.database.reading() as connection:
            return _report(connection, is_dry_run=True)
    with context.database.writing() as connection:
        report = _report(connection, is_dry_run=False)
        at = context.clock()
        for digest in report.contents:
            versions.mark_collected(connection, digest, at)
        if report.contents:
            detail = {"contents": sorted(report.contents), "freed_bytes": report.freed_bytes}
            audit.append(connection, NewEvent("registry.gc", REGISTRY, actor, at, detail=detail))
    reach("gc.after_commit")
    with context.database.writing() as connection, os_errors_named(context.home):
        # Somebody may have added the same bytes again since.
        for digest in sorted(set(report.contents) & set(versions.collected(connection))):
            context.contents.remove(digest)
            reach("gc.after_remove")
    return report


def backup(context: Context, file: Path) -> Path:
    """Copy the database to `file`, consistent also while others write; see `Registry.backup`."""
    with (
        written_beside(file) as part,
        named_errors(part),
        closing(sqlite3.connect(part, isolation_level=None)) as copy,
        context.database.reading() as connection,
    ):
        connection.backup(copy)
        # A copy has to be one file, so that it can be moved by hand.
        copy.execute("PRAGMA journal_mode = DELETE")
    return file


def _report(connection: sqlite3.Connection, *, is_dry_run: bool) -> GcReport:
    sizes = versions.collectable(connection)
    contents = {digest: versions.refs_of(connection, digest) for digest in sizes}
    return GcReport(contents, sum(sizes.values()), is_dry_run)
