"""Carrying versions from one registry to another in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from loractl_registry import archive_format as form
from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._files import temporary_folder, written_beside
from loractl_registry._lease import writing_lease
from loractl_registry._store import bases, versions
from loractl_registry._store.rows import facts_to_dict, provenance_from_json, provenance_to_dict, to_json
from loractl_registry.actors import parse_actor
from loractl_registry.adding import Draft, store, withdrawn_on_failure
from loractl_registry.archive_format import (
    ArchivedFile,
    ArchivedProvenance,
    ArchivedVersion,
    ArchiveError,
    ArchiveManifest,
)
from loractl_registry.binding import choose_base
from loractl_registry.checking import refuse_collected
from loractl_registry.clock import to_text
from loractl_registry.errors import UsageError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.ledger.pen import signed_writing
from loractl_registry.outcomes import AddedVersion, Damage, ExportReport
from loractl_registry.progress import SILENT
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion, Base, FileEntry
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import DamagedFilesError, StageError
from loractl_registry.signatures import prepare_signing
from loractl_registry.stages import Stage

if TYPE_CHECKING:
    from loractl_registry.content import Ingested


def export(context: Context, refs: Sequence[Ref | VersionRef], file: Path) -> ExportReport:
    """Write an archive of `refs`; see `Registry.export`."""
    if not refs:
        raise UsageError("no version to export", hint="name at least one ref")
    with context.database.reading() as connection:
        chosen = {version.ref: version for version in (get_version(context, ref) for ref in refs)}
        found = [chosen[ref] for ref in sorted(chosen)]
        contents = {version.digest: versions.manifest_of(connection, version.digest).files for version in found}
        for version in found:
            if version.stage is Stage.REVOKED:
                raise StageError("export", version.ref, version.stage, "revoked is for good; export another version")
            refuse_collected(connection, version)
    manifest = ArchiveManifest(
        versions=[_archived(version) for version in found],
        contents={digest: [_archived_file(entry) for entry in files] for digest, files in contents.items()},
    )
    owner = {version.digest: version for version in found}
    with written_beside(file) as part, part.open("wb") as stream:
        digest = _write(stream, manifest, owner)
    return ExportReport(file, tuple(version.ref for version in found), file.stat().st_size, digest)


def import_archive(context: Context, file: Path, *, actor: str) -> tuple[AddedVersion, ...]:
    """Store every version of an archive as a draft, or nothing; see `Registry.import_archive`."""
    actor = parse_actor(actor)
    with writing_lease(context.home), os_errors_named(file), file.open("rb") as stream:
        manifest = form.read_manifest(stream)
        _refuse_revoked(manifest)
        with _ingested(context, stream, manifest) as ingested:
            prepare_signing()
            added = _stored(context, manifest, ingested, actor=actor)
    reach("import.after_commit")
    return added


def _stored(
    context: Context, manifest: ArchiveManifest, ingested: Mapping[str, Ingested], *, actor: str
) -> tuple[AddedVersion, ...]:
    with signed_writing(context, actor=actor) as pen:
        reach("import.before_publish")
        admitted = bases.select(pen.connection)
        drafts = [_draft(version, ingested[version.digest], admitted) for version in manifest.versions]
        added = tuple(store(pen, draft) for draft in drafts)
        reach("import.before_commit")
    return added


def _archived(version: AdapterVersion) -> ArchivedVersion:
    return ArchivedVersion(
        name=version.ref.name,
        number=version.ref.number,
        stage=version.stage.value,
        digest=version.digest,
        base=version.base,
        base_digest=version.base_digest,
        facts=facts_to_dict(version.facts),
        provenance=ArchivedProvenance.model_validate(provenance_to_dict(version.provenance)),
        added_at=to_text(version.added_at),
        added_by=version.added_by,
    )


def _archived_file(entry: FileEntry) -> ArchivedFile:
    return ArchivedFile.model_validate({"path": entry.path, "size_bytes": entry.size_bytes, "digest": entry.digest})


def _write(stream: BinaryIO, manifest: ArchiveManifest, owner: Mapping[str, AdapterVersion]) -> str:
    """Write the archive and return its digest."""
    digest = hashlib.sha256()

    def put(data: bytes) -> None:
        digest.update(data)
        stream.write(data)

    text = form.manifest_bytes(manifest)
    for data in (form.header_of(form.MANIFEST_NAME, len(text)), text, form.padding_of(len(text))):
        put(data)
    for content, file in form.members_of(manifest):
        put(form.header_of(form.member_name(content, file.path), file.size_bytes))
        _copy_stored(owner[content], file, put)
        put(form.padding_of(file.size_bytes))
    put(form.end_of_archive())
    return f"sha256:{digest.hexdigest()}"


def _copy_stored(version: AdapterVersion, file: ArchivedFile, put: Callable[[bytes], None]) -> None:
    """Copy one stored file, and refuse it if it is not what its manifest says."""
    digest = hashlib.sha256()
    copied = 0
    with (version.path / file.path).open("rb") as stored:
        while chunk := stored.read(form.CHUNK):
            copied += len(chunk)
            if copied > file.size_bytes:
                break
            digest.update(chunk)
            put(chunk)
    found = f"sha256:{digest.hexdigest()}"
    if copied != file.size_bytes or found != file.digest:
        raise DamagedFilesError(version.ref, [Damage(file.path, file.digest, found)])


def _refuse_revoked(manifest: ArchiveManifest) -> None:
    for version in manifest.versions:
        if version.stage == Stage.REVOKED:
            raise ArchiveError(f"{version.name}@{version.number} was revoked where it was exported")


@contextmanager
def _ingested(context: Context, stream: BinaryIO, manifest: ArchiveManifest) -> Generator[Mapping[str, Ingested]]:
    """Unpack and check every content, all of them before any is stored."""
    ingested: dict[str, Ingested] = {}
    with ExitStack() as stack:
        for content, files in sorted(manifest.contents.items()):
            with temporary_folder(context.home) as folder:
                for file in files:
                    _unpack(stream, content, file, folder)
                ingested[content] = context.contents.ingest(folder, SILENT)
                stack.enter_context(withdrawn_on_failure(context, [ingested[content]]))
        form.read_end(stream)
        yield ingested


def _unpack(stream: BinaryIO, content: str, file: ArchivedFile, folder: Path) -> None:
    with (folder / file.path).open("xb") as target:
        form.read_member(stream, form.member_name(content, file.path), file, target.write)


def _draft(version: ArchivedVersion, ingested: Ingested, admitted: Sequence[Base]) -> Draft:
    """Return `version` as this registry will know it; its base is the one with the same digest, if it named one."""
    provenance = provenance_from_json(to_json(version.provenance.model_dump()))
    if version.base_digest is None:
        base = choose_base(admitted, None, ingested.facts.declared_base)
    else:
        base = next((base for base in admitted if base.digest == version.base_digest), None)
    detail = {"imported_as": f"{version.name}@{version.number}", "added_there_by": version.added_by}
    return Draft(version.name, ingested, base, base_is_said=False, provenance=provenance, detail=detail)
