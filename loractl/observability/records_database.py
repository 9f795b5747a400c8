"""The SQLite file of requests: its schema, appending, and forgetting."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from loractl.observability.outcomes import DropReason
from loractl.observability.record import COLUMNS, Value
from loractl_registry.clock import to_text

RECORDS_FILE = "requests.db"
"""Where servers write records, below the home."""

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE requests (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,
    tenant TEXT NOT NULL,
    adapter TEXT NOT NULL,
    version INTEGER,
    outcome TEXT NOT NULL,
    adapter_digest TEXT,
    base_digest TEXT,
    statement_digest TEXT,
    is_cold INTEGER NOT NULL,
    queue_s REAL NOT NULL,
    first_token_s REAL,
    busy_s REAL NOT NULL,
    total_s REAL NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    content TEXT
) STRICT;
CREATE INDEX requests_at ON requests (at);
"""
_INSERT = f"INSERT OR IGNORE INTO requests ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_TRIMMED_AT_ONCE = 10_000
_FREED_PAGES = 2_000
_WHOLE_DISK = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}
)
_TAKEN = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class SchemaVersionError(sqlite3.DatabaseError):
    """The file was written by another version of loractl."""


class RecordsDatabase:
    """An open file of requests, for one writer. Readers are never in its way, nor it in theirs (WAL).

    Opening creates the file, mode 0600, and its folder, mode 0700.

    Raises:
        sqlite3.Error: The file cannot be used.
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._identity = _identity(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        self._connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA auto_vacuum=INCREMENTAL")
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        found = schema_version(self._connection)
        if found == 0:
            self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
        elif found != SCHEMA_VERSION:
            raise SchemaVersionError(f"schema {found}, not {SCHEMA_VERSION}")

    def is_current(self) -> bool:
        """Whether the path still leads to the file that is open, and not to nothing or to another one."""
        try:
            return _identity(self._path.stat()) == self._identity
        except OSError:
            return False

    def append(self, rows: Iterable[tuple[Value, ...]]) -> None:
        """Add `rows` in one transaction; those whose id is there already are left out."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(_INSERT, rows)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def trim(self, *, now: datetime, max_age: timedelta, max_rows: int) -> int:
        """Forget what is too old or too much, the oldest first and not too much at once; return how many went."""
        run = self._connection.execute
        gone = run(
            "DELETE FROM requests WHERE seq IN (SELECT seq FROM requests WHERE at < ? ORDER BY at LIMIT ?)",
            (to_text(now - max_age), _TRIMMED_AT_ONCE),
        ).rowcount
        gone += run(
            "DELETE FROM requests WHERE seq IN (SELECT seq FROM requests"
            " WHERE seq <= (SELECT max(seq) FROM requests) - ? ORDER BY seq LIMIT ?)",
            (max_rows, _TRIMMED_AT_ONCE),
        ).rowcount
        if gone:
            run(f"PRAGMA incremental_vacuum({_FREED_PAGES})").fetchall()
        return gone

    def close(self) -> None:
        """Close the file; what was appended is kept."""
        self._connection.close()


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the version that the file says it has; 0 for a new one."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


def drop_reason(error: Exception) -> DropReason:
    """Return why records are lost when writing them raised `error`."""
    if isinstance(error, OSError):
        return DropReason.DISK
    # Errors that Python raises itself, and our own, have no code of SQLite's.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _TAKEN:
        return DropReason.LOCKED
    return DropReason.DISK if code in _WHOLE_DISK else DropReason.DATABASE


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
