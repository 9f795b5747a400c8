"""Signatures and evidence of a version as its bill refers to them: by digest, with a line on what each is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loractl_registry.attestations import EvidenceRecord, FileSignatureRecord
from loractl_registry.bom.subject import AttachmentKind, BomAttachment

_VERDICTS = {True: "passed", False: "failed", None: "no verdict"}


def attachments_of(
    signatures: Iterable[FileSignatureRecord], evidence: Iterable[EvidenceRecord]
) -> tuple[BomAttachment, ...]:
    """Return what a bill says of `signatures` and `evidence`; the same bytes are named once."""
    named = {(each.kind, each.digest): each for each in (*_signed(signatures), *_found(evidence))}
    return tuple(named.values())


def _signed(signatures: Iterable[FileSignatureRecord]) -> Iterator[BomAttachment]:
    for one in signatures:
        holds = "verified" if one.is_verified else "not verified"
        summary = f"signature of the files by {one.identity or 'somebody unknown'}, {holds}"
        yield BomAttachment(AttachmentKind.FILE_SIGNATURE, one.digest, summary)


def _found(evidence: Iterable[EvidenceRecord]) -> Iterator[BomAttachment]:
    for one in evidence:
        kind = AttachmentKind.MODEL_CARD if one.type == "card" else AttachmentKind.EVIDENCE
        made = f" by {one.kind}" if one.kind else ""
        yield BomAttachment(kind, one.digest, f"{one.type}{made}, {_VERDICTS[one.passed]}, kept by {one.by}")
