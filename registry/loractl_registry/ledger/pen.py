"""A write transaction that also signs: each statement commits together with the change that it is about."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TypedDict

from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._store import audit, statements
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.statements import StoredStatement
from loractl_registry.ledger.chains import (
    Seen,
    checkpoint_of,
    read_checkpoint,
    resumed_chain,
    witnesses_of,
    write_checkpoint,
)
from loractl_registry.ledger.facts import VersionFacts, facts_of
from loractl_registry.ledger.identities import ALL_ROLES, Acting, acting_identity, new_key
from loractl_registry.ledger.judging import Judge, home_policy
from loractl_registry.ledger.standing import Standing, Standings
from loractl_registry.policies import Policy
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import VersionRef
from loractl_registry.trust import (
    AccountSigner,
    Chain,
    IdentityChange,
    IdentityKey,
    IdentityStatement,
    IdentityVerb,
    Role,
    Signer,
    Statement,
    home_id,
    identity_subject,
    sign_statement,
    signer_id,
    to_the_second,
    verify_chain,
)


class Place(TypedDict):
    """What every predicate says of its place in the chain."""

    home: str
    sequence: int
    previous: str | None
    at: datetime
    signer: Signer


class Pen:
    """Signs inside one write transaction, and remembers the chain as that transaction leaves it."""

    def __init__(
        self, context: Context, connection: sqlite3.Connection, chain: Chain | None, seen: Seen, actor: str
    ) -> None:
        self.context, self.connection, self.chain, self.actor = context, connection, chain, actor
        self.at = context.clock()
        self._seen = seen
        self._signed, self._is_settling = 0, False
        self._folded: tuple[Chain | None, Standings] = (chain, Standings(chain))

    @cached_property
    def policy(self) -> Policy:
        """The policy of the home."""
        return home_policy(self.context)

    @cached_property
    def acting(self) -> Acting:
        """Who signs."""
        return acting_identity(self.context, self.chain, self.policy, actor=self.actor)

    @property
    def judge(self) -> Judge:
        """Who is judged by which policy."""
        return Judge(self.policy, self.acting.name, self.acting.roles)

    @property
    def standings(self) -> Standings:
        """Where every version stands by what was signed so far."""
        if self._folded[0] is not self.chain:
            self._folded = (self.chain, Standings(self.chain))
        return self._folded[1]

    @property
    def has_signed(self) -> bool:
        """Whether anything was signed in this transaction."""
        return self._signed > 0

    def standing(self, ref: VersionRef, digest: str) -> Standing:
        """Return where `ref` stands; without a statement, as a draft of that content."""
        return self.standings.get(ref) or Standing(digest)

    def facts(self, version: AdapterVersion) -> VersionFacts:
        """Return what the policy may know of `version` at this point."""
        return facts_of(self.context, self.connection, self.chain, self.standings.get(version.ref), version)

    def place(self) -> Place:
        """Return what the next statement says of its place; the first one begins the chain with an identity."""
        if self.chain is None:
            self.begin(self.acting.name, self.acting.key)
        elif not self._is_settling and not self.standings.is_complete and Role.OPERATOR in self.acting.roles:
            self._settle(is_adopting=False)
        key, chain = self.acting.key, self.chain
        assert key is not None and chain is not None  # noqa: S101, PT018  # `begin` made both
        last = chain.statements[-1].statement.predicate
        return Place(
            home=chain.trust.home,
            sequence=chain.sequence + 1,
            previous=chain.head,
            # A clock that was set back must not date a statement before the one that it follows.
            at=max(to_the_second(self.at), last.at),
            signer=Signer(identity=self.acting.name, key_id=signer_id(key)),
        )

    def sign(self, statement: Statement) -> str:
        """Sign `statement`, verify it as every reader will, and write it down; return its digest.

        Raises:
            TrustError: The one who acts may not say it.
        """
        key = self.acting.key
        assert key is not None  # noqa: S101  # `place` was asked before
        self._write(sign_statement(statement, key))
        return self._head()

    def begin(self, name: str, key: IdentityKey | AccountSigner | None) -> None:
        """Begin the chain: an identity with all roles that vouches for itself, with a key."""
        if not isinstance(key, IdentityKey):
            key = new_key(self.context, name, passphrase=self.context.signing.passphrase)
        reach("sign.before_root")
        nonce = secrets.token_hex(16)
        change = IdentityChange(
            home=home_id(key.public.key_id, nonce),
            sequence=1,
            previous=None,
            at=to_the_second(self.at),
            signer=Signer(identity=name, key_id=key.public.key_id),
            verb=IdentityVerb.CREATE,
            roles=tuple(Role),
            public_key=key.public.pem,
            nonce=nonce,
        )
        root = IdentityStatement(subject=identity_subject(name, key.public.key_id), predicate=change)
        self.acting = Acting(name, ALL_ROLES, key)
        self._write(sign_statement(root, key))
        root_alone = self.chain
        assert root_alone is not None  # noqa: S101  # it was just begun
        detail = {"statement": self._head(), "key_id": key.public.key_id, "roles": sorted(Role)}
        audit.append(self.connection, NewEvent("identity.create", name, self.actor, self.at, detail=detail))
        self._settle(is_adopting=self._seen.envelope is None)
        # Before the commit, so that a chain is never without a checkpoint: killed in between, it is ahead of nothing.
        envelope = checkpoint_of(self.context, root_alone, name, key)
        for witness in witnesses_of(self.context):
            witness.write(envelope)
        reach("sign.after_root")

    def _settle(self, *, is_adopting: bool) -> None:
        """Sign for what is older than statements, or than additions; from then on nothing else is."""
        from loractl_registry.ledger.adopting import adopt, list_older  # they need a pen

        self._is_settling = True
        if is_adopting:
            adopt(self)
        list_older(self)
        self._is_settling = False

    def _write(self, envelope: bytes) -> None:
        self.chain = verify_chain([envelope], now=self.at, after=self.chain)
        last = self.chain.statements[-1]
        stored = StoredStatement(self.chain.sequence, last.digest, last.kind, last.subject, envelope)
        statements.append(self.connection, stored)
        self._signed += 1

    def _head(self) -> str:
        assert self.chain is not None  # noqa: S101  # something was just written
        return self.chain.head


@contextmanager
def signed_writing(context: Context, *, actor: str) -> Generator[Pen]:
    """Hold the one write transaction, with a pen; after the commit, write the checkpoint.

    Raises:
        TrustError: The chain or its checkpoint is not what was signed; nothing may build on it.
    """
    with context.database.writing() as connection:
        # Nobody commits beside the one who writes, so the checkpoint is not ahead of what is read here.
        seen = read_checkpoint(context)
        pen = Pen(context, connection, resumed_chain(context, connection, seen), seen, actor)
        yield pen
    if pen.has_signed:
        context.verified.chain = pen.chain
        reach("sign.after_commit")
        if pen.acting.key is not None:
            write_checkpoint(context, pen.acting.key)
