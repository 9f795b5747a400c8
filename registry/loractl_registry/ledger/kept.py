"""Whether the bytes that statements name are still in the database: signatures over files, and evidence."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator

from loractl_registry._context import Context
from loractl_registry._store import evidence as evidence_rows
from loractl_registry.ledger.file_signatures import checked_signatures
from loractl_registry.ledger.metrics import digest_of_metrics
from loractl_registry.ledger.standing import Standing, Standings
from loractl_registry.records import AdapterVersion
from loractl_registry.trust import Chain


def lost_bytes(
    context: Context, connection: sqlite3.Connection, chain: Chain | None, rows: Iterable[AdapterVersion]
) -> Iterator[str]:
    """Yield one line for each signature and piece of evidence of `rows` that is gone or is not what was signed."""
    if chain is None:
        return
    standings = Standings(chain)
    for version in rows:
        standing = standings.get(version.ref)
        if standing is None or standing.digest != version.digest:
            continue
        for one in checked_signatures(context, connection, chain, standing, version):
            if one.problem is not None:
                yield f"{version.ref}: {one.problem}"
        yield from _lost_evidence(connection, standing, version)


def _lost_evidence(connection: sqlite3.Connection, standing: Standing, version: AdapterVersion) -> Iterator[str]:
    held = evidence_rows.select(connection, str(version.ref)) if standing.evidence else {}
    for one in standing.evidence:
        row = held.get(one.statement)
        if row is None:
            yield f"{version.ref}: its {one.type} {one.digest[:19]} is gone"
        elif row.digest != one.digest or digest_of_metrics(json.loads(row.metrics)) != one.metrics:
            yield f"{version.ref}: its {one.type} {one.digest[:19]} is not what was signed"
        elif (body := evidence_rows.body_of(connection, one.digest)) is None:
            yield f"{version.ref}: the bytes of its {one.type} {one.digest[:19]} are gone"
        elif f"sha256:{hashlib.sha256(body).hexdigest()}" != one.digest:
            yield f"{version.ref}: the bytes of its {one.type} {one.digest[:19]} are others than were signed"
