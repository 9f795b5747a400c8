"""Admitting, re-checking and withdrawing base models; their files stay where they are."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import datetime

from loractl_registry._context import Context
from loractl_registry._store import audit, bases, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.bases import StoredBase
from loractl_registry.actors import parse_actor
from loractl_registry.base_files import BaseFiles, check_base, scan_base
from loractl_registry.ledger.admissions import admissions_of, objection_to_base, sign_admission, sign_withdrawal
from loractl_registry.ledger.chains import read_checkpoint, resumed_chain
from loractl_registry.ledger.identities import acting_identity
from loractl_registry.ledger.judging import home_policy
from loractl_registry.ledger.pen import Pen, signed_writing
from loractl_registry.model_card import MAX_TEXT_LENGTH
from loractl_registry.outcomes import AddedBase, BaseVerification, Damage
from loractl_registry.progress import Progress
from loractl_registry.reading import stored_base
from loractl_registry.records import Base
from loractl_registry.refs import parse_name
from loractl_registry.refusals import (
    BaseDiffersError,
    BaseInUseError,
    BaseNotFoundError,
    NameTakenError,
    ProvenanceError,
)
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
    _require_licence(licence)
    _require_signer(context, name, actor)
    opened = opened_base(source, revision, progress)
    found = opened.provenance
    files = scan_base(opened.folder, progress)
    with signed_writing(context, actor=actor) as pen:
        connection = pen.connection
        _refuse_adapter_name(connection, name)
        held = bases.find(connection, name)
        base = _base(name, files, found.source, licence or found.licence, actor, pen.at)
        if held is not None:
            return AddedBase(_found_again(pen, held, base, files), is_new=False)
        # Signed before the row is there, so that a chain that begins here does not adopt it as older than itself.
        signed = sign_admission(pen, base)
        bases.insert(connection, base, files.manifest, files.signatures)
        detail = {"digest": base.digest, "path": str(base.path), "source": base.source, **signed}
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
    with signed_writing(context, actor=actor) as pen:
        connection = pen.connection
        held = bases.find(connection, parse_name(name))
        if held is None:
            raise BaseNotFoundError(name)
        open_stages = [stage for stage in Stage if stage not in (Stage.REJECTED, Stage.REVOKED)]
        users = versions.select(connection, context.path_of, base=name, stages=open_stages)
        if users:
            raise BaseInUseError(name, [version.ref for version in users])
        detail = {"digest": held.base.digest, **sign_withdrawal(pen, held.base)}
        bases.remove(connection, held.row_id, pen.at)
        audit.append(connection, NewEvent("base.remove", name, actor, pen.at, detail=detail))
    return held.base


def _found_again(pen: Pen, held: StoredBase, found: Base, files: BaseFiles) -> Base:
    """Return the admitted base if its files are the same, also where they have moved; sign where nobody has.

    What a row says that is not what was signed is replaced by what was said now, never signed for.
    """
    connection, base = pen.connection, held.base
    if base.digest != found.digest:
        raise BaseDiffersError(base.name, base.digest, found.digest)
    bases.set_signatures(connection, held.row_id, files.signatures)
    is_signed = objection_to_base(base, admissions_of(pen.context, pen.chain)) is None
    has_moved = base.path != found.path
    if is_signed and not has_moved:
        return base
    fresh = replace(base, path=found.path, source=found.source, licence=base.licence if is_signed else found.licence)
    signed = sign_admission(pen, fresh)
    bases.set_origin(connection, held.row_id, fresh.path, fresh.source, fresh.licence)
    moved = {"from": str(base.path), "to": str(fresh.path)} if has_moved else {"digest": base.digest}
    action = "base.move" if has_moved else "base.admit"
    audit.append(connection, NewEvent(action, base.name, pen.actor, pen.at, detail={**moved, **signed}))
    return fresh


def _require_signer(context: Context, name: str, actor: str) -> None:
    """Return if somebody can sign, before gigabytes are hashed for nothing; the write transaction asks again."""
    seen = read_checkpoint(context)
    with context.database.reading() as connection:
        _refuse_adapter_name(connection, name)
        chain = resumed_chain(context, connection, seen)
    acting_identity(context, chain, home_policy(context), actor=actor)


def _require_licence(licence: str | None) -> None:
    if licence is not None and (not licence.strip() or len(licence) > MAX_TEXT_LENGTH or not licence.isprintable()):
        hint = f"write an SPDX identifier, at most {MAX_TEXT_LENGTH} characters"
        raise ProvenanceError(f"licence is {licence[:80]!r}", hint=hint)


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
