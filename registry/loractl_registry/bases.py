"""Admitting, re-checking and withdrawing base models; their files stay where they are."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from loractl_registry._context import Context
from loractl_registry._store import audit, bases, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.bases import StoredBase
from loractl_registry.actors import parse_actor
from loractl_registry.base_files import BaseFiles, check_base, scan_base
from loractl_registry.outcomes import AddedBase, BaseVerification, Damage
from loractl_registry.progress import Progress
from loractl_registry.reading import stored_base
from loractl_registry.records import Base
from loractl_registry.refs import parse_name
from loractl_registry.refusals import BaseDiffersError, BaseInUseError, BaseNotFoundError, NameTakenError
from loractl_registry.sources import opened_base
from loractl_registry.stages import Stage


def add_base(
    context: Context,
    name: str,
    source: str,
    *,
    actor: str,
    licence: str | None,
    revision: str | None,
    progress: Progress,
) -> AddedBase:
    """Hash the files of `source` and admit them; see `Registry.add_base`."""
    name, actor = parse_name(name), parse_actor(actor)
    with context.database.reading() as connection:
        _refuse_adapter_name(connection, name)
    opened = opened_base(source, revision, progress)
    found = opened.provenance
    files = scan_base(opened.folder, progress)
    with context.database.writing() as connection:
        _refuse_adapter_name(connection, name)
        held = bases.find(connection, name)
        if held is not None:
            return AddedBase(_found_again(connection, held, files, found.source, actor, context.clock()), is_new=False)
        base = _base(name, files, found.source, licence or found.licence, actor, context.clock())
        bases.insert(connection, base, files.manifest, files.signatures)
        detail = {"digest": base.digest, "path": str(base.path), "source": base.source}
        audit.append(connection, NewEvent("base.add", name, actor, base.added_at, detail=detail))
    return AddedBase(base, is_new=True)


def verify_base(context: Context, name: str, *, is_full: bool, progress: Progress) -> BaseVerification:
    """Compare the files of a base with its manifest; see `Registry.verify_base`."""
    stored = stored_base(context, name)
    if stored.manifest.digest != stored.base.digest:
        # Statements name the digest of the base, so a manifest with another one says nothing.
        edited = Damage("the manifest", stored.base.digest, stored.manifest.digest)
        return BaseVerification(stored.base, is_intact=False, was_full=is_full, rehashed=0, damaged=(edited,))
    check = check_base(stored.base.path, stored.manifest, stored.signatures, full=is_full, progress=progress)
    # Remembering is for the next quick check alone, and only what was hashed and found right is remembered.
    if check.is_intact and dict(check.signatures) != dict(stored.signatures):
        with context.database.writing() as connection:
            bases.set_signatures(connection, stored.row_id, check.signatures)
    return BaseVerification(stored.base, check.is_intact, is_full, check.rehashed, check.damaged)


def remove_base(context: Context, name: str, *, actor: str) -> Base:
    """Withdraw a base; see `Registry.remove_base`."""
    actor = parse_actor(actor)
    with context.database.writing() as connection:
        held = bases.find(connection, parse_name(name))
        if held is None:
            raise BaseNotFoundError(name)
        open_stages = [stage for stage in Stage if stage not in (Stage.REJECTED, Stage.REVOKED)]
        users = versions.select(connection, context.path_of, base=name, stages=open_stages)
        if users:
            raise BaseInUseError(name, [version.ref for version in users])
        at = context.clock()
        bases.remove(connection, held.row_id, at)
        audit.append(connection, NewEvent("base.remove", name, actor, at, detail={"digest": held.base.digest}))
    return held.base


def _found_again(
    connection: sqlite3.Connection, held: StoredBase, files: BaseFiles, source: str, actor: str, at: datetime
) -> Base:
    """Return the admitted base if `files` are the same, also where they have moved."""
    base = held.base
    if base.digest != files.manifest.digest:
        raise BaseDiffersError(base.name, base.digest, files.manifest.digest)
    bases.set_signatures(connection, held.row_id, files.signatures)
    if base.path == files.folder:
        return base
    bases.set_path(connection, held.row_id, files.folder, source)
    detail = {"from": str(base.path), "to": str(files.folder)}
    audit.append(connection, NewEvent("base.move", base.name, actor, at, detail=detail))
    moved = bases.find(connection, base.name)
    return base if moved is None else moved.base


def _base(name: str, files: BaseFiles, source: str, licence: str | None, actor: str, at: datetime) -> Base:
    return Base(
        name=name,
        digest=files.manifest.digest,
        path=files.folder,
        source=source,
        licence=licence,
        size_bytes=files.manifest.size_bytes,
        file_count=len(files.manifest.files),
        added_at=at,
        added_by=actor,
        config=files.config,
    )


def _refuse_adapter_name(connection: sqlite3.Connection, name: str) -> None:
    if versions.has_name(connection, name):
        raise NameTakenError(name, "an adapter")
