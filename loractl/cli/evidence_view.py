"""How evidence and signatures over files are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loractl.cli import payloads
from loractl.cli.style import Style, clean
from loractl.cli.tables import Column, table
from loractl.cli.views import heading, short_digest, when

if TYPE_CHECKING:
    from loractl_registry import Registry
    from loractl_registry.attestations import AddedEvidence, EvidenceRecord, FileSignatureRecord
    from loractl_registry.refs import VersionRef

_SHOWN_METRICS = 4


@dataclass(frozen=True, slots=True)
class Attestations:
    """What ``show`` says of the signatures over the files of a version and of its evidence."""

    signatures: Sequence[FileSignatureRecord]
    evidence: Sequence[EvidenceRecord]

    @classmethod
    def of(cls, registry: Registry, ref: VersionRef) -> Attestations:
        """Ask the registry; where what was signed does not verify, there is nothing to show, and ``show`` says why."""
        from loractl_registry.trust import MissingCheckpointError, TrustError  # cryptography, which help does without

        try:
            return cls(registry.file_signatures(ref), registry.evidence.select(ref))
        except (TrustError, MissingCheckpointError):
            return cls((), ())

    def payload(self) -> dict[str, object]:
        """Return them as JSON."""
        return {
            "signatures": [signature_payload(one) for one in self.signatures],
            "evidence": [evidence_payload(one) for one in self.evidence],
        }

    def lines(self, style: Style) -> Iterator[str]:
        """Yield them as tables."""
        if self.signatures:
            yield from heading("signatures of the files", style)
            yield from signature_lines(self.signatures, style)
        if self.evidence:
            yield from heading("evidence", style)
            yield from evidence_lines(self.evidence, style)


_EVIDENCE = (
    Column("evidence", Style.bold),
    Column("by"),
    Column("verdict"),
    Column("counts", priority=1),
    Column("numbers", Style.dim, priority=3),
    Column("digest", Style.dim, priority=2),
    Column("kept by", priority=4),
    Column("at", Style.dim, priority=5),
)
_SIGNATURES = (
    Column("signed by", Style.bold),
    Column("roles", priority=3),
    Column("how"),
    Column("counts", priority=1),
    Column("digest", Style.dim, priority=2),
    Column("at", Style.dim, priority=4),
)


def evidence_payload(one: EvidenceRecord) -> dict[str, object]:
    """Return a piece of evidence as JSON."""
    return {
        "type": one.type,
        "kind": one.kind,
        "passed": one.passed,
        "is_counted": one.is_counted,
        "digest": one.digest,
        "metrics": dict(one.metrics),
        "by": one.by,
        "at": payloads.time_text(one.at),
        "statement": one.statement,
    }


def added_payload(added: AddedEvidence) -> dict[str, object]:
    """Return evidence that was added as JSON."""
    return {
        "ref": str(added.version.ref),
        **evidence_payload(added.evidence),
        "is_new": added.is_new,
        "is_quarantined": added.is_quarantined,
        "is_served": added.is_served,
    }


def added_lines(added: AddedEvidence, style: Style) -> Iterator[str]:
    """Yield what was added, and what is in it."""
    said = "Kept" if added.is_new else "Already there:"
    what = f"{added.evidence.type} of {style.bold(str(added.version.ref))}"
    yield f"{said} {what}  {style.dim(f'{_verdict(added.evidence)}, {short_digest(added.evidence.digest)}')}"
    for name, value in sorted(added.evidence.metrics.items())[:_SHOWN_METRICS]:
        yield f"  {clean(name)}  {value:g}"
    if (more := len(added.evidence.metrics) - _SHOWN_METRICS) > 0:
        yield style.dim(f"  and {more} more")


def evidence_lines(found: Sequence[EvidenceRecord], style: Style) -> Iterator[str]:
    """Yield the table of evidence; nothing if there is none."""
    if found:
        yield from table(_EVIDENCE, [_evidence_cells(one) for one in found], style)


def signature_payload(one: FileSignatureRecord) -> dict[str, object]:
    """Return a signature over files as JSON."""
    return {
        "kind": one.kind or None,
        "identity": one.identity,
        "roles": list(one.roles),
        "signer": one.signer or None,
        "is_verified": one.is_verified,
        "digest": one.digest,
        "at": payloads.time_text(one.at) if one.at else None,
        "problem": one.problem,
    }


def signature_lines(found: Sequence[FileSignatureRecord], style: Style) -> Iterator[str]:
    """Yield the table of signatures over files, and what is wrong with them; nothing if there are none."""
    if not found:
        return
    rows = [
        (
            one.identity or f"unknown {one.signer[:16]}".strip(),
            ", ".join(one.roles),
            one.kind or "gone",
            "yes" if one.is_verified else "no",
            short_digest(one.digest),
            when(one.at) if one.at else "",
        )
        for one in found
    ]
    yield from table(_SIGNATURES, rows, style)
    yield from (style.bad(clean(one.problem)) for one in found if one.problem is not None)


def text_of(body: bytes) -> str | None:
    """Return evidence as text, None if it is none."""
    try:
        return clean(body.decode("utf-8"))
    except UnicodeDecodeError:
        return None


def _evidence_cells(one: EvidenceRecord) -> tuple[str, ...]:
    numbers = [f"{clean(name)} {value:g}" for name, value in sorted(one.metrics.items())[:_SHOWN_METRICS]]
    return (
        one.type,
        one.kind or "",
        _verdict(one),
        "yes" if one.is_counted else "no",
        ", ".join(numbers),
        short_digest(one.digest),
        one.by,
        when(one.at),
    )


def _verdict(one: EvidenceRecord) -> str:
    return {True: "passed", False: "failed", None: "no verdict"}[one.passed]
