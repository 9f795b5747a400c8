"""Bring a database to the schema of this loractl, one named migration after another."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from loractl_registry._store.chaining import chaining
from loractl_registry.home_errors import DamagedDatabaseError, NewerDatabaseError

_FOLDER = Path(__file__).parent / "migrations"
_FILE = re.compile(r"(\d{4}_[a-z0-9_]+)\.sql")
_LEDGER = """
CREATE TABLE IF NOT EXISTS migration (
    name TEXT PRIMARY KEY CHECK (name GLOB '[0-9][0-9][0-9][0-9]_*'),
    applied_at TEXT NOT NULL CHECK (applied_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT, WITHOUT ROWID
"""


def known_migrations() -> tuple[str, ...]:
    """Return the names of all migrations, in order."""
    names = (_FILE.fullmatch(entry.name) for entry in _FOLDER.iterdir())
    return tuple(sorted(match.group(1) for match in names if match))


def pending_migrations(connection: sqlite3.Connection, path: Path) -> tuple[str, ...]:
    """Return the migrations that the database at `path` lacks.

    Raises:
        NewerDatabaseError: The database names a migration that this loractl does not know.
        DamagedDatabaseError: It is a database of another program.
    """
    known = known_migrations()
    tables = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "migration" not in tables:
        if tables:
            raise DamagedDatabaseError(path, "a database of another program")
        return known
    applied = [str(name) for (name,) in connection.execute("SELECT name FROM migration ORDER BY name")]
    for name in applied:
        if name not in known:
            raise NewerDatabaseError(path, name)
    return tuple(name for name in known if name not in applied)


def apply_migrations(connection: sqlite3.Connection, names: tuple[str, ...], at: str) -> None:
    """Apply `names` inside the transaction that the caller holds."""
    connection.execute(_LEDGER)
    connection.create_function("audit_digest", -1, chaining())
    for name in names:
        for statement in statements_of((_FOLDER / f"{name}.sql").read_text()):
            connection.execute(statement)
        connection.execute("INSERT INTO migration (name, applied_at) VALUES (?, ?)", (name, at))


def statements_of(script: str) -> Iterator[str]:
    """Split `script`; `executescript` would commit the caller's transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        if not statement and (not line.strip() or line.startswith("--")):
            continue
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
