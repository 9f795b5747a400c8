"""Carrying versions from one registry to another in one file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from loractl_registry import archive_format as form
from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._files import written_beside
from loractl_registry._lease import writing_lease
from loractl_registry._store import bases, versions
from loractl_registry._store.rows import facts_to_dict, provenance_from_json, provenance_to_dict, to_json
from loractl_registry.actors import parse_actor
from loractl_registry.adding import Draft, store, withdrawn_on_failure
from loractl_registry.archive_format import ArchivedFile, ArchivedVersion, ArchiveError, ArchiveManifest
from loractl_registry.clock import to_text
from loractl_registry.content import Ingested
from loractl_registry.errors import RegistryError, UsageError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.outcomes import AddedVersion, Damage, ExportReport
from loractl_registry.progress import SILENT
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion, Base, FileEntry
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import DamagedFilesError, StageError
from loractl_registry.stages import Stage


def export(context: Context, refs: Sequence[Ref | VersionRef], file: Path) -> ExportReport:
    """Write an archive of `refs`; see `Registry.export`."""
    if not refs:
        raise UsageError("no version to export", hint="name at least one ref")
    with context.database.reading() as connection:
        chosen = sorted({get_version(context, ref).ref: get_version(context, ref) for ref in refs}.items())
        found = [version for _, version in chosen]
        contents = {version.digest: versions.manifest_of(connection, version.digest).files for version in found}
    for version in found:
        if version.stage is Stage.REVOKED:
            raise StageError("export", version.ref, version.stage, "revoked is for good; export another version")
    manifest = ArchiveManifest(
        versions=[_archived(version) for version in found],
        contents={digest: [_archived_file(entry) for entry in files] for digest, files in contents.items()},
    )
    owner = {version.digest: version for version in found}
    with written_beside(file) as part, part.open("wb") as stream:
        digest = _write(stream, manifest, lambda of, path: _open_stored(owner[of], path), owner)
    return ExportReport(file, tuple(version.ref for version in found), file.stat().st_size, digest)


def import_archive(context: Context, file: Path, *, actor: str) -> tuple[AddedVersion, ...]:
    """Store every version of an archive as a draft, or nothing; see `Registry.import_archive`."""
    actor = parse_actor(actor)
    with ExitStack() as stack:
        stack.enter_context(writing_lease(context.home))
        with os_errors_named(file):
            stream = stack.enter_context(file.open("rb"))
            manifest = form.read_manifest(stream)
            _refuse_revoked(manifest)
            ingested = _ingest_all(context, stream, manifest, stack)
        reach("import.before_publish")
        connection = stack.enter_context(context.database.writing())
        admitted = bases.select(connection)
        added = tuple(
            store(context, connection, _draft(version, ingested[version.digest], admitted), actor=actor)
            for version in manifest.versions
        )
        reach("import.before_commit")
    reach("import.after_commit")
    return added
