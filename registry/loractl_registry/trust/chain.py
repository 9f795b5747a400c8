"""The chain of a home: every statement in order, each linked to the one before, from the first identity to the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

from loractl_registry.trust.envelope import unverified_payload
from loractl_registry.trust.errors import ChainError, ForeignHomeError, TrustError
from loractl_registry.trust.statements import (
    PAYLOAD_TYPE,
    AccountStatement,
    IdentityStatement,
    PredicateType,
    Statement,
    describe,
    parse_statement,
)
from loractl_registry.trust.transcript import Indexed, KeptRow, Transcript
from loractl_registry.trust.trust_store import Grant, TrustStore
from loractl_registry.trust.verifying import (
    MAX_CLOCK_SKEW,
    require_past,
    verify_recorded,
    verify_root,
)


class Entry(Indexed, Protocol):
    """A statement in its place of a verified chain."""

    @property
    def statement(self) -> Statement:
        """What it says."""
        ...


class ReopenedStatement:
    """A statement whose row an earlier process verified; what it says is read when somebody asks."""

    __slots__ = ("_envelope", "_statement", "digest", "kind", "subject")

    def __init__(self, row: KeptRow) -> None:
        self.digest, self.kind, self.subject, self._envelope = row.digest, row.kind, row.subject, row.envelope
        self._statement: Statement | None = None

    @property
    def statement(self) -> Statement:
        """As `Entry` says."""
        if self._statement is None:
            self._statement = parse_statement(unverified_payload(self._envelope, PAYLOAD_TYPE))
        return self._statement


@dataclass(frozen=True)
class Chain:
    """A verified chain.

    Attributes:
        trust: Who is trusted at its head.
        statements: All of it; sequence n is at index n - 1.
        latest: The latest date in it.
        transcript: Over all of it, as a store must keep it.
        reopened: How many, from the first on, an earlier process verified; 0 if this one has verified everything.
    """

    trust: TrustStore
    statements: Sequence[Entry]
    latest: datetime
    transcript: Transcript = field(compare=False)
    reopened: int = field(default=0, compare=False)

    @property
    def sequence(self) -> int:
        """Sequence of the newest statement."""
        return len(self.statements)

    @property
    def head(self) -> str:
        """Digest of the newest statement."""
        return self.statements[-1].digest

    @property
    def digests(self) -> tuple[str, ...]:
        """Digest of every statement, in order."""
        return tuple(each.digest for each in self.statements)

    def granted(self, statement: Statement) -> Grant:
        """Return what the signer of a statement of this chain might do when it was signed."""
        signer = statement.predicate.signer
        return self.trust.grant_at(describe(statement), signer.identity, signer.key_id, statement.predicate.sequence)

    @cached_property
    def by_subject(self) -> Mapping[str, Sequence[Entry]]:
        """The statements about each version, base and identity, in order."""
        held: dict[str, list[Entry]] = {}
        for entry in self.statements:
            held.setdefault(entry.subject, []).append(entry)
        return held

    def of_kind(self, kind: PredicateType) -> tuple[Entry, ...]:
        """Return the statements with that predicate, in order."""
        word = kind.word
        return tuple(entry for entry in self.statements if entry.kind == word)


def verify_chain(
    envelopes: Iterable[bytes], *, now: datetime, home: str | None = None, after: Chain | None = None
) -> Chain:
    """Verify every statement of a home, and fold those about identities into who is trusted.

    What has expired is no error here: it held once.

    Args:
        envelopes: In the order of their sequences.
        now: Nothing may be dated more than 5 minutes after it.
        home: The id that the chain must have, where it is known: what tells it from one that somebody else began.
        after: Go on from here; `envelopes` are then only what follows.

    Raises:
        ChainError: One is missing, out of order, repeated or replaced, or there is none at all.
        TrustError: As `verify_recorded` and `TrustStore.after` say. `place` says which statement it is about.

    A chain that was cut at its end is whole in itself; only a checkpoint shows that.
    """
    trust = None if after is None else after.trust
    statements = list[Entry]() if after is None else list(after.statements)
    transcript = Transcript() if after is None else after.transcript.copy()
    latest = None if after is None else after.latest
    for place, envelope in enumerate(envelopes, len(statements) + 1):
        try:
            if trust is None:
                verified, trust = verify_root(envelope, now)
            else:
                verified = verify_recorded(envelope, trust, now)
                _require_link(verified.statement, statements[-1])
                if isinstance(verified.statement, AccountStatement | IdentityStatement):
                    trust = trust.after(verified.statement)
        except TrustError as error:
            error.place = place
            raise
        statements.append(verified)
        transcript.add(verified.digest, verified.kind, verified.subject, envelope)
        at = verified.statement.predicate.at
        latest = at if latest is None else max(latest, at)
    if trust is None or latest is None:
        raise ChainError("the chain is empty")
    if home is not None and trust.home != home:
        raise ForeignHomeError("chain", trust.home, home)
    return Chain(trust, tuple(statements), latest, transcript, 0 if after is None else after.reopened)


def reopen_chain(rows: Sequence[KeptRow], transcript: Transcript, *, latest: datetime, now: datetime) -> Chain:
    """Take up a chain that was verified before, over these very rows, by the same rules: whoever calls has proof of it.

    No signature is verified again. What depends on the time is judged again, and who is trusted is derived again.

    Args:
        rows: All of them, at least one.
        transcript: Over `rows`.
        latest: The latest date in them.
        now: As in `verify_chain`.

    Raises:
        FromTheFutureError: Something in it is dated more than 5 minutes after `now`.
        TrustError: The rows were never verified.
    """
    require_past("the newest of the statements", latest, now)
    entries = tuple(ReopenedStatement(row) for row in rows)
    trust: TrustStore | None = None
    identities = {PredicateType.IDENTITY.word, PredicateType.ACCOUNT.word}
    for entry in (entry for entry in entries if entry.kind in identities):
        if trust is not None and isinstance(entry.statement, AccountStatement | IdentityStatement):
            trust = trust.after(entry.statement)
        elif isinstance(entry.statement, IdentityStatement):
            trust = TrustStore.begin(entry.statement)
    if trust is None:
        raise ChainError("the chain does not begin with an identity")
    return Chain(trust, entries, latest, transcript, len(entries))


def _require_link(statement: Statement, before: Entry) -> None:
    predicate, last = statement.predicate, before.statement.predicate
    if predicate.sequence != last.sequence + 1:
        raise ChainError(f"{describe(statement)} stands where sequence {last.sequence + 1} must")
    if predicate.previous != before.digest:
        raise ChainError(f"{describe(statement)} does not follow the statement before it, which was replaced")
    if last.at - predicate.at > MAX_CLOCK_SKEW:
        raise ChainError(f"{describe(statement)} is dated more than {MAX_CLOCK_SKEW} before the statement before it")
