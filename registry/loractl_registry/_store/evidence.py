"""Rows of evidence: the bytes, and the numbers that were read from them. What they say of a version is signed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """One piece of evidence as it is kept.

    Attributes:
        statement: Digest of the statement that it was kept by.
        subject: Ref of the version.
        digest: Digest of its bytes.
        metrics: The numbers as JSON.
    """

    statement: str
    subject: str
    digest: str
    metrics: str


def has_body(connection: sqlite3.Connection, digest: str) -> bool:
    """Whether the bytes of a piece of evidence are here, without reading them."""
    return connection.execute("SELECT 1 FROM evidence_body WHERE digest = ?", (digest,)).fetchone() is not None


def append(connection: sqlite3.Connection, stored: StoredEvidence, body: bytes) -> None:
    """Keep a piece of evidence, and its bytes unless they are here already."""
    if not has_body(connection, stored.digest):
        connection.execute("INSERT INTO evidence_body (digest, body) VALUES (?, ?)", (stored.digest, body))
    connection.execute(
        "INSERT INTO evidence (statement, subject, digest, metrics) VALUES (?, ?, ?, ?)",
        (stored.statement, stored.subject, stored.digest, stored.metrics),
    )


def select(connection: sqlite3.Connection, subject: str) -> dict[str, StoredEvidence]:
    """Return the evidence about `subject`, by statement."""
    rows = connection.execute("SELECT statement, subject, digest, metrics FROM evidence WHERE subject = ?", (subject,))
    return {str(row[0]): StoredEvidence(*map(str, row)) for row in rows}


def body_of(connection: sqlite3.Connection, digest: str) -> bytes | None:
    """Return the bytes of a piece of evidence."""
    row = connection.execute("SELECT body FROM evidence_body WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else bytes(row[0])
