"""Adding, listing and reading evidence: one signed statement and one audit event for each piece."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._store import audit
from loractl_registry._store import evidence as rows
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.evidence import StoredEvidence
from loractl_registry._store.rows import to_json
from loractl_registry.actors import parse_actor
from loractl_registry.attestations import AddedEvidence, EvidenceRecord
from loractl_registry.climbing import require_intact
from loractl_registry.evidence.errors import EvidenceNotFoundError, NoScannerError, TooMuchEvidenceError
from loractl_registry.evidence.reading import MAX_EVIDENCE_BYTES, Findings, read_effect, read_findings
from loractl_registry.evidence.scanning import DEFAULT_TIMEOUT_S, run_scanner
from loractl_registry.home_errors import os_errors_named
from loractl_registry.ledger.chains import read_checkpoint, resumed_chain
from loractl_registry.ledger.errors import DisagreementError
from loractl_registry.ledger.facts import is_trusted
from loractl_registry.ledger.metrics import digest_of_metrics
from loractl_registry.ledger.pen import Pen, signed_writing
from loractl_registry.ledger.soundness import failed_scan
from loractl_registry.ledger.standing import SignedEvidence, Standing, Standings, objection_to
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.trust import Chain, EvidenceStatement, EvidenceType, Testimony, subject_of

MAX_PIECES = 200
"""Of one version. A promotion names each piece, and a statement names at most 1000 things."""


class EvidenceShelf:
    """The evidence of one open home."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def add(
        self,
        ref: Ref | VersionRef,
        file: Path,
        type_: EvidenceType,
        *,
        actor: str,
        kind: str | None = None,
        passed: bool | None = None,
    ) -> AddedEvidence:
        """Keep `file` as evidence about `ref`. The same again is a no-op.

        Args:
            ref: The version.
            file: At most 16 MiB; see `read_findings`.
            type_: ``eval``, ``card``, ``scan`` or ``review``.
            actor: Who adds it.
            kind: What made it, where the file does not say.
            passed: Its verdict, where the file does not say.

        Raises:
            EvidenceError, EvidenceSizeError: The file cannot be read as that.
            DeniedError: The row of the version is not what was signed, or the one who acts may not say so.
        """
        with os_errors_named(file), file.open("rb") as stream:
            body = stream.read(MAX_EVIDENCE_BYTES + 1)
        return self._keep(ref, body, read_findings(body, type_, kind=kind, passed=passed), actor=actor)

    def add_effect(self, ref: Ref | VersionRef, proof: bytes, *, actor: str) -> AddedEvidence:
        """Keep a proof of effect, which must be about exactly these bytes; raises as `add` does."""
        version = get_version(self._context, ref)
        return self._keep(version.ref, proof, read_effect(proof, version), actor=actor)

    def scan(
        self, ref: Ref | VersionRef, command: Sequence[str], *, actor: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AddedEvidence:
        """Run a scanner on the stored files of `ref`, and keep what it said: exit code 0 is a scan that passed.

        While the newest scan of a version failed, it cannot be promoted. What is served already goes on.

        Raises:
            NoScannerError, ScannerError: There is no command, or it cannot be started; nothing is kept.
            DamagedFilesError: The files are not those that were added, before or after.
        """
        actor, version = parse_actor(actor), get_version(self._context, ref)
        if not command:
            raise NoScannerError(version.ref)
        require_intact(self._context, version)
        scanned = run_scanner(command, version.path, timeout_s=timeout_s)
        require_intact(self._context, version)
        body = scanned.to_json(version, self._context.clock())
        return self._keep(version.ref, body, read_findings(body, EvidenceType.SCAN), actor=actor)

    def select(self, ref: Ref | VersionRef) -> tuple[EvidenceRecord, ...]:
        """Return the evidence about `ref`, oldest first. Raises a `NotFoundError`."""
        context, seen = self._context, read_checkpoint(self._context)
        with context.database.reading() as connection:
            version, chain = get_version(context, ref), resumed_chain(context, connection, seen)
            standing = Standings(chain).get(version.ref)
            held = rows.select(connection, str(version.ref))
        if chain is None or standing is None:
            return ()
        return tuple(_record(chain, one, held.get(one.statement)) for one in standing.evidence)

    def read(self, ref: Ref | VersionRef, digest: str) -> tuple[EvidenceRecord, bytes]:
        """Return a piece of evidence with its bytes; the beginning of its digest is enough.

        Raises:
            EvidenceNotFoundError: None or several have such a digest, or its bytes are not those that were kept.
        """
        version, wanted = get_version(self._context, ref), digest.removeprefix("sha256:")
        found = {one.digest: one for one in self.select(version.ref) if one.digest[7:].startswith(wanted)}
        if len(wanted) < 4 or len(found) != 1:  # fewer would be a guess
            raise EvidenceNotFoundError(version.ref, digest)
        ((full, record),) = found.items()
        with self._context.database.reading() as connection:
            body = rows.body_of(connection, full)
        if body is None or _digest_of(body) != full:
            raise EvidenceNotFoundError(version.ref, digest)
        return record, body

    def _keep(self, ref: Ref | VersionRef, body: bytes, found: Findings, *, actor: str) -> AddedEvidence:
        with signed_writing(self._context, actor=parse_actor(actor)) as pen:
            version = get_version(self._context, ref)
            pen.place()
            if (objection := objection_to(version, pen.standings)) is not None:
                raise DisagreementError(version.ref, objection)
            standing, digest = pen.standing(version.ref, version.digest), _digest_of(body)
            if (same := _same(pen, standing, digest, found)) is not None:
                held = rows.select(pen.connection, str(version.ref)).get(same.statement)
                return _added(pen, version, same, held, is_new=False)
            if len(standing.evidence) >= MAX_PIECES:
                raise TooMuchEvidenceError(version.ref, MAX_PIECES)
            stored = _signed(pen, version, digest, found)
            rows.append(pen.connection, stored, body)
            _note(pen, version, stored, found)
            reach("evidence.before_commit")
            newest = pen.standing(version.ref, version.digest).evidence[-1]
            return _added(pen, version, newest, stored, is_new=True)


def _same(pen: Pen, standing: Standing, digest: str, found: Findings) -> SignedEvidence | None:
    """Return what says the same already; of scans only the newest counts, so an older one may be said again."""
    held = [one for one in standing.evidence if one.type is found.type]
    if found.type is EvidenceType.SCAN:
        held = held[-1:]
    held = [one for one in held if pen.chain is not None and is_trusted(pen.chain, one)]
    said = (found.type, found.kind, found.passed, digest)
    return next((one for one in held if (one.type, one.kind, one.passed, one.digest) == said), None)


def _signed(pen: Pen, version: AdapterVersion, digest: str, found: Findings) -> StoredEvidence:
    testimony = Testimony(
        **pen.place(),
        policy=pen.policy.digest,
        evidence=digest,
        type=found.type,
        kind=found.kind,
        passed=found.passed,
        metrics=digest_of_metrics(found.metrics),
    )
    statement = EvidenceStatement(subject=subject_of(version.ref, version.digest), predicate=testimony)
    return StoredEvidence(pen.sign(statement), str(version.ref), digest, to_json(dict(found.metrics)))


def _note(pen: Pen, version: AdapterVersion, stored: StoredEvidence, found: Findings) -> None:
    detail: dict[str, object] = {"type": found.type.value, "digest": stored.digest, "statement": stored.statement}
    detail |= {"kind": found.kind, "passed": found.passed, "signer": pen.acting.name}
    audit.append(pen.connection, NewEvent("adapter.evidence", str(version.ref), pen.actor, pen.at, detail=detail))


def _added(
    pen: Pen, version: AdapterVersion, one: SignedEvidence, held: StoredEvidence | None, *, is_new: bool
) -> AddedEvidence:
    chain = pen.chain
    assert chain is not None  # noqa: S101  # something was signed
    standing = pen.standing(version.ref, version.digest)
    is_quarantined = failed_scan(chain, standing) is not None
    return AddedEvidence(version, _record(chain, one, held), is_new, is_quarantined, version.stage.is_servable)


def _record(chain: Chain, one: SignedEvidence, held: StoredEvidence | None) -> EvidenceRecord:
    metrics: dict[str, float] = {} if held is None else json.loads(held.metrics)
    is_kept = held is not None and held.digest == one.digest and digest_of_metrics(metrics) == one.metrics
    return EvidenceRecord(
        type=one.type.value,
        kind=one.kind,
        passed=one.passed,
        digest=one.digest,
        metrics=metrics,
        by=one.identity,
        at=one.at,
        is_counted=is_kept and is_trusted(chain, one),
        statement=one.statement,
    )


def _digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
