"""Rows of signatures over files. What binds one to a version is the signed statement that it was added by."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from loractl_registry.clock import from_text, to_text


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """A signature over the files of one content, as it is kept.

    Attributes:
        content: Digest of the content.
        digest: Digest of the bundle.
        kind: ``key`` for one that was made here, ``shipped`` for one that came with the files, ``keyless``.
        signer: Id of the key, or what the signature itself says of who made it, where nobody here knows.
        bundle: The signature file.
    """

    content: str
    digest: str
    kind: str
    signer: str
    bundle: bytes
    at: datetime


def append(connection: sqlite3.Connection, stored: StoredSignature) -> None:
    """Keep a signature; one that is kept already stays as it is."""
    held = "SELECT 1 FROM file_signature WHERE content = ? AND digest = ?"
    if connection.execute(held, (stored.content, stored.digest)).fetchone() is None:
        connection.execute(
            "INSERT INTO file_signature (content, digest, kind, signer, bundle, at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                stored.content,
                stored.digest,
                stored.kind,
                stored.signer,
                stored.bundle.decode("utf-8"),
                to_text(stored.at),
            ),
        )


def select(connection: sqlite3.Connection, content: str) -> dict[str, StoredSignature]:
    """Return every signature over `content`, by its digest."""
    rows = connection.execute(
        "SELECT digest, kind, signer, bundle, at FROM file_signature WHERE content = ? ORDER BY at, digest", (content,)
    )
    return {
        str(digest): StoredSignature(content, str(digest), kind, signer, str(bundle).encode(), from_text(at))
        for digest, kind, signer, bundle, at in rows
    }
