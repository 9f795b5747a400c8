"""Moments as they are typed: RFC 3339, a date in UTC, or a span of time from now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_SPAN = re.compile(r"([1-9][0-9]{0,5})\s*(s|m|h|d|w)", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY = timedelta(days=1, microseconds=-1)


def parse_time(text: str) -> datetime:
    """Read a moment up to which something is wanted: a date is the end of that day, ``2h`` is two hours ago.

    Raises:
        typer.BadParameter: It is no moment.
    """
    return _past(text, of_day=_DAY)


def parse_since(text: str) -> datetime:
    """Read a moment from which on something is wanted: a date is the start of that day, ``2h`` is two hours ago.

    Raises:
        typer.BadParameter: It is no moment.
    """
    return _past(text, of_day=timedelta())


def parse_expiry(text: str) -> datetime:
    """Read a moment at which something ends: a date is the end of that day, ``90d`` is in ninety days.

    Raises:
        typer.BadParameter: It is no moment.
    """
    text = text.strip()
    try:
        span = _span(text)
        return _moment(text, of_day=_DAY) if span is None else datetime.now(UTC) + span
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text[:80]!r} is no end; write 90d, 2027-01-31 or 2027-01-31T09:00:00Z") from error


def _past(text: str, *, of_day: timedelta) -> datetime:
    text = text.strip()
    try:
        span = _span(text.removesuffix("ago").rstrip())
        return _moment(text, of_day=of_day) if span is None else datetime.now(UTC) - span
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text[:80]!r} is no time; write 2026-01-31, 2026-01-31T09:00:00Z or 2h") from error


def _span(text: str) -> timedelta | None:
    found = _SPAN.fullmatch(text)
    return None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})


def _moment(text: str, *, of_day: timedelta) -> datetime:
    moment = datetime.fromisoformat(text)
    if _DATE.fullmatch(text):
        moment += of_day
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
