"""Time as the registry keeps it: aware UTC, stored as RFC 3339 text that sorts by time."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """Write `moment` in UTC with microseconds, such as ``2026-01-31T09:00:00.000000Z``.

    Raises:
        ValueError: `moment` is naive; guessing a time zone would falsify the audit log.
    """
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()} has no time zone")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def from_text(text: str) -> datetime:
    """Read what `to_text` wrote."""
    return datetime.fromisoformat(text)
