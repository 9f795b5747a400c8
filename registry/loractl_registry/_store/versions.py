"""Rows of versions and of the contents that they share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime

from loractl_registry._store.rows import (
    ContentPaths,
    facts_to_dict,
    manifest_from_json,
    manifest_to_json,
    provenance_to_dict,
    to_json,
    version_from_row,
)
from loractl_registry.clock import from_text, to_text
from loractl_registry.records import AdapterFacts, AdapterVersion, Manifest, Provenance, VersionSummary
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

COLUMNS = (
    "v.name, v.number, v.stage, v.digest, c.size_bytes, b.name, b.digest, c.facts, v.provenance, v.added_at, v.added_by"
)
_SUMMARY = (
    "v.name, v.number, v.stage, b.name, v.digest, json_extract(c.facts, '$.rank'), c.size_bytes, v.added_at, v.added_by"
)
_FROM = "FROM version v JOIN content c ON c.digest = v.digest LEFT JOIN base b ON b.id = v.base_id"


def find(connection: sqlite3.Connection, contents: ContentPaths, ref: VersionRef) -> AdapterVersion | None:
    """Return the version `ref`."""
    return _one(connection, contents, "v.name = ? AND v.number = ?", ref.name, ref.number)


def find_live(connection: sqlite3.Connection, contents: ContentPaths, name: str) -> AdapterVersion | None:
    """Return the live version of `name`."""
    return _one(connection, contents, "v.name = ? AND v.stage = 'live'", name)


def find_same(connection: sqlite3.Connection, contents: ContentPaths, name: str, digest: str) -> AdapterVersion | None:
    """Return the version of `name` that holds the bytes of `digest`."""
    return _one(connection, contents, "v.name = ? AND v.digest = ?", name, digest)


def select(
    connection: sqlite3.Connection,
    contents: ContentPaths,
    *,
    name: str | None = None,
    stages: Iterable[Stage] = (),
    base: str | None = None,
) -> tuple[AdapterVersion, ...]:
    """Return the versions that match every given filter, sorted by ref."""
    condition, values = _filter(name, stages, base)
    rows = connection.execute(f"SELECT {COLUMNS} {_FROM} WHERE {condition} ORDER BY v.name, v.number", values)
    return tuple(version_from_row(row, contents) for row in rows)


def summaries(
    connection: sqlite3.Connection, *, name: str | None = None, stages: Iterable[Stage] = (), base: str | None = None
) -> list[VersionSummary]:
    """Return what a list shows of the versions that match every given filter, sorted by ref."""
    condition, values = _filter(name, stages, base)
    rows = connection.execute(f"SELECT {_SUMMARY} {_FROM} WHERE {condition} ORDER BY v.name, v.number", values)
    return list(map(VersionSummary._make, rows))


def _filter(name: str | None, stages: Iterable[Stage], base: str | None) -> tuple[str, list[object]]:
    clauses, values = ["1"], list[object]()
    if name is not None:
        clauses.append("v.name = ?")
        values.append(name)
    if base is not None:
        clauses.append("b.name = ?")
        values.append(base)
    if wanted := [stage.value for stage in stages]:
        clauses.append(f"v.stage IN ({', '.join('?' * len(wanted))})")
        values += wanted
    return " AND ".join(clauses), values


def has_name(connection: sqlite3.Connection, name: str) -> bool:
    """Whether any version, of whatever stage, has this name."""
    return connection.execute("SELECT 1 FROM version WHERE name = ? LIMIT 1", (name,)).fetchone() is not None


def next_number(connection: sqlite3.Connection, name: str) -> int:
    """Return the number that the next version of `name` gets; rows are never deleted, so none is used twice."""
    (newest,) = connection.execute("SELECT coalesce(max(number), 0) FROM version WHERE name = ?", (name,)).fetchone()
    return int(newest) + 1


def insert(
    connection: sqlite3.Connection,
    ref: VersionRef,
    *,
    digest: str,
    base_id: int | None,
    provenance: Provenance,
    added_at: datetime,
    added_by: str,
) -> None:
    """Insert a draft."""
    connection.execute(
        "INSERT INTO version (name, number, stage, digest, base_id, provenance, added_at, added_by)"
        " VALUES (?, ?, 'draft', ?, ?, ?, ?, ?)",
        (ref.name, ref.number, digest, base_id, to_json(provenance_to_dict(provenance)), to_text(added_at), added_by),
    )


def set_stage(connection: sqlite3.Connection, ref: VersionRef, stage: Stage) -> None:
    """Move `ref` to `stage`; whether it may is decided before."""
    connection.execute("UPDATE version SET stage = ? WHERE name = ? AND number = ?", (stage, ref.name, ref.number))


def bind_base(connection: sqlite3.Connection, ref: VersionRef, base_id: int) -> None:
    """Say which base `ref` belongs to, once."""
    connection.execute("UPDATE version SET base_id = ? WHERE name = ? AND number = ?", (base_id, ref.name, ref.number))


def put_content(connection: sqlite3.Connection, manifest: Manifest, facts: AdapterFacts) -> None:
    """Insert a content, or say that one which gc had collected is here again."""
    connection.execute(
        "INSERT INTO content (digest, size_bytes, manifest, facts) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET collected_at = NULL",
        (manifest.digest, manifest.size_bytes, manifest_to_json(manifest), to_json(facts_to_dict(facts))),
    )


def manifest_of(connection: sqlite3.Connection, digest: str) -> Manifest:
    """Return the manifest of a content that a version refers to."""
    (text,) = connection.execute("SELECT manifest FROM content WHERE digest = ?", (digest,)).fetchone()
    return manifest_from_json(text)


def manifests(connection: sqlite3.Connection) -> dict[str, Manifest]:
    """Return the manifest of every content that should be in the store, by digest."""
    rows = connection.execute("SELECT digest, manifest FROM content WHERE collected_at IS NULL ORDER BY digest")
    return {digest: manifest_from_json(text) for digest, text in rows}


def collected(connection: sqlite3.Connection) -> dict[str, datetime]:
    """Return when gc removed which contents, by digest."""
    rows = connection.execute("SELECT digest, collected_at FROM content WHERE collected_at IS NOT NULL")
    return {digest: from_text(text) for digest, text in rows}


def mark_collected(connection: sqlite3.Connection, digest: str, at: datetime) -> None:
    """Say that the bytes of `digest` are gone on purpose."""
    connection.execute("UPDATE content SET collected_at = ? WHERE digest = ?", (to_text(at), digest))


def collectable(connection: sqlite3.Connection) -> dict[str, int]:
    """Return digest and size of the contents that only rejected and revoked versions refer to."""
    rows = connection.execute(
        "SELECT digest, size_bytes FROM content c WHERE collected_at IS NULL AND NOT EXISTS ("
        " SELECT 1 FROM version v WHERE v.digest = c.digest AND v.stage NOT IN ('rejected', 'revoked')"
        ") ORDER BY digest"
    )
    return dict(rows.fetchall())


def refs_of(
    connection: sqlite3.Connection, digest: str, *, stages: Iterable[Stage] = tuple(Stage)
) -> tuple[VersionRef, ...]:
    """Return the versions in `stages` that hold the bytes of `digest`."""
    wanted = [stage.value for stage in stages]
    rows = connection.execute(
        f"SELECT name, number FROM version WHERE digest = ? AND stage IN ({', '.join('?' * len(wanted))})"  # noqa: S608 constants and marks alone
        " ORDER BY name, number",
        (digest, *wanted),
    )
    return tuple(VersionRef(name, number) for name, number in rows)


def _one(
    connection: sqlite3.Connection, contents: ContentPaths, condition: str, *values: object
) -> AdapterVersion | None:
    row = connection.execute(f"SELECT {COLUMNS} {_FROM} WHERE {condition}", values).fetchone()
    return None if row is None else version_from_row(row, contents)
