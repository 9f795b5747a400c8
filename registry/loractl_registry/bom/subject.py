"""What a bill of materials is made from: records of the registry, and what was signed about them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from loractl_registry.records import AdapterVersion, Base, DataSetTerms, Manifest

_WITH_DIGEST = re.compile(r"(?P<name>.+?)[@# ]sha256:(?P<digest>[0-9a-f]{64})", re.DOTALL)


class AttachmentKind(StrEnum):
    """What CycloneDX calls a thing that a bill refers to by its digest."""

    FILE_SIGNATURE = "digital-signature"
    STATEMENT = "attestation"
    EVIDENCE = "evidence"
    MODEL_CARD = "model-card"


@dataclass(frozen=True, slots=True)
class BomAttachment:
    """A signature, a statement or a piece of evidence.

    Attributes:
        digest: ``sha256:hex`` of the bundle, the envelope or the file.
        summary: One line: what it is and by whom.
    """

    kind: AttachmentKind
    digest: str
    summary: str


@dataclass(frozen=True, slots=True)
class BomDataset:
    """A data set that the adapter was trained on.

    Attributes:
        digest: ``sha256:hex``, None if nobody said.
        data_class: The class of its data, such as ``internal``.
    """

    name: str
    digest: str | None = None
    licence: str | None = None
    data_class: str | None = None


@dataclass(frozen=True, slots=True)
class BomSubject:
    """One version, and everything that its bill says.

    Attributes:
        manifest: Of `version`.
        base: The base that `version` is bound to, None while it is bound to none.
        datasets: Usually `datasets_of` the names in its provenance.
        at: When the bill is written.
        loractl_version: Of the loractl that writes it.
    """

    version: AdapterVersion
    manifest: Manifest
    base: Base | None
    datasets: tuple[BomDataset, ...]
    attachments: tuple[BomAttachment, ...]
    at: datetime
    loractl_version: str


def datasets_of(names: Iterable[str], terms: Iterable[DataSetTerms] = ()) -> tuple[BomDataset, ...]:
    """Return the data sets that provenance names, on their terms; ``NAME@sha256:HEX`` gives a digest too."""
    found: dict[str, BomDataset] = {}
    known = {each.name: each for each in terms}
    for text in names:
        parts, said = _WITH_DIGEST.fullmatch(text), known.get(text, DataSetTerms(text))
        name, digest = (text, None) if parts is None else (parts["name"], f"sha256:{parts['digest']}")
        each = BomDataset(name, digest, said.licence, said.data_class)
        found.setdefault(each.name, each)
    return tuple(found.values())
