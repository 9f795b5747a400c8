"""Verifying the record of a home without the home: its signatures, its links, and what its halves say of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from loractl_registry._store.chaining import Value, broken_rows
from loractl_registry.audit_records import AuditRecord
from loractl_registry.errors import UsageError
from loractl_registry.ledger.adopting import REASON as ADOPTED
from loractl_registry.strict_json import StrictJsonError, as_object, parse_object
from loractl_registry.trust import Chain, PublicKey, TrustError, load_public_key, verify_chain
from loractl_registry.trust.checkpoint import Checkpoint, check_against, verify_checkpoint

_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class AnchorError(UsageError):
    """What was given to recognise a home by is neither a key, nor the id of one, nor the id of a home."""

    code = "registry.anchor"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"cannot recognise a home by {text[:100]!r}",
            hint="name the .pub file of its first identity, or 64 hexadecimal digits: its key id or the home's id",
        )


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """What verifying a record found.

    Attributes:
        head: Digest of the newest statement, None if the chain does not verify.
        witnessed: Up to which sequence checkpoints reach, 0 if none does.
        problems: One line each; empty if everything is as it was signed.
    """

    home: str
    statements: int
    events: int
    head: str | None
    witnessed: int
    problems: tuple[str, ...]


def parse_anchor(text: str) -> str:
    """Return the 64 hexadecimal digits by which a home is recognised: of its first key, or of the home itself.

    Args:
        text: Those digits, or the path of a public key.

    Raises:
        AnchorError: It is neither.
        TrustError: The file holds no public key.
    """
    if _HEXADECIMAL.fullmatch(text):
        return text
    path = Path(text).expanduser()
    if not path.is_file():
        raise AnchorError(text)
    return load_public_key(path).key_id


def verify_record(
    record: AuditRecord, anchor: str, now: datetime, *, witnesses: Sequence[tuple[str, bytes]] = ()
) -> AuditVerification:
    """Say everything that is wrong with a record.

    Args:
        record: As it was read.
        anchor: Digits of `parse_anchor`; without it, a record that somebody made up would verify.
        now: Nothing may be dated more than 5 minutes after it.
        witnesses: Checkpoints that were kept elsewhere, each with its name. Only they show that both the chain and its
            own checkpoint were cut, or that two histories were written with the same keys.
    """
    problems, chain, witnessed = list[str](), None, 0
    try:
        chain = verify_chain(record.statements, now=now)
    except TrustError as error:
        problems.append(str(error))
    if chain is not None:
        problems += _identity_problems(record, chain, anchor)
        held = [("the checkpoint in it", record.checkpoint), *witnesses]
        for name, envelope in held:
            found = _checkpoint(name, envelope, chain, now)
            if isinstance(found, str):
                problems.append(found)
            else:
                witnessed = max(witnessed, found.sequence)
    problems += broken_rows(record.events)
    if chain is not None:
        problems += _contradictions(record.events, chain)
    head = None if chain is None else chain.head
    return AuditVerification(record.home, len(record.statements), len(record.events), head, witnessed, tuple(problems))


def _identity_problems(record: AuditRecord, chain: Chain, anchor: str) -> Iterator[str]:
    root = chain.trust.root.key_id
    if anchor not in (root, chain.trust.home):
        yield f"it is the record of home {chain.trust.home[:16]} with the first key {root[:16]}, not of {anchor[:16]}"
    if record.home != chain.trust.home:
        yield f"its header names home {record.home[:16]}, and its statements home {chain.trust.home[:16]}"
    # Accounts have no key to be listed: what they are, and under which root, stands in the statements.
    owners = {
        grant.key.key_id: (grant.identity, grant.key.pem)
        for grant in chain.trust.grants
        if isinstance(grant.key, PublicKey)
    }
    for key_id in sorted(owners.keys() | record.keys.keys()):
        if owners.get(key_id) != record.keys.get(key_id):
            yield f"key {key_id[:16]} is not the one that the statements trust"


def _checkpoint(name: str, envelope: bytes | None, chain: Chain, now: datetime) -> Checkpoint | str:
    if envelope is None:
        return f"{name} is missing, so nothing shows whether its end was cut off"
    try:
        checkpoint = verify_checkpoint(envelope, chain.trust, now)
        check_against(checkpoint, chain.digests)
    except TrustError as error:
        return f"{name}: {error}"
    return checkpoint


def _contradictions(events: Sequence[tuple[Value, ...]], chain: Chain) -> Iterator[str]:
    """Say where the audit log and the statements tell different stories."""
    statements = {verified.digest: verified for verified in chain.statements}
    named: set[str] = set()
    for row in events:
        detail = _detail(row)
        digest = None if detail is None else detail.get("statement")
        if detail is None:
            yield f"audit row {row[0]} has a detail that is no JSON object"
        if not isinstance(digest, str) or detail is None:
            continue
        named.add(digest)
        verified = statements.get(digest)
        if verified is None:
            yield f"audit row {row[0]} names the statement {digest[:19]}, which is not there"
            continue
        predicate = verified.statement.predicate
        told = (verified.statement.subject[0].name, getattr(predicate, "to_stage", row[6] or None))
        if (row[4], row[6] or None) != told and row[3] != "adapter.approve":
            yield f"audit row {row[0]} says {row[4]} {row[6] or ''}, and its statement {told[0]} {told[1] or ''}"
        if detail.get("signer", predicate.signer.identity) != predicate.signer.identity:
            yield f"audit row {row[0]} names another signer than its statement"
    for place, verified in enumerate(chain.statements, 1):
        is_adopted = getattr(verified.statement.predicate, "reason", None) == ADOPTED
        if verified.digest not in named and not is_adopted:
            yield f"statement {place} is named by no event of the audit log"


def _detail(row: tuple[Value, ...]) -> dict[str, object] | None:
    try:
        return as_object(parse_object(str(row[8]).encode()))
    except StrictJsonError:
        return None
