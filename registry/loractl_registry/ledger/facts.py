"""What the policy may know of a version: what is signed, verified or read from its files, and nothing else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from loractl_registry._context import Context
from loractl_registry._store import evidence as evidence_rows
from loractl_registry.attestations import FileSignatureRecord
from loractl_registry.ledger.engines import installed_engine
from loractl_registry.ledger.file_signatures import checked_signatures
from loractl_registry.ledger.metrics import digest_of_metrics
from loractl_registry.ledger.standing import SignedEvidence, Standing
from loractl_registry.policies import DataSet, Evidence, Signature
from loractl_registry.records import AdapterVersion, Provenance
from loractl_registry.trust import Chain


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is known of a version beside its files and its base; a rule that asks for what is missing denies.

    Attributes:
        added_by: The identity that signed its addition; None for a version from before additions were signed.
        engine: Version of the engine that is installed, None without one.
        counted: Digests of the evidence and of the verified signatures, for what is signed on these facts.
    """

    added_by: str | None = None
    data: tuple[DataSet, ...] = ()
    signatures: tuple[Signature, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    engine: str | None = None
    counted: tuple[str, ...] = ()


def facts_of(
    context: Context,
    connection: sqlite3.Connection,
    chain: Chain | None,
    standing: Standing | None,
    version: AdapterVersion,
) -> VersionFacts:
    """Gather what is known of `version` in the transaction of `connection`.

    Args:
        context: The home.
        connection: Where rows are read; what they say counts only as far as `standing` names its digest.
        chain: The verified chain.
        standing: Where that chain has the version.
        version: As its row has it.
    """
    if chain is None or standing is None:
        return VersionFacts(data=data_of(version.provenance), engine=installed_engine())
    signatures = checked_signatures(context, connection, chain, standing, version)
    evidence = tuple(_evidence(connection, chain, standing, version))
    counted = [one.digest for one in evidence] + [one.digest for one in signatures if one.is_verified]
    return VersionFacts(
        added_by=None if standing.addition is None else standing.addition.identity,
        data=data_of(version.provenance),
        signatures=tuple(_signature(one) for one in signatures),
        evidence=evidence,
        engine=installed_engine(),
        counted=tuple(sorted(set(counted))),
    )


def data_of(provenance: Provenance) -> tuple[DataSet, ...]:
    """Return the data sets of `provenance` with what was said of them."""
    terms = {each.name: each for each in provenance.dataset_terms}
    return tuple(
        DataSet(name, terms[name].licence, terms[name].data_class) if name in terms else DataSet(name)
        for name in provenance.datasets
    )


def is_trusted(chain: Chain, one: SignedEvidence) -> bool:
    """Whether the key that signed for a piece of evidence is trusted now."""
    return chain.trust.active(one.key_id) is not None


def _evidence(
    connection: sqlite3.Connection, chain: Chain, standing: Standing, version: AdapterVersion
) -> Iterator[Evidence]:
    """Yield what a trusted key has signed for and whose numbers are still those that were signed."""
    rows = evidence_rows.select(connection, str(version.ref)) if standing.evidence else {}
    for one in standing.evidence:
        row = rows.get(one.statement)
        if not is_trusted(chain, one) or row is None or row.digest != one.digest:
            continue
        metrics: dict[str, float] = json.loads(row.metrics)
        if digest_of_metrics(metrics) == one.metrics:
            yield Evidence(one.type.value, one.digest, one.kind, one.passed, metrics)


def _signature(one: FileSignatureRecord) -> Signature:
    return Signature(one.identity or one.signer, one.is_verified, frozenset(one.roles))
