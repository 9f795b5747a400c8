"""What ``--json`` writes: one function a kind of result. Keys are stable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from loractl_registry.records import AdapterVersion, AuditEvent, Base, Provenance, VersionSummary
from loractl_registry.refs import VersionRef

if TYPE_CHECKING:
    from loractl_registry.outcomes import Change, Damage, SignedStanding


def time_text(moment: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).isoformat()[:19] + "Z"


def version_row(version: AdapterVersion) -> dict[str, object]:
    """Return a version as every command that moves one shows it."""
    return {
        "name": version.ref.name,
        "version": version.ref.number,
        "ref": str(version.ref),
        "stage": version.stage.value,
        "base": version.base,
        "digest": version.digest,
        "rank": version.facts.rank,
        "size_bytes": version.size_bytes,
        "added_at": time_text(version.added_at),
        "added_by": version.added_by,
    }


def break_glass_until(ref: VersionRef, broken: Mapping[VersionRef, datetime]) -> str | None:
    """Return until when `ref` is approved without review, None if it was reviewed or is not approved."""
    until = broken.get(ref)
    return None if until is None else time_text(until)


def summary_row(row: VersionSummary, broken: Mapping[VersionRef, datetime]) -> dict[str, object]:
    """Return one row of ``list``: the keys of `version_row`, and until when a broken glass holds."""
    return {
        "name": row.name,
        "version": row.number,
        "ref": f"{row.name}@{row.number}",
        "stage": row.stage,
        "base": row.base,
        "digest": row.digest,
        "rank": row.rank,
        "size_bytes": row.size_bytes,
        "added_at": row.added_at[:19] + "Z",
        "added_by": row.added_by,
        "break_glass_until": break_glass_until(VersionRef(row.name, row.number), broken) if broken else None,
    }


def version_detail(version: AdapterVersion) -> dict[str, object]:
    """Return everything about a version but its files."""
    facts = version.facts
    return version_row(version) | {
        "base_digest": version.base_digest,
        "path": str(version.path),
        "facts": {
            "rank": facts.rank,
            "alpha": facts.alpha,
            "modules": list(facts.modules),
            "experts": facts.experts.value,
            "tensor_count": facts.tensor_count,
            "dtype": facts.dtype,
            "declared_base": facts.declared_base,
        },
        "provenance": provenance(version.provenance),
    }


def provenance(value: Provenance) -> dict[str, object]:
    """Return where a version came from."""
    return {
        "source": value.source,
        "commit": value.commit,
        "author": value.author,
        "licence": value.licence,
        "datasets": list(value.datasets),
        "code_commit": value.code_commit,
        "note": value.note,
        "extra": dict(value.extra),
        "dataset_terms": [plain(each) for each in value.dataset_terms],
    }


def base_row(base: Base) -> dict[str, object]:
    """Return one row of ``base list``."""
    return {
        "name": base.name,
        "digest": base.digest,
        "path": str(base.path),
        "source": base.source,
        "licence": base.licence,
        "architecture": base.config.get("model_type"),
        "size_bytes": base.size_bytes,
        "file_count": base.file_count,
        "added_at": time_text(base.added_at),
        "added_by": base.added_by,
    }


def event_row(event: AuditEvent) -> dict[str, object]:
    """Return one row of ``history``."""
    return {
        "sequence": event.sequence,
        "at": time_text(event.at),
        "actor": event.actor,
        "action": event.action,
        "subject": event.subject,
        "from_stage": event.from_stage.value if event.from_stage else None,
        "to_stage": event.to_stage.value if event.to_stage else None,
        "reason": event.reason,
        "detail": dict(event.detail),
    }


def signed(standing: SignedStanding) -> dict[str, object]:
    """Return where a version stands by what was signed."""
    return {
        "stage": standing.stage.value if standing.stage else None,
        "by": standing.by,
        "sequence": standing.sequence,
        "expires": time_text(standing.expires) if standing.expires else None,
        "objection": standing.objection,
        "break_glass": standing.break_glass,
    }


def damage_rows(damaged: Sequence[Damage]) -> list[dict[str, object]]:
    """Return the files that are not what their manifest says."""
    return [{"path": one.path, "expected": one.expected, "found": one.found} for one in damaged]


def change_rows(changes: Sequence[Change]) -> list[dict[str, object]]:
    """Return what differs, with both sides."""
    return [{"name": one.name, "before": plain(one.before), "after": plain(one.after)} for one in changes]


def refs(values: Sequence[VersionRef]) -> list[str]:
    """Return refs as text."""
    return [str(value) for value in values]


def plain(value: object) -> object:
    """Return `value` in types that JSON has."""
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {str(key): plain(item) for key, item in items.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
