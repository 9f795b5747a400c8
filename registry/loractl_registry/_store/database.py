"""One connection to registry.db: how it is opened, how a transaction is held, and what SQLite's errors mean."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType

from loractl_registry._store.migrate import apply_migrations, pending_migrations
from loractl_registry.clock import to_text
from loractl_registry.errors import RegistryError
from loractl_registry.home_errors import (
    DamagedDatabaseError,
    DiskFullError,
    LockedError,
    ReadOnlyError,
    StorageError,
)

_PRIMARY = 0xFF  # SQLite's extended result codes keep the primary one in the low byte


def refusal_of(error: sqlite3.Error, path: Path) -> RegistryError:
    """Return the registry's error for what SQLite said about the database at `path`."""
    match getattr(error, "sqlite_errorcode", 0) & _PRIMARY:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LockedError(path)
        case sqlite3.SQLITE_FULL:
            return DiskFullError(path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return ReadOnlyError(path)
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return DamagedDatabaseError(path, str(error))
        case _:
            return StorageError(path, str(error))


class Database:
    """One connection, usable from any thread, one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._own_commits = 0

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], datetime], busy_timeout_s: float) -> Database:
        """Open or create the database and migrate it.

        Raises:
            NewerDatabaseError: It knows a migration that this loractl does not.
            DamagedDatabaseError: The file is no database, or one of another program.
            LockedError, ReadOnlyError, DiskFullError: As their names say.
        """
        with named_errors(path):
            connection = _connect(path, busy_timeout_s)
        try:
            with named_errors(path):
                _prepare(connection, path, clock)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """Hold the one write transaction; commits at the end, rolls back on any error."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection
        self._own_commits += 1

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Hold a read transaction: everything read inside is of one moment. Joins an open transaction."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
        with self._transaction("BEGIN") as connection:
            yield connection

    def changes(self) -> int:
        """Return a number that differs whenever anything was committed, by this connection or another."""
        with self._lock, named_errors(self.path):
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(version) + self._own_commits

    @contextmanager
    def _transaction(self, begin: str) -> Generator[sqlite3.Connection]:
        with self._lock, named_errors(self.path):
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after a full disk or an I/O error.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def named_errors(path: Path) -> Generator[None]:
    """Turn what SQLite says about the database at `path` into the registry's errors."""
    try:
        yield
    except sqlite3.ProgrammingError:
        # A mistake in the program, such as the use of a closed registry, is no state of the home.
        raise
    except sqlite3.Error as error:
        raise refusal_of(error, path) from error


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection, path: Path, clock: Callable[[], datetime]) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")
    pending = pending_migrations(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if not pending:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated between the look and the lock.
        apply_migrations(connection, pending_migrations(connection, path), to_text(clock()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
