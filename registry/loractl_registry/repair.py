"""Finding what is wrong with a home, and mending what can be mended."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from loractl_registry._context import Context
from loractl_registry._files import TEMPORARY
from loractl_registry._lease import sole_lease
from loractl_registry._store import audit, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.schema import check_schema
from loractl_registry.actors import parse_actor
from loractl_registry.collecting import REGISTRY
from loractl_registry.home_errors import os_errors_named
from loractl_registry.outcomes import Damage, Finding, FsckReport
from loractl_registry.records import Manifest

DATABASE = "registry.db"


def fsck(context: Context, *, repair: bool, actor: str) -> FsckReport:
    """Look at everything in the home, and with `repair` mend what can be; see `Registry.fsck`."""
    actor = parse_actor(actor)
    with context.database.reading() as connection:
        findings = [*_database_findings(connection)]
        manifests = versions.manifests(connection)
    for digest, manifest in manifests.items():
        findings += _content_findings(context, digest, manifest, repair=repair)
    # Under the write lock nobody is between the rename of a folder and the commit of its row.
    with context.database.writing() as connection, os_errors_named(context.home):
        findings += _orphan_findings(context, set(versions.manifests(connection)), repair=repair)
        findings += _leftover_findings(context, repair=repair)
        mended = [f"{finding.kind} {finding.subject}" for finding in findings if finding.is_repaired]
        if mended:
            event = NewEvent("registry.repair", REGISTRY, actor, context.clock(), detail={"mended": mended})
            audit.append(connection, event)
    return FsckReport(tuple(findings), len(manifests))


def _database_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield Finding("database", DATABASE, str(line), is_repaired=False)
    for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield Finding("database", DATABASE, f"{table} row {row_id} refers to nothing in {parent}", is_repaired=False)
    for line in check_schema(connection):
        yield Finding("schema", DATABASE, line, is_repaired=False)
