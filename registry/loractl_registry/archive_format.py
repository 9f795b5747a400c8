"""The archive's format: a tar whose every byte follows from its manifest, so that reading can demand exactly it."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from loractl_registry._store.rows import to_json
from loractl_registry.adapter_names import REQUIRED
from loractl_registry.errors import DeniedError
from loractl_registry.records import FileEntry, Manifest
from loractl_registry.strict_json import StrictJsonError, parse_object

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
BLOCK = 512
CHUNK = 1 << 20
DIGEST = r"^sha256:[0-9a-f]{64}$"
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class ArchiveError(DeniedError):
    """The file is not what ``loractl export`` writes; nothing was imported."""

    code = "registry.archive"

    def __init__(self, found: str) -> None:
        super().__init__(f"not imported: {found}", hint="export it again and compare the digest that export printed")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ArchivedFile(_Strict):
    """One file of a content."""

    path: Literal["README.md", "adapter_config.json", "adapter_model.safetensors"]
    size_bytes: int = Field(ge=0, le=1 << 40)
    digest: str = Field(pattern=DIGEST)


class ArchivedTerms(_Strict):
    """On what terms a data set may be used."""

    name: str
    licence: str | None = None
    data_class: str | None = Field(default=None, pattern=NAME)


class ArchivedProvenance(_Strict):
    """What was known about where a version came from."""

    source: str
    commit: str | None = None
    author: str | None = None
    licence: str | None = None
    datasets: list[str] = []
    code_commit: str | None = None
    note: str | None = None
    extra: dict[str, object] = {}
    dataset_terms: list[ArchivedTerms] = []

    @model_serializer(mode="wrap")
    def _as_before_terms(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave terms out where there are none: the one text of an archive is what it was before they were known."""
        values: dict[str, object] = handler(self)
        return values if self.dataset_terms else {k: v for k, v in values.items() if k != "dataset_terms"}


class ArchivedVersion(_Strict):
    """One version, as the exporting registry knew it."""

    name: str = Field(pattern=NAME)
    number: int = Field(ge=1, le=2**31 - 1)
    stage: str
    digest: str = Field(pattern=DIGEST)
    base: str | None
    base_digest: str | None
    facts: dict[str, object]
    provenance: ArchivedProvenance
    added_at: str
    added_by: str


class ArchiveManifest(_Strict):
    """Everything but the bytes. `contents` is sorted by digest, and each of its lists by path."""

    format: Literal["loractl-archive"] = "loractl-archive"
    format_version: Literal[1] = 1
    versions: list[ArchivedVersion] = Field(min_length=1, max_length=10_000)
    contents: dict[str, list[ArchivedFile]]


def manifest_bytes(manifest: ArchiveManifest) -> bytes:
    """Write `manifest` the one way that it is stored."""
    return (to_json(manifest.model_dump(mode="json")) + "\n").encode()


def header_of(name: str, size_bytes: int) -> bytes:
    """Return the one tar header that a file of this name and size has: no owner, no time, read-only."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o444
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def member_name(digest: str, path: str) -> str:
    """Return where a file of a content is in the archive."""
    return str(PurePosixPath("contents", digest.removeprefix("sha256:"), path))


def padding_of(size_bytes: int) -> bytes:
    """Return the zeros that fill a member's last block."""
    return b"\0" * (-size_bytes % BLOCK)


def end_of_archive() -> bytes:
    """Return the two empty blocks that end a tar."""
    return b"\0" * (2 * BLOCK)


def read_manifest(stream: BinaryIO) -> ArchiveManifest:
    """Read the first member.

    Raises:
        ArchiveError: It is not a manifest of a format version that this loractl reads.
    """
    block = _exactly(stream, BLOCK)
    try:
        size = tarfile.TarInfo.frombuf(block, "ascii", "strict").size
    except (tarfile.HeaderError, UnicodeError) as error:
        raise ArchiveError("the file is not an archive of loractl") from error
    if not 0 < size <= MAX_MANIFEST_BYTES or block != header_of(MANIFEST_NAME, size):
        raise ArchiveError(f"the archive does not begin with a {MANIFEST_NAME} of at most {MAX_MANIFEST_BYTES} bytes")
    text = _exactly(stream, size)
    _demand(stream, padding_of(size), MANIFEST_NAME)
    return _parse_manifest(text)


def read_member(stream: BinaryIO, name: str, file: ArchivedFile, write: Callable[[bytes], object]) -> None:
    """Read the one member that comes next and hand its bytes to `write`, chunk by chunk.

    Raises:
        ArchiveError: Another member comes, it is cut off, or its bytes do not have the declared digest.
    """
    _demand(stream, header_of(name, file.size_bytes), name)
    digest = hashlib.sha256()
    left = file.size_bytes
    while left:
        chunk = _exactly(stream, min(left, CHUNK))
        digest.update(chunk)
        write(chunk)
        left -= len(chunk)
    _demand(stream, padding_of(file.size_bytes), name)
    if file.digest != f"sha256:{digest.hexdigest()}":
        raise ArchiveError(f"{name} should be {file.digest} and is sha256:{digest.hexdigest()}")


def read_end(stream: BinaryIO) -> None:
    """Demand that nothing comes after the last member."""
    _demand(stream, end_of_archive(), "the end")
    if stream.read(1):
        raise ArchiveError("there are bytes behind the end of the archive")


def _parse_manifest(text: bytes) -> ArchiveManifest:
    try:
        parse_object(text)
        manifest = ArchiveManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArchiveError(f"{MANIFEST_NAME} is refused at {where[:80]!r}: {first['msg']}") from error
    except StrictJsonError as error:
        raise ArchiveError(f"{MANIFEST_NAME}: {error}") from error
    if manifest_bytes(manifest) != text:
        raise ArchiveError(f"{MANIFEST_NAME} is not written the way that export writes it")
    _demand_order(manifest)
    return manifest


def _demand_order(manifest: ArchiveManifest) -> None:
    named = {version.digest for version in manifest.versions}
    refs = [(version.name, version.number) for version in manifest.versions]
    if named != set(manifest.contents):
        raise ArchiveError("its versions and its contents do not name the same digests")
    if len(set(refs)) != len(refs) or len({(v.name, v.digest) for v in manifest.versions}) != len(refs):
        raise ArchiveError("a version is in it twice")
    for digest, files in manifest.contents.items():
        paths: list[str] = [file.path for file in files]
        if paths != sorted(set(paths)):
            raise ArchiveError(f"the files of {digest} are not sorted or not unique")
        if not set(REQUIRED) <= set(paths):
            raise ArchiveError(f"a file of {digest} is missing")
        found = Manifest(tuple(FileEntry(file.path, file.size_bytes, file.digest) for file in files)).digest
        if found != digest:
            raise ArchiveError(f"a content should be {digest} and is {found}")


def members_of(manifest: ArchiveManifest) -> Iterator[tuple[str, ArchivedFile]]:
    """Return digest and file of every member behind the manifest, in order."""
    for digest, files in sorted(manifest.contents.items()):
        for file in files:
            yield digest, file


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ArchiveError("the archive is cut off")
    return data


def _demand(stream: BinaryIO, expected: bytes, where: str) -> None:
    if _exactly(stream, len(expected)) != expected:
        raise ArchiveError(f"something else is where {where} should be")
