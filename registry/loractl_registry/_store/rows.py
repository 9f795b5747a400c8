"""Between rows and records: the text that a column holds, and the value that the program uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from loractl_registry.clock import from_text
from loractl_registry.records import (
    AdapterFacts,
    AdapterVersion,
    AuditEvent,
    Base,
    DataSetTerms,
    ExpertLayout,
    FileEntry,
    Manifest,
    Provenance,
)
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

Row = tuple[Any, ...]
_parse = json.JSONDecoder().decode
ContentPaths = Callable[[str], Path]


def to_json(value: object) -> str:
    """Write `value` the one way that it is stored: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def manifest_to_json(manifest: Manifest) -> str:
    """Write the files of `manifest` as rows of path, size and digest."""
    return to_json([[entry.path, entry.size_bytes, entry.digest] for entry in manifest.files])


def manifest_from_json(text: str) -> Manifest:
    """Read what `manifest_to_json` wrote."""
    return Manifest(tuple(FileEntry(path, size, digest) for path, size, digest in json.loads(text)))


def facts_to_dict(facts: AdapterFacts) -> dict[str, object]:
    """Return `facts` as JSON values."""
    return {
        "rank": facts.rank,
        "alpha": facts.alpha,
        "modules": list(facts.modules),
        "experts": facts.experts.value,
        "tensor_count": facts.tensor_count,
        "dtype": facts.dtype,
        "declared_base": facts.declared_base,
    }


@lru_cache(maxsize=1024)
def facts_from_json(text: str) -> AdapterFacts:
    """Read the JSON of `facts_to_dict`; kept, because most of ten thousand versions say the same."""
    held = json.loads(text)
    return AdapterFacts(
        rank=held["rank"],
        alpha=held["alpha"],
        modules=tuple(held["modules"]),
        experts=ExpertLayout(held["experts"]),
        tensor_count=held["tensor_count"],
        dtype=held["dtype"],
        declared_base=held["declared_base"],
    )


def provenance_to_dict(provenance: Provenance) -> dict[str, object]:
    """Return `provenance` as JSON values, without what nobody said."""
    values: dict[str, object] = {
        "source": provenance.source,
        "commit": provenance.commit,
        "author": provenance.author,
        "licence": provenance.licence,
        "datasets": list(provenance.datasets),
        "code_commit": provenance.code_commit,
        "note": provenance.note,
        "extra": dict(provenance.extra),
        "dataset_terms": [_terms_to_dict(terms) for terms in provenance.dataset_terms],
    }
    return {key: value for key, value in values.items() if value not in (None, [], {})}


def _terms_to_dict(terms: DataSetTerms) -> dict[str, str]:
    values = {"name": terms.name, "licence": terms.licence, "data_class": terms.data_class}
    return {key: value for key, value in values.items() if value is not None}


def provenance_from_json(text: str) -> Provenance:
    """Read the JSON of `provenance_to_dict`."""
    held: dict[str, Any] = _parse(text)
    if datasets := held.get("datasets"):
        held["datasets"] = tuple(datasets)
    if terms := held.get("dataset_terms"):
        held["dataset_terms"] = tuple(DataSetTerms(**each) for each in terms)
    return Provenance(**held)


def version_from_row(row: Row, contents: ContentPaths) -> AdapterVersion:
    """Build a version from the columns of `versions.COLUMNS`."""
    name, number, stage, digest, size_bytes, base, base_digest, facts, provenance, added_at, added_by = row
    return AdapterVersion(
        ref=VersionRef(name, number),
        stage=Stage(stage),
        digest=digest,
        path=contents(digest),
        size_bytes=size_bytes,
        base=base,
        base_digest=base_digest,
        facts=facts_from_json(facts),
        provenance=provenance_from_json(provenance),
        added_at=from_text(added_at),
        added_by=added_by,
    )


def base_from_row(row: Row) -> Base:
    """Build a base from the columns of `bases.COLUMNS`."""
    name, digest, path, source, licence, size_bytes, file_count, added_at, added_by, config = row
    return Base(
        name=name,
        digest=digest,
        path=Path(path),
        source=source,
        licence=licence,
        size_bytes=size_bytes,
        file_count=file_count,
        added_at=from_text(added_at),
        added_by=added_by,
        config=json.loads(config),
    )


def event_from_row(row: Row) -> AuditEvent:
    """Build an audit event from the columns of `audit.COLUMNS`."""
    sequence, at, actor, action, subject, from_stage, to_stage, reason, detail = row
    held: Mapping[str, object] = json.loads(detail)
    return AuditEvent(
        sequence=sequence,
        at=from_text(at),
        actor=actor,
        action=action,
        subject=subject,
        from_stage=None if from_stage is None else Stage(from_stage),
        to_stage=None if to_stage is None else Stage(to_stage),
        reason=reason,
        detail=held,
    )
