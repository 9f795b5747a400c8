"""The SQLite file that keeps one server's counters across a restart.

Not in registry.db: writing there every second would wake everybody who watches it for changes.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from loractl.quotas.counters import SavedCounters
from loractl.quotas.errors import CountersUnusableError
from loractl.quotas.limiter import Saved
from loractl.quotas.windows import Uses

_VERSION = 1
_BUSY_TIMEOUT_S = 5.0
_IMPOSSIBLE = "it holds an amount that nobody can have used"
_SCHEMA = (
    """
CREATE TABLE counters (
    tenant TEXT NOT NULL,
    adapter TEXT NOT NULL,
    wall REAL NOT NULL,
    day TEXT NOT NULL CHECK (day GLOB '????-??-??'),
    day_tokens INTEGER NOT NULL CHECK (day_tokens >= 0),
    requests TEXT NOT NULL CHECK (json_valid(requests)),
    tokens TEXT NOT NULL CHECK (json_valid(tokens)),
    PRIMARY KEY (tenant, adapter)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE latest (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    today TEXT NOT NULL CHECK (today GLOB '????-??-??')
) STRICT
""",
    f"PRAGMA user_version = {_VERSION}",
)


class CounterFile:
    """Reads and writes counters; usable from any thread, one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> CounterFile:
        """Open the file, created if there is none; its folder must exist.

        Raises:
            CountersUnusableError: It cannot be opened, or is not what this loractl writes.
        """
        with _named(path):
            connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            with _named(path):
                _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the file; safe to repeat."""
        self._connection.close()

    def load(self) -> Saved | None:
        """Return what was saved, None if nothing was.

        Raises:
            CountersUnusableError: It cannot be read, or somebody else wrote it.
        """
        with _named(self.path):
            latest = self._connection.execute("SELECT today FROM latest").fetchone()
            rows = self._connection.execute(
                "SELECT tenant, adapter, wall, day, day_tokens, requests, tokens FROM counters"
            ).fetchall()
            if latest is None:
                return None
            return Saved(date.fromisoformat(latest[0]), tuple(_counters(row) for row in rows))

    def save(self, saved: Saved) -> None:
        """Write what changed, in one transaction; it is on the disk when this returns.

        Raises:
            CountersUnusableError: It cannot be written; what was saved before is still there.
        """
        with _named(self.path), self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO counters (tenant, adapter, wall, day, day_tokens, requests, tokens)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_row(one) for one in saved.counters],
            )
            self._connection.executemany("DELETE FROM counters WHERE tenant = ? AND adapter = ?", saved.forgotten)
            self._connection.execute(
                "INSERT OR REPLACE INTO latest (only_row, today) VALUES (1, ?)", (saved.today.isoformat(),)
            )

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite has already rolled back after a full disk or an I/O error.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


@contextmanager
def _named(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise CountersUnusableError(path, str(error)) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version == 0 and not tables:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")
    elif version != _VERSION:
        raise CountersUnusableError(path, "another program, or a newer loractl, wrote it")


def _row(saved: SavedCounters) -> tuple[object, ...]:
    return (
        saved.tenant,
        saved.adapter,
        saved.wall,
        saved.day.isoformat(),
        saved.day_tokens,
        json.dumps(saved.requests),
        json.dumps(saved.tokens),
    )


def _counters(row: tuple[Any, ...]) -> SavedCounters:
    tenant, adapter, wall, day, used, requests, tokens = row
    if used < 0:
        raise ValueError(_IMPOSSIBLE)
    return SavedCounters(tenant, adapter, wall, date.fromisoformat(day), used, _uses(requests), _uses(tokens))


def _uses(text: str) -> Uses:
    uses = tuple((float(began), int(amount)) for began, amount in json.loads(text))
    if not all(math.isfinite(began) and amount >= 0 for began, amount in uses):
        raise ValueError(_IMPOSSIBLE)
    return uses
