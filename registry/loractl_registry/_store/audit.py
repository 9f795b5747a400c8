"""The audit log: one row a change, in the order in which they happened, each chained to the one before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from loractl_registry._store.chaining import GENESIS, Value, broken_rows, chained_digest
from loractl_registry._store.rows import event_from_row, to_json
from loractl_registry.clock import to_text
from loractl_registry.records import AuditEvent
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

BREAK_GLASS = "adapter.break_glass"
COLUMNS = "sequence, at, actor, action, subject, from_stage, to_stage, reason, detail"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A change that is about to be written down."""

    action: str
    subject: str
    actor: str
    at: datetime
    from_stage: Stage | None = None
    to_stage: Stage | None = None
    reason: str | None = None
    detail: Mapping[str, object] = field(default_factory=dict[str, object])


def next_sequence(connection: sqlite3.Connection) -> int:
    """Return the sequence of the event that is appended next."""
    # Rows are never deleted, so a gap in the sequences shows that the end was cut off.
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
    return 1 if last is None else int(last[0]) + 1


def append(connection: sqlite3.Connection, event: NewEvent) -> None:
    """Write `event` down, chained to the row before it."""
    before = connection.execute("SELECT digest FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    row = (
        next_sequence(connection),
        to_text(event.at),
        event.actor,
        event.action,
        event.subject,
        None if event.from_stage is None else event.from_stage.value,
        None if event.to_stage is None else event.to_stage.value,
        event.reason,
        to_json(dict(event.detail)),
    )
    digest = chained_digest(GENESIS if before is None else str(before[0]), row)
    connection.execute(f"INSERT INTO audit ({COLUMNS}, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, digest))  # noqa: S608 constants and marks alone


def broken_links(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield one line per row that was edited, removed or put in from outside."""
    yield from broken_rows(rows(connection))


def rows(connection: sqlite3.Connection) -> Iterator[tuple[Value, ...]]:
    """Yield every row in order, its columns and then its digest."""
    yield from connection.execute(f"SELECT {COLUMNS}, digest FROM audit ORDER BY sequence")  # noqa: S608 constants


def newest(
    connection: sqlite3.Connection, *, subject: str | None, since: datetime | None, limit: int | None
) -> tuple[AuditEvent, ...]:
    """Return the newest `limit` events about `subject` since `since`, oldest first; a name stands for its versions."""
    clauses, values = ["1"], list[object]()
    if subject is not None:
        clauses.append("(subject = ? OR (subject >= ? AND subject < ?))")
        values += [subject, f"{subject}@", f"{subject}A"]
    if since is not None:
        clauses.append("at >= ?")
        values.append(to_text(since))
    values.append(-1 if limit is None else limit)
    found = connection.execute(
        f"SELECT {COLUMNS} FROM audit WHERE {' AND '.join(clauses)} ORDER BY sequence DESC LIMIT ?",  # noqa: S608 constants and marks alone
        values,
    )
    return tuple(event_from_row(row) for row in reversed(found.fetchall()))


def events(
    connection: sqlite3.Connection, *, name: str | None = None, until: datetime | None = None
) -> tuple[AuditEvent, ...]:
    """Return the events of the adapter or base `name`, or all, up to and including `until`."""
    clauses, values = ["1"], list[object]()
    if name is not None:
        # '@' < 'A' in ASCII, so the range holds exactly the refs of this name and can use the index.
        clauses.append("(subject = ? OR (subject >= ? AND subject < ?))")
        values += [name, f"{name}@", f"{name}A"]
    if until is not None:
        clauses.append("at <= ?")
        values.append(to_text(until))
    rows = connection.execute(f"SELECT {COLUMNS} FROM audit WHERE {' AND '.join(clauses)} ORDER BY sequence", values)  # noqa: S608 constants and marks alone
    return tuple(event_from_row(row) for row in rows)


def broken_glass(connection: sqlite3.Connection) -> dict[str, str]:
    """Return until when versions are approved for which the glass was broken, by ref, as rows and events say it."""
    query = """
        SELECT subject, json_extract(detail, '$.expires') FROM audit AS broken
        WHERE action = ? AND NOT EXISTS (
            SELECT 1 FROM audit AS later
            WHERE later.subject = broken.subject AND later.sequence > broken.sequence
            AND (later.action = broken.action OR later.to_stage NOT IN ('approved', 'live')
                 OR (later.to_stage = 'approved' AND later.from_stage <> 'live')))
    """
    return {str(subject): str(expires) for subject, expires in connection.execute(query, (BREAK_GLASS,))}


def last_sequence(connection: sqlite3.Connection) -> int:
    """Return the sequence of the newest event, 0 if there is none."""
    (sequence,) = connection.execute("SELECT coalesce(max(sequence), 0) FROM audit").fetchone()
    return int(sequence)


def named_statements(connection: sqlite3.Connection) -> set[str]:
    """Return the digests of the signed statements that events name."""
    rows = connection.execute("SELECT json_extract(detail, '$.statement') FROM audit")
    return {str(digest) for (digest,) in rows if digest is not None}


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """A version that entered or left live."""

    action: str
    ref: VersionRef
    entered: bool


def live_events(
    connection: sqlite3.Connection, *, name: str | None = None, until: datetime | None = None
) -> tuple[LiveEvent, ...]:
    """Return who entered and left live, oldest first."""
    clauses, values = ["(to_stage = 'live' OR from_stage = 'live')"], list[object]()
    if name is not None:
        clauses.append("subject >= ? AND subject < ?")
        values += [f"{name}@", f"{name}A"]
    if until is not None:
        clauses.append("at <= ?")
        values.append(to_text(until))
    condition = " AND ".join(clauses)
    query = f"SELECT action, subject, to_stage FROM audit WHERE {condition} ORDER BY sequence"  # noqa: S608 constants and marks alone
    rows = connection.execute(query, values)
    return tuple(LiveEvent(action, _ref(subject), to_stage == Stage.LIVE) for action, subject, to_stage in rows)


def _ref(subject: str) -> VersionRef:
    name, _, number = subject.partition("@")
    return VersionRef(name, int(number))
