"""Comparing versions, and stored files with their manifests."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._store import versions
from loractl_registry._store.rows import facts_to_dict, provenance_to_dict
from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.home_errors import os_errors_named
from loractl_registry.outcomes import Change, Damage, TensorSummary, VersionDiff, VersionVerification
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion, Manifest
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import CollectedError
from loractl_registry.safetensors_header import open_safetensors_header

_CHUNK = 1 << 20


def verify(context: Context, refs: Sequence[Ref | VersionRef]) -> tuple[VersionVerification, ...]:
    """Hash the stored files of `refs`, or of every version; see `Registry.verify`."""
    from loractl_registry.ledger.file_signatures import damaged_signatures  # cryptography, which diff does without

    with context.database.reading() as connection:
        found = [get_version(context, ref) for ref in refs] if refs else versions.select(connection, context.path_of)
        collected = versions.collected(connection)
        manifests = versions.manifests(connection)
    signed = damaged_signatures(context, found)
    damage: dict[str, tuple[Damage, ...]] = {}
    for digest in {version.digest for version in found} - set(collected):
        damage[digest] = damage_of(context, digest, manifests[digest])
    return tuple(_verified(version, damage.get(version.digest, ()), signed, collected) for version in found)


def verify_bytes(context: Context, found: Sequence[AdapterVersion]) -> tuple[VersionVerification, ...]:
    """Hash the stored files of `found`, as their rows name them; see `Attested.verify_bytes`."""
    with context.database.reading() as connection:
        manifests = {version.digest: versions.manifest_of(connection, version.digest) for version in found}
    damage = {digest: damage_of(context, digest, manifest) for digest, manifest in manifests.items()}
    return tuple(_verified(version, damage[version.digest], {}, {}) for version in found)


def _verified(
    version: AdapterVersion,
    damaged: tuple[Damage, ...],
    signed: Mapping[VersionRef, tuple[Damage, ...]],
    collected: Mapping[str, datetime],
) -> VersionVerification:
    damaged = (*damaged, *signed.get(version.ref, ()))
    return VersionVerification(version.ref, not damaged, damaged, collected.get(version.digest))


def damage_of(context: Context, digest: str, manifest: Manifest) -> tuple[Damage, ...]:
    """Hash one content. What gc removes meanwhile is collected, not damaged."""
    damaged = context.contents.verify(digest, manifest)
    if not damaged:
        return ()
    with context.database.reading() as connection:
        return () if digest in versions.collected(connection) else damaged


def diff(context: Context, a: Ref | VersionRef, b: Ref | VersionRef) -> VersionDiff:
    """Say what differs between two versions; see `Registry.diff`."""
    with context.database.reading() as connection:
        before, after = get_version(context, a), get_version(context, b)
        files = [
            {entry.path: entry.digest for entry in versions.manifest_of(connection, version.digest).files}
            for version in (before, after)
        ]
        for version in (before, after):
            refuse_collected(connection, version)
    same_weights = files[0].get(WEIGHTS) == files[1].get(WEIGHTS)
    return VersionDiff(
        before,
        after,
        facts=_changes(facts_to_dict(before.facts), facts_to_dict(after.facts)),
        provenance=_changes(provenance_to_dict(before.provenance), provenance_to_dict(after.provenance)),
        files=_changes(files[0], files[1]),
        tensors=() if same_weights else _changes(_tensors(before), _tensors(after)),
    )


def refuse_collected(connection: sqlite3.Connection, version: AdapterVersion) -> None:
    """Return if the files of `version` should be in the store.

    Raises:
        CollectedError: gc has removed them.
    """
    at = versions.collected(connection).get(version.digest)
    if at is not None:
        raise CollectedError(version.ref, at)


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[Change, ...]:
    names = sorted(set(before) | set(after))
    return tuple(Change(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n))


def _tensors(version: AdapterVersion) -> dict[str, TensorSummary]:
    path = version.path / WEIGHTS
    with os_errors_named(path):
        header = open_safetensors_header(path)
        return {
            name: TensorSummary(
                info.dtype,
                tuple(info.shape),
                _digest_of_range(path, header.data_offset + info.start, info.end - info.start),
            )
            for name, info in header.tensors.items()
        }


def _digest_of_range(path: Path, start: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(start)
        while size and (chunk := stream.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
    return f"sha256:{digest.hexdigest()}"
