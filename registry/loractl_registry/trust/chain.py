"""The chain of a home: every statement in order, each linked to the one before, from the first identity to the head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from loractl_registry.trust.errors import ChainError, ForeignHomeError, TrustError
from loractl_registry.trust.statements import AccountStatement, IdentityStatement, Statement, describe
from loractl_registry.trust.trust_store import TrustStore
from loractl_registry.trust.verifying import MAX_CLOCK_SKEW, VerifiedStatement, verify_recorded, verify_root


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified chain.

    Attributes:
        trust: Who is trusted at its head.
        statements: All of it; sequence n is at index n - 1.
    """

    trust: TrustStore
    statements: tuple[VerifiedStatement, ...]

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
    statements = [] if after is None else list(after.statements)
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
    if trust is None:
        raise ChainError("the chain is empty")
    if home is not None and trust.home != home:
        raise ForeignHomeError("chain", trust.home, home)
    return Chain(trust, tuple(statements))


def _require_link(statement: Statement, before: VerifiedStatement) -> None:
    predicate, last = statement.predicate, before.statement.predicate
    if predicate.sequence != last.sequence + 1:
        raise ChainError(f"{describe(statement)} stands where sequence {last.sequence + 1} must")
    if predicate.previous != before.digest:
        raise ChainError(f"{describe(statement)} does not follow the statement before it, which was replaced")
    if last.at - predicate.at > MAX_CLOCK_SKEW:
        raise ChainError(f"{describe(statement)} is dated more than {MAX_CLOCK_SKEW} before the statement before it")
