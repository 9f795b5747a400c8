"""Snapshots of advisories as JSON: strict, small, and one text for one snapshot."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from loractl_registry.advisories.errors import SnapshotError
from loractl_registry.advisories.model import Advisory, Feature, Package, Severity, Snapshot
from loractl_registry.advisories.ranges import Range, parse_range, parse_version
from loractl_registry.file_errors import shown
from loractl_registry.strict_json import StrictJsonError, parse_object

MAX_SNAPSHOT_BYTES = 4 * 2**20
MAX_ADVISORIES = 10_000
MAX_SUMMARY = 300

_BUNDLED = Path(__file__).with_name("snapshot.json")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def _day(value: object) -> date:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("must be a day such as 2026-01-31")
    return date.fromisoformat(value)


def _range(value: object) -> Range:
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError("must be a range such as >=0.3.0,<0.22.0")
    return parse_range(value)


def _version(value: object) -> object:
    if value is not None and (not isinstance(value, str) or parse_version(value) is None):
        raise ValueError("must be a version or null")
    return value


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9./#_-]{1,99}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SUMMARY, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _AdvisoryText(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: Id
    aliases: Annotated[tuple[Id, ...], Field(max_length=50)] = ()
    package: Package
    affected: Annotated[tuple[Annotated[Range, BeforeValidator(_range)], ...], Field(min_length=1, max_length=1000)]
    fixed_in: Annotated[str | None, BeforeValidator(_version)]
    severity: Severity
    reachable_when: Annotated[tuple[Feature, ...], Field(max_length=20)]
    summary: Line


class _SnapshotText(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    date: Annotated[date, BeforeValidator(_day)]
    advisories: Annotated[tuple[_AdvisoryText, ...], Field(max_length=MAX_ADVISORIES)]


def bundled_snapshot() -> Snapshot:
    """Read the snapshot that this loractl came with."""
    return parse_snapshot(_BUNDLED.read_bytes())


def parse_snapshot(data: bytes) -> Snapshot:
    """Read a snapshot.

    Raises:
        SnapshotError: It is too large, malformed, or says two things of one advisory; the message names the place.
    """
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise SnapshotError(f"they are larger than {MAX_SNAPSHOT_BYTES} bytes")
    try:
        held = parse_object(data)
    except StrictJsonError as error:
        raise SnapshotError(str(error)) from error
    if type(held.get("format")) is not int or held["format"] != 1:
        raise SnapshotError(f"their format is {shown(held.get('format'))}, and this loractl reads format 1")
    try:
        text = _SnapshotText.model_validate(held)
    except ValidationError as error:
        raise SnapshotError(_said(error.errors(include_url=False, include_context=False)[0])) from error
    snapshot = snapshot_of(text.date, [_advisory(each) for each in text.advisories])
    if len({(each.package, each.id) for each in snapshot.advisories}) != len(snapshot.advisories):
        raise SnapshotError("they have one advisory twice")
    return snapshot


def snapshot_of(taken: date, advisories: list[Advisory]) -> Snapshot:
    """Return the snapshot of `advisories`, in their order."""
    return Snapshot(taken, tuple(sorted(advisories, key=lambda each: (each.package.value, each.id))))


def render_snapshot(snapshot: Snapshot) -> bytes:
    """Return the text of `snapshot`, which `parse_snapshot` reads."""
    rows = [
        {
            "id": each.id,
            "aliases": list(each.aliases),
            "package": each.package.value,
            "affected": [str(part) for part in each.affected],
            "fixed_in": each.fixed_in,
            "severity": each.severity.value,
            "reachable_when": [feature.value for feature in each.reachable_when],
            "summary": each.summary,
        }
        for each in snapshot.advisories
    ]
    document = {"format": 1, "date": snapshot.taken.isoformat(), "advisories": rows}
    return (json.dumps(document, indent=2, ensure_ascii=True) + "\n").encode()


def _advisory(text: _AdvisoryText) -> Advisory:
    return Advisory(
        id=text.id,
        aliases=tuple(sorted(set(text.aliases) - {text.id})),
        package=text.package,
        affected=text.affected,
        fixed_in=text.fixed_in,
        severity=text.severity,
        summary=text.summary,
        reachable_when=text.reachable_when,
    )


def _said(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place} is {shown(error['input'])}: {error['msg'].removeprefix('Value error, ')[:200]}"
