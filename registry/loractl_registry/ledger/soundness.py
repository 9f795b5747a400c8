"""Whether anything may build on a version: its row, the signatures over its files, and its newest scan."""

from __future__ import annotations

import sqlite3

from loractl_registry._context import Context
from loractl_registry.ledger.errors import DisagreementError, QuarantinedError
from loractl_registry.ledger.facts import is_trusted
from loractl_registry.ledger.file_signatures import signature_objection
from loractl_registry.ledger.standing import SignedEvidence, Standing, Standings, objection_to
from loractl_registry.records import AdapterVersion
from loractl_registry.trust import Chain, EvidenceType


def require_sound(
    context: Context,
    connection: sqlite3.Connection,
    chain: Chain | None,
    standings: Standings,
    version: AdapterVersion,
) -> None:
    """Return if the row of `version` is what was signed, with its signatures, and its newest scan did not fail.

    Raises:
        DisagreementError: Something is not what was signed.
        QuarantinedError: Its newest scan failed.
    """
    if chain is None:
        return
    if (objection := unsound(context, connection, chain, standings, version)) is not None:
        raise DisagreementError(version.ref, objection)
    standing = standings.get(version.ref)
    if standing is not None and (failed := failed_scan(chain, standing)) is not None:
        raise QuarantinedError(version.ref, failed.digest)


def unsound(
    context: Context, connection: sqlite3.Connection, chain: Chain, standings: Standings, version: AdapterVersion
) -> str | None:
    """Return why the row of `version`, or a signature over its files, is not what was signed; None if all is."""
    objection, standing = objection_to(version, standings), standings.get(version.ref)
    if objection is None and standing is not None:
        return signature_objection(context, connection, chain, standing, version)
    return objection


def failed_scan(chain: Chain, standing: Standing) -> SignedEvidence | None:
    """Return the scan that keeps a version in quarantine, None if none does."""
    newest = newest_scan(chain, standing)
    return newest if newest is not None and newest.passed is False else None


def newest_scan(chain: Chain, standing: Standing) -> SignedEvidence | None:
    """Return the newest scan of a version that counts, None if there is none.

    A scan that failed counts whoever signed for it; one that passed counts only while its key is trusted.
    """
    scans = (one for one in reversed(standing.evidence) if one.type is EvidenceType.SCAN)
    return next((one for one in scans if one.passed is False or is_trusted(chain, one)), None)
