"""Rows of bases."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from loractl_registry._store.rows import base_from_row, manifest_from_json, manifest_to_json, to_json
from loractl_registry.clock import to_text
from loractl_registry.records import Base, Manifest

COLUMNS = "name, digest, path, source, licence, size_bytes, file_count, added_at, added_by, config"

Signatures = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class StoredBase:
    """A base with what only the registry needs to know about it.

    Attributes:
        row_id: What a version's row refers to.
        signatures: By path, the numbers of the file's stat when it was last hashed.
    """

    row_id: int
    base: Base
    manifest: Manifest
    signatures: Signatures


def find(connection: sqlite3.Connection, name: str) -> StoredBase | None:
    """Return the admitted base `name`."""
    query = f"SELECT id, manifest, signatures, {COLUMNS} FROM base WHERE name = ? AND removed_at IS NULL"  # noqa: S608 constants
    row = connection.execute(query, (name,)).fetchone()
    if row is None:
        return None
    row_id, manifest, signatures, *columns = row
    held = {path: tuple(numbers) for path, numbers in json.loads(signatures).items()}
    return StoredBase(row_id, base_from_row(tuple(columns)), manifest_from_json(manifest), held)


def select(connection: sqlite3.Connection) -> tuple[Base, ...]:
    """Return every admitted base, sorted by name."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM base WHERE removed_at IS NULL ORDER BY name")  # noqa: S608 constants and marks alone
    return tuple(base_from_row(row) for row in rows)


def insert(connection: sqlite3.Connection, base: Base, manifest: Manifest, signatures: Signatures) -> None:
    """Insert an admitted base."""
    connection.execute(
        f"INSERT INTO base ({COLUMNS}, manifest, signatures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 constants and marks alone
        (
            base.name,
            base.digest,
            str(base.path),
            base.source,
            base.licence,
            base.size_bytes,
            base.file_count,
            to_text(base.added_at),
            base.added_by,
            to_json(dict(base.config)),
            manifest_to_json(manifest),
            to_json({path: list(numbers) for path, numbers in signatures.items()}),
        ),
    )


def set_signatures(connection: sqlite3.Connection, row_id: int, signatures: Signatures) -> None:
    """Remember how the files looked when they were last hashed."""
    text = to_json({path: list(numbers) for path, numbers in signatures.items()})
    connection.execute("UPDATE base SET signatures = ? WHERE id = ?", (text, row_id))


def set_origin(connection: sqlite3.Connection, row_id: int, path: Path, source: str, licence: str | None) -> None:
    """Say that the same files are now elsewhere, or come from elsewhere."""
    query = "UPDATE base SET path = ?, source = ?, licence = ? WHERE id = ?"
    connection.execute(query, (str(path), source, licence, row_id))


def remove(connection: sqlite3.Connection, row_id: int, at: datetime) -> None:
    """Withdraw a base; its row stays for the versions that were bound to it."""
    connection.execute("UPDATE base SET removed_at = ? WHERE id = ?", (to_text(at), row_id))
