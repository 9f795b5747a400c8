"""Audit events about tenants and keys, each under a seal that only who holds the pepper can make."""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from loractl_registry._faults import reach
from loractl_registry._store import audit
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.rows import to_json
from loractl_registry.clock import to_text
from loractl_registry.tenancy.pepper import Pepper

SEAL = "seal"
_PURPOSE = "tenancy-event/1"
_TENANT, _KEY = "tenant:", "key:"


def tenant_subject(name: str) -> str:
    """Return the subject of events about a tenant; no adapter and no identity can have that name."""
    return f"{_TENANT}{name}"


def key_subject(prefix: str) -> str:
    """Return the subject of events about an API key."""
    return f"{_KEY}{prefix}"


@dataclass(frozen=True, slots=True)
class LastEvent:
    """The newest event about one tenant or one key.

    Attributes:
        at: As the row holds it.
        is_sealed: Whether who wrote it held the pepper, for this place of the log.
    """

    action: str
    at: str
    detail: Mapping[str, object]
    is_sealed: bool


def append_sealed(connection: sqlite3.Connection, event: NewEvent, pepper: Pepper) -> None:
    """Write `event` down, sealed.

    The seal is over its place as well, so that no event can be put back later as the newest one.
    """
    place = (audit.next_sequence(connection), to_text(event.at), event.actor, event.action, event.subject, event.reason)
    audit.append(connection, replace(event, detail={**event.detail, SEAL: _seal(place, event.detail, pepper)}))
    reach("tenancy.before_commit")


def last_tenant_events(connection: sqlite3.Connection, pepper: Pepper) -> Mapping[str, LastEvent]:
    """Return the newest event of every tenant that there ever was, by its name."""
    return _last_events(connection, _TENANT, pepper)


def last_key_events(connection: sqlite3.Connection, pepper: Pepper) -> Mapping[str, LastEvent]:
    """Return the newest event of every key that there ever was, by its prefix."""
    return _last_events(connection, _KEY, pepper)


def has_events(connection: sqlite3.Connection) -> bool:
    """Tell whether there ever was a tenant."""
    query = "SELECT 1 FROM audit WHERE subject >= ? AND subject < ? LIMIT 1"
    return connection.execute(query, _range(_TENANT)).fetchone() is not None


def _last_events(connection: sqlite3.Connection, kind: str, pepper: Pepper) -> Mapping[str, LastEvent]:
    # Beside max(), SQLite gives the other columns of the very row that has it.
    rows = connection.execute(
        "SELECT max(sequence), at, actor, action, subject, reason, detail FROM audit"
        " WHERE subject >= ? AND subject < ? GROUP BY subject",
        _range(kind),
    )
    return {str(row[4]).removeprefix(kind): _last_event(row, pepper) for row in rows}


def _last_event(row: tuple[object, ...], pepper: Pepper) -> LastEvent:
    *place, text = row
    held = json.loads(str(text))
    detail = cast("dict[str, object]", held) if isinstance(held, dict) else {}
    seal = detail.pop(SEAL, None)
    is_sealed = isinstance(seal, str) and hmac.compare_digest(seal.encode(), _seal(place, detail, pepper).encode())
    return LastEvent(action=str(place[3]), at=str(place[1]), detail=detail, is_sealed=is_sealed)


def _seal(place: object, detail: Mapping[str, object], pepper: Pepper) -> str:
    said = to_json([*cast("tuple[object, ...]", place), dict(detail)])
    return f"hmac-sha256:{pepper.mac(_PURPOSE, said.encode('ascii')).hex()}"


def _range(kind: str) -> tuple[str, str]:
    return kind, kind[:-1] + chr(ord(kind[-1]) + 1)
