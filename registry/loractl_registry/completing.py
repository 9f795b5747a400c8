"""What tab completion offers: read-only, limited, quick, and empty on any trouble."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from loractl_registry.stages import PROMOTABLE, Stage, Verb, climb, sources_of

LIMIT = 200
"""More rows than this help nobody who presses Tab."""

_BUSY_TIMEOUT_S = 0.05
_AFTER_ALL_NAMES = "\x7f"  # sorts behind every character that a name may hold
_CATCHABLE = (sqlite3.Error, OSError, ValueError)  # a shell must never see a traceback for pressing Tab


def names(home: Path, incomplete: str = "") -> list[str]:
    """Return the names of adapters that begin with `incomplete`."""
    return [
        str(name)
        for (name,) in _rows(
            home,
            "SELECT DISTINCT name FROM version WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",
            (incomplete, incomplete + _AFTER_ALL_NAMES, LIMIT),
        )
    ]


def bases(home: Path, incomplete: str = "") -> list[str]:
    """Return the names of admitted bases that begin with `incomplete`."""
    return [
        str(name)
        for (name,) in _rows(
            home,
            "SELECT name FROM base WHERE removed_at IS NULL AND name >= ? AND name < ? ORDER BY name LIMIT ?",
            (incomplete, incomplete + _AFTER_ALL_NAMES, LIMIT),
        )
    ]


def refs(home: Path, incomplete: str = "", stages: Sequence[Stage] = tuple(Stage)) -> list[tuple[str, str]]:
    """Return refs of versions in `stages` that begin with `incomplete`, newest first, each with its stage."""
    name, at, number = incomplete.partition("@")
    upper = name if at else name + _AFTER_ALL_NAMES
    marks = ", ".join("?" * len(stages))
    rows = _rows(
        home,
        "SELECT name, number, stage FROM version WHERE name >= ? AND name <= ?"  # noqa: S608 constants and marks alone
        f" AND stage IN ({marks}) AND CAST(number AS TEXT) LIKE ? ORDER BY name, number DESC LIMIT ?",
        (name, upper, *stages, f"{number}%" if number.isdecimal() else "%" if not number else "", LIMIT),
    )
    return [(f"{row_name}@{row_number}", str(stage)) for row_name, row_number, stage in rows]


def promotable(home: Path, incomplete: str = "", to: Stage | None = None) -> list[tuple[str, str]]:
    """Return the refs that ``promote`` can move, up to `to` if that is given."""
    return refs(home, incomplete, [stage for stage in PROMOTABLE if climb(stage, to)])


def movable(home: Path, verb: Verb, incomplete: str = "") -> list[tuple[str, str]]:
    """Return the refs that ``demote``, ``reject``, ``retire`` or ``revoke`` can move."""
    return refs(home, incomplete, sources_of(verb))


def servable(home: Path, incomplete: str = "") -> list[tuple[str, str]]:
    """Return the refs that a server may answer from."""
    return refs(home, incomplete, [stage for stage in Stage if stage.is_servable])


def rollbackable(home: Path, incomplete: str = "") -> list[str]:
    """Return the names with an approved version that was live before, which is what ``rollback`` looks for."""
    return [
        str(name)
        for (name,) in _rows(
            home,
            "SELECT DISTINCT v.name FROM version v WHERE v.stage = 'approved' AND v.name >= ? AND v.name < ?"
            " AND EXISTS (SELECT 1 FROM audit a WHERE a.subject = v.name || '@' || v.number AND a.to_stage = 'live')"
            " ORDER BY v.name LIMIT ?",
            (incomplete, incomplete + _AFTER_ALL_NAMES, LIMIT),
        )
    ]


def tenants(home: Path, incomplete: str = "") -> list[str]:
    """Return the names of tenants that begin with `incomplete`."""
    return [
        str(name)
        for (name,) in _rows(
            home,
            "SELECT name FROM tenant WHERE removed_at IS NULL AND name >= ? AND name < ? ORDER BY name LIMIT ?",
            (incomplete, incomplete + _AFTER_ALL_NAMES, LIMIT),
        )
    ]


def api_keys(home: Path, incomplete: str = "") -> list[tuple[str, str]]:
    """Return the prefixes, which begin with `incomplete`, of keys that can be revoked, each with its tenant."""
    rows = _rows(
        home,
        "SELECT k.prefix, t.name FROM api_key k JOIN tenant t ON t.id = k.tenant_id"
        " WHERE k.revoked_at IS NULL AND k.prefix >= ? AND k.prefix < ? ORDER BY k.prefix LIMIT ?",
        (incomplete, incomplete + _AFTER_ALL_NAMES, LIMIT),
    )
    return [(str(prefix), str(tenant)) for prefix, tenant in rows]


def _rows(home: Path, query: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
    try:
        path = home / "registry.db"
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()
    except _CATCHABLE:
        return []
