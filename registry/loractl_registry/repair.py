"""Finding what is wrong with a home, and mending what can be mended."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator

from loractl_registry._context import Context
from loractl_registry._files import TEMPORARY
from loractl_registry._lease import sole_lease
from loractl_registry._store import audit, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.schema import check_schema
from loractl_registry.actors import parse_actor
from loractl_registry.checking import damage_of
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


def check_database(context: Context) -> tuple[Finding, ...]:
    """Check the database alone; see `Registry.check_database`."""
    with context.database.reading() as connection:
        return tuple(_database_findings(connection))


def _database_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield Finding("database", DATABASE, str(line), is_repaired=False)
    for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield Finding("database", DATABASE, f"{table} row {row_id} refers to nothing in {parent}", is_repaired=False)
    for line in check_schema(connection):
        yield Finding("schema", DATABASE, line, is_repaired=False)
    for line in audit.broken_links(connection):
        yield Finding("audit", DATABASE, line, is_repaired=False)


def _content_findings(context: Context, digest: str, manifest: Manifest, *, repair: bool) -> Iterator[Finding]:
    contents = context.contents
    damaged = damage_of(context, digest, manifest)
    for each in damaged:
        kind = "missing" if each.found == "missing" else "damaged"
        yield Finding(kind, _subject(context, digest, each), _difference(each), is_repaired=False)
    if not contents.path_of(digest).is_dir():
        return
    wrong = contents.wrong_modes(digest)
    if repair:
        contents.restore_modes(digest)
    for path in wrong:
        yield Finding("mode", str(path.relative_to(context.home)), "somebody could write to it", is_repaired=repair)


def _orphan_findings(context: Context, needed: set[str], *, repair: bool) -> Iterator[Finding]:
    contents = context.contents
    for digest in contents.digests():
        if digest in needed:
            continue
        if repair:
            contents.remove(digest)
        where = str(contents.path_of(digest).relative_to(context.home))
        yield Finding("orphan", where, "no version needs it", is_repaired=repair)
    for path in contents.strays():
        yield Finding("stray", str(path.relative_to(context.home)), "loractl did not put it there", is_repaired=False)


def _leftover_findings(context: Context, *, repair: bool) -> Iterator[Finding]:
    """Look for the temporary files of the dead. While others write, theirs are among them and all are left alone."""
    with sole_lease(context.home) as is_alone:
        if not is_alone:
            return
        for path in context.contents.leftovers():
            if repair:
                context.contents.remove_leftover(path)
            yield Finding("leftover", str(path.relative_to(context.home)), "half written", is_repaired=repair)
        root = context.home / TEMPORARY
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if repair:
                shutil.rmtree(path)
            yield Finding("leftover", str(path.relative_to(context.home)), "half unpacked", is_repaired=repair)


def _subject(context: Context, digest: str, damage: Damage) -> str:
    with context.database.reading() as connection:
        refs = versions.refs_of(connection, digest)
    return f"{', '.join(map(str, refs))}: {damage.path}"


def _difference(damage: Damage) -> str:
    return f"should be {damage.expected} and is {damage.found}"
