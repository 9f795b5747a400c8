"""Rows of signed statements. Only the envelope counts: the other columns are an index over what it says."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple


class StoredStatement(NamedTuple):
    """A signed statement as it is kept.

    Attributes:
        digest: Digest of the signed bytes.
        kind: What it does, in one word.
        subject: Ref or identity.
        envelope: The DSSE envelope, JSON in ASCII.
    """

    sequence: int
    digest: str
    kind: str
    subject: str
    envelope: bytes


def append(connection: sqlite3.Connection, stored: StoredStatement) -> None:
    """Write a statement down; its sequence must be the next one."""
    connection.execute(
        "INSERT INTO statement (sequence, digest, kind, subject, envelope) VALUES (?, ?, ?, ?, ?)",
        (stored.sequence, stored.digest, stored.kind, stored.subject, stored.envelope.decode("ascii")),
    )


def envelopes_after(connection: sqlite3.Connection, sequence: int) -> list[bytes]:
    """Return the envelopes of every statement after `sequence`, in order."""
    rows = connection.execute("SELECT envelope FROM statement WHERE sequence > ? ORDER BY sequence", (sequence,))
    return [str(envelope).encode() for (envelope,) in rows]


def select(connection: sqlite3.Connection) -> list[StoredStatement]:
    """Return every statement, in order."""
    # The casts are for who made the table anew, without its types.
    rows = connection.execute(
        "SELECT sequence, ifnull(CAST(digest AS TEXT), ''), ifnull(CAST(kind AS TEXT), ''),"
        " ifnull(CAST(subject AS TEXT), ''), ifnull(CAST(envelope AS BLOB), x'') FROM statement ORDER BY sequence"
    )
    return list(map(StoredStatement._make, rows))


def envelope_at(connection: sqlite3.Connection, sequence: int) -> bytes | None:
    """Return the envelope at `sequence`."""
    row = connection.execute("SELECT envelope FROM statement WHERE sequence = ?", (sequence,)).fetchone()
    return None if row is None else str(row[0]).encode()


def count(connection: sqlite3.Connection) -> int:
    """Return how many statements there are."""
    (number,) = connection.execute("SELECT count(*) FROM statement").fetchone()
    return int(number)
