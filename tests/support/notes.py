"""What somebody with write access to a home can make of its note of what was verified; see `ledger.prefixes`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from support.tampering import DATABASE, run_sql

from loractl_registry import Registry
from loractl_registry._context import Context
from loractl_registry.ledger.chains import Seen, read_checkpoint
from loractl_registry.trust import Chain

NOTE, SECRET = "verified.json", "keys/verified-secret"


def chain_by(
    how: Callable[[Context, sqlite3.Connection, Seen], Chain | None], home: Path, clock: Callable[[], datetime]
) -> Chain:
    """Return the chain as a new process takes it up, by `how` of `ledger.chains`."""
    with Registry.open(home, clock=clock) as fresh:
        context = fresh._context
        seen = read_checkpoint(context)
        with context.database.reading() as connection:
            chain = how(context, connection, seen)
    assert chain is not None
    return chain


def rows_of(home: Path) -> list[tuple[str, str, str, str]]:
    """Return what the database keeps of every statement: digest, kind, subject, envelope."""
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as connection:
        return connection.execute("SELECT digest, kind, subject, envelope FROM statement ORDER BY sequence").fetchall()


def swap_statement(home: Path, sequence: int, **predicate: object) -> None:
    """Change what a statement says, with its digest, and leave its signature and everything behind it."""
    envelope = json.loads(rows_of(home)[sequence - 1][3])
    text, payload = _changed(envelope["payload"], predicate)
    digest = f"sha256:{hashlib.sha256(payload).hexdigest()}"
    told = json.dumps(envelope | {"payload": text}, separators=(",", ":"))
    run_sql(home, f"UPDATE statement SET envelope = '{told}', digest = '{digest}' WHERE sequence = {sequence}")


def _changed(payload: str, predicate: dict[str, object]) -> tuple[str, bytes]:
    body = json.loads(base64.b64decode(payload))
    body["predicate"] |= predicate
    data = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64encode(data).decode(), data


def make_note_fit(home: Path, secret: bytes | None = None) -> None:
    """Make the note say that the statements as they are now were verified, sealed with `secret` or the home's own.

    Without either, the seal stays what it was.
    """
    transcript = hashlib.sha256(b"loractl statements/1\n")
    for fields in (tuple(field.encode() for field in row) for row in rows_of(home)):
        transcript.update(b"%d %d %d %d\n" % (*map(len, fields),) + b"".join(fields))
    note = json.loads((home / NOTE).read_text())
    note |= {"transcript": transcript.hexdigest(), "statements": len(rows_of(home))}
    with contextlib.suppress(FileNotFoundError):
        file = home / SECRET
        found = file.stat()
        key = (file.read_bytes() if secret is None else secret) + b"%d %d" % (found.st_ino, found.st_ctime_ns)
        message = json.dumps(note | {"seal": ""}, sort_keys=True).encode()
        note["seal"] = hmac.digest(key, b"loractl-verified-prefix/1\0" + message, "sha256").hex()
    (home / NOTE).write_text(json.dumps(note))
