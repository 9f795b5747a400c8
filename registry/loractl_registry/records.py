"""The values that the registry hands out: bases, adapter versions, provenance and audit events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a manifest: POSIX path relative to its root, size, and digest as ``sha256:hex``."""

    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a version or of a base, sorted by path."""

    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        """``sha256:hex`` over the canonical JSON of the files; the identity of the content."""
        rows = [[entry.path, entry.size_bytes, entry.digest] for entry in self.files]
        text = json.dumps(rows, ensure_ascii=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of the files."""
        return sum(entry.size_bytes for entry in self.files)


class ExpertLayout(StrEnum):
    """How an adapter's expert tensors are laid out.

    ``none``: no tensor on experts. ``2d``: one A and B per expert and projection (``experts.3.up_proj``).
    ``3d``: all experts in one pair, gate and up sharing one A (PEFT ``target_parameters``).
    """

    NONE = "none"
    PER_EXPERT = "2d"
    FUSED = "3d"


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the files of a version say about it; read once, at ``add``.

    Attributes:
        rank: The largest rank of any tensor pair.
        alpha: `lora_alpha` of adapter_config.json.
        modules: Sorted module suffixes that the tensors touch, as the engine calls them: ``q_proj``, ``experts``.
        experts: Layout of the expert tensors.
        tensor_count: Number of tensors in the file.
        dtype: Torch name of the widest dtype among the tensors, such as ``bfloat16``.
        declared_base: `base_model_name_or_path` of adapter_config.json, or None.
    """

    rank: int
    alpha: float
    modules: tuple[str, ...]
    experts: ExpertLayout
    tensor_count: int
    dtype: str
    declared_base: str | None


@dataclass(frozen=True, slots=True)
class DataSetTerms:
    """On what terms a data set may be used. None means that nobody said.

    Attributes:
        licence: SPDX identifier.
        data_class: One of the classes that the policy knows, such as ``internal``.
    """

    name: str
    licence: str | None = None
    data_class: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version came from. None means that nobody said.

    Attributes:
        source: ``hf:OWNER/REPO@COMMIT`` or the absolute path that it was added from.
        commit: The Hub commit that the revision resolved to, 40 hex digits.
        author: Owner of the Hub repository or what the card says.
        licence: SPDX identifier or what the card says.
        datasets: What it was trained on, from the card, ``--trained-on`` and ``--dataset``.
        code_commit: Commit of the training code.
        note: Free text.
        extra: Whatever ``--provenance FILE.json`` held beside the keys above; JSON values.
        dataset_terms: Licence and class of those of `datasets` of which somebody said one.
    """

    source: str
    commit: str | None = None
    author: str | None = None
    licence: str | None = None
    datasets: tuple[str, ...] = ()
    code_commit: str | None = None
    note: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    dataset_terms: tuple[DataSetTerms, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """A base model, admitted by the digest of its manifest.

    Attributes:
        path: The folder that holds its files; they stay where they are.
        source: What ``base add`` was given: ``hf:OWNER/REPO@COMMIT`` or a path.
        config: Parsed config.json.
    """

    name: str
    digest: str
    path: Path
    source: str
    licence: str | None
    size_bytes: int
    file_count: int
    added_at: datetime
    added_by: str
    config: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One immutable version of an adapter.

    Attributes:
        digest: Digest of its manifest.
        path: The read-only folder in the content-addressed store; the only path that an engine may open.
        base: Name of the base it belongs to, or None while nobody has said.
        base_digest: Digest of that base's manifest when the version was bound to it.
    """

    ref: VersionRef
    stage: Stage
    digest: str
    path: Path
    size_bytes: int
    base: str | None
    base_digest: str | None
    facts: AdapterFacts
    provenance: Provenance
    added_at: datetime
    added_by: str


class VersionSummary(NamedTuple):
    """What a list shows of a version, straight from the row: a sixth of the time that full records take.

    Attributes:
        added_at: RFC 3339 in UTC with microseconds, as it is stored.
    """

    name: str
    number: int
    stage: str
    base: str | None
    digest: str
    rank: int
    size_bytes: int
    added_at: str
    added_by: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change, in the order in which they happened.

    Attributes:
        action: Dotted verb: ``adapter.add``, ``adapter.promote``, ``adapter.refused``, ``base.add``.
        subject: Ref or base name.
        from_stage, to_stage: Set when the stage of a version changed.
    """

    sequence: int
    at: datetime
    actor: str
    action: str
    subject: str
    from_stage: Stage | None
    to_stage: Stage | None
    reason: str | None
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ServingTerms:
    """On what terms a version may answer.

    Attributes:
        tenants: Names and patterns of those who may use it; ``*`` alone for everybody.
        data_classes: Classes of data that it has to do with.
        statement: Digest of the signed statement that says so.
        is_unreviewed: Whether it serves by break-glass, without the approvals and evidence that the policy asks for.
    """

    tenants: tuple[str, ...]
    data_classes: tuple[str, ...]
    statement: str
    is_unreviewed: bool = False


@dataclass(frozen=True, slots=True)
class ServingSnapshot:
    """What may answer on one base at one moment; read in one transaction.

    Attributes:
        sequence: Sequence of the newest audit event; grows with every change.
        versions: Every servable version (approved or live) of that base, sorted by ref: those of which the signed
            statements say so, for exactly this name, number, content and base.
        previously_live: Per adapter name, the numbers that were live before, newest first, that are servable still.
            A server whose engine cannot take the live version goes on answering from the first of these that it can.
        refused: Servable by their rows, and not by what was signed; with the reason.
        distrust: Why nothing that was signed can be trusted, so that `versions` is empty; None if it can.
        until: When the first of `versions` expires, and a new snapshot is due.
        terms: Those of each of `versions`.
    """

    sequence: int
    base: Base
    versions: tuple[AdapterVersion, ...]
    previously_live: Mapping[str, tuple[int, ...]]
    refused: Mapping[VersionRef, str] = field(default_factory=dict[VersionRef, str])
    distrust: str | None = None
    until: datetime | None = None
    terms: Mapping[VersionRef, ServingTerms] = field(default_factory=dict[VersionRef, ServingTerms])
