"""Adding a version: verify and store the files first, then commit the row that makes them a version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._files import TEMPORARY
from loractl_registry._lease import writing_lease
from loractl_registry._store import audit, bases, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor
from loractl_registry.binding import choose_base
from loractl_registry.errors import RegistryError
from loractl_registry.outcomes import AddedVersion
from loractl_registry.progress import Progress
from loractl_registry.provenance import ProvenanceInput, joined, read_stated
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion, Base, Provenance
from loractl_registry.refs import VersionRef, parse_name
from loractl_registry.refusals import BoundElsewhereError, NameTakenError
from loractl_registry.sources import opened_adapter
from loractl_registry.stages import Stage

if TYPE_CHECKING:
    from loractl_registry.content import Ingested
    from loractl_registry.ledger.keeping import Shipped
    from loractl_registry.ledger.pen import Pen


def add(
    context: Context,
    name: str,
    source: str,
    *,
    actor: str,
    base: str | None,
    said: ProvenanceInput,
    progress: Progress,
) -> AddedVersion:
    """Store the files of `source` as a version of `name`; see `Registry.add`."""
    name, actor, stated = parse_name(name), parse_actor(actor), read_stated(said)
    with context.database.reading() as connection:
        refuse_base_name(connection, name)
        choose_base(bases.select(connection), base, None)
    with writing_lease(context.home), opened_adapter(source, context.home / TEMPORARY, progress) as opened:
        ingested = context.contents.ingest(opened.folder, progress)
        provenance = joined(opened.provenance, stated)

        def drafted(connection: sqlite3.Connection, shipped: Shipped | None = None) -> Draft:
            declared = ingested.facts.declared_base or opened.declared_base
            chosen = choose_base(bases.select(connection), base, declared)
            return Draft(name, ingested, chosen, base is not None, provenance, shipped=shipped)

        with withdrawn_on_failure(context, [ingested]):
            added = _added_again(context, name, ingested, drafted, actor=actor)
            if added is None:
                added = _added_new(context, opened.folder, ingested, drafted, actor=actor)
    reach("add.after_commit")
    return added


def _added_again(
    context: Context, name: str, ingested: Ingested, drafted: Callable[[sqlite3.Connection], Draft], *, actor: str
) -> AddedVersion | None:
    """Return the version that holds the same bytes, healed and bound; None if there is none. Nothing is signed."""
    with context.database.reading() as connection:
        if versions.find_same(connection, context.path_of, name, ingested.manifest.digest) is None:
            return None
    with context.database.writing() as connection:
        return _found(context, connection, drafted(connection), actor=actor, at=context.clock())


def _added_new(
    context: Context,
    folder: Path,
    ingested: Ingested,
    drafted: Callable[[sqlite3.Connection, Shipped | None], Draft],
    *,
    actor: str,
) -> AddedVersion:
    # Cryptography and what signs files take as long to import as all the rest: not for bytes that are there already.
    from loractl_registry.ledger.keeping import shipped_with
    from loractl_registry.ledger.pen import signed_writing
    from loractl_registry.signatures import prepare_signing

    shipped = shipped_with(context, folder, ingested.manifest)
    prepare_signing()
    with signed_writing(context, actor=actor) as pen:
        added = store(pen, drafted(pen.connection, shipped))
        reach("add.before_commit")
    return added


@dataclass(frozen=True, slots=True)
class Draft:
    """Ingested files that are about to become a version.

    Attributes:
        base_is_said: Somebody said the base, so that a version with the same bytes must belong to it too.
        detail: What the audit event says beside the base and the digest.
        shipped: The signature that lay beside the files.
    """

    name: str
    ingested: Ingested
    base: Base | None
    base_is_said: bool
    provenance: Provenance
    detail: Mapping[str, object] = field(default_factory=dict[str, object])
    shipped: Shipped | None = None


def store(pen: Pen, draft: Draft) -> AddedVersion:
    """Put the files of `draft` in their place, write its row and sign for it, or find the version that holds them."""
    from loractl_registry.ledger.keeping import sign_addition  # cryptography, as above

    context, connection, actor, at = pen.context, pen.connection, pen.actor, pen.at
    if (found := _found(context, connection, draft, actor=actor, at=at)) is not None:
        return found
    manifest = draft.ingested.manifest
    signer = pen.place()["signer"].identity  # whoever may not sign is refused before a file is in its place
    draft.ingested.publish()
    reach("add.after_rename")
    ref = VersionRef(draft.name, versions.next_number(connection, draft.name))
    held = None if draft.base is None else bases.find(connection, draft.base.name)
    versions.put_content(connection, manifest, draft.ingested.facts)
    versions.insert(
        connection,
        ref,
        digest=manifest.digest,
        base_id=None if held is None else held.row_id,
        provenance=draft.provenance,
        added_at=at,
        added_by=actor,
    )
    shipped = [] if draft.shipped is None else [draft.shipped]
    statement, *signatures = sign_addition(pen, ref, manifest, draft.provenance, shipped)
    detail = {"digest": manifest.digest, "source": draft.provenance.source, **_base_detail(draft.base), **draft.detail}
    detail |= {"statement": statement, "signer": signer, "signatures": signatures}
    audit.append(connection, NewEvent("adapter.add", str(ref), actor, at, to_stage=Stage.DRAFT, detail=detail))
    return AddedVersion(get_version(context, ref), is_new=True)


def _found(
    context: Context, connection: sqlite3.Connection, draft: Draft, *, actor: str, at: datetime
) -> AddedVersion | None:
    """Return the version that holds the bytes of `draft` under its name, healed and bound; None if there is none."""
    refuse_base_name(connection, draft.name)
    same = versions.find_same(connection, context.path_of, draft.name, draft.ingested.manifest.digest)
    if same is None:
        return None
    _heal(context, connection, same, draft, actor=actor, at=at)
    return AddedVersion(_bound(context, connection, same, draft, actor=actor, at=at), is_new=False)


@contextmanager
def withdrawn_on_failure(context: Context, ingested: Sequence[Ingested]) -> Generator[None]:
    """Remove the temporary files at the end, and after a failure also the folders that no row came to need."""
    try:
        yield
    except BaseException:
        digests = [each.manifest.digest for each in ingested]
        with suppress(RegistryError, OSError), context.database.writing() as connection:
            for digest in set(digests) - set(versions.manifests(connection)):
                context.contents.remove(digest)
        raise
    finally:
        for each in ingested:
            each.discard()


def refuse_base_name(connection: sqlite3.Connection, name: str) -> None:
    """Return if no admitted base has this name."""
    if bases.find(connection, name) is not None:
        raise NameTakenError(name, "a base")


def _heal(
    context: Context, connection: sqlite3.Connection, same: AdapterVersion, draft: Draft, *, actor: str, at: datetime
) -> None:
    """Restore the stored files of `same` if they are damaged, now that the right bytes are at hand."""
    manifest = draft.ingested.manifest
    if same.digest in versions.collected(connection):
        return
    if damaged := context.contents.verify(manifest.digest, manifest):
        draft.ingested.publish()
        detail = {"damaged": [each.path for each in damaged]}
        audit.append(connection, NewEvent("adapter.restore", str(same.ref), actor, at, detail=detail))


def _bound(
    context: Context, connection: sqlite3.Connection, same: AdapterVersion, draft: Draft, *, actor: str, at: datetime
) -> AdapterVersion:
    """Bind the version that holds the same bytes to the base that was said, if it had none."""
    if draft.base is None or not draft.base_is_said:
        return same
    if same.base is not None:
        if (same.base, same.base_digest) != (draft.base.name, draft.base.digest):
            raise BoundElsewhereError(same.ref, same.base, draft.base.name)
        return same
    held = bases.find(connection, draft.base.name)
    if held is None or same.stage is Stage.REVOKED:
        return same
    versions.bind_base(connection, same.ref, held.row_id)
    audit.append(connection, NewEvent("adapter.bind", str(same.ref), actor, at, detail=_base_detail(draft.base)))
    return get_version(context, same.ref)


def _base_detail(base: Base | None) -> dict[str, object]:
    return {} if base is None else {"base": base.name, "base_digest": base.digest}
