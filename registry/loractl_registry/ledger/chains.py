"""Reading the chain of a home: verified, continued from what was verified before, and held against the checkpoint."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._store import statements
from loractl_registry.home_errors import os_errors_named
from loractl_registry.strict_json import StrictJsonError, parse_object
from loractl_registry.trust import (
    Chain,
    Checkpoint,
    FileWitness,
    MissingCheckpointError,
    RollbackError,
    Signer,
    check_witness,
    sign_checkpoint,
    to_the_second,
    verify_chain,
)
from loractl_registry.trust.checkpoint import PAYLOAD_TYPE as CHECKPOINT_TYPE
from loractl_registry.trust.envelope import unverified_payload
from loractl_registry.trust.keys import Signing
from loractl_registry.trust.statements import PAYLOAD_TYPE, digest_of

CHECKPOINT = "checkpoint.json"
_LOCK = "checkpoint.lock"


@dataclass(frozen=True, slots=True)
class Seen:
    """The checkpoint as it was read before the database, which can only have gone on since."""

    envelope: bytes | None

    def read(self) -> bytes:
        """Return the envelope, or raise `MissingCheckpointError`."""
        if self.envelope is None:
            raise MissingCheckpointError(CHECKPOINT)
        return self.envelope

    def write(self, envelope: bytes) -> None:
        """Do nothing: what was read stays what was read."""


def read_checkpoint(context: Context) -> Seen:
    """Return the checkpoint of the home. Read it before the transaction in which the chain is read."""
    try:
        return Seen(witness_of(context).read())
    except MissingCheckpointError:
        return Seen(None)


def witness_of(context: Context) -> FileWitness:
    """Return where the home keeps its checkpoint."""
    return FileWitness(context.home / CHECKPOINT)


def checked_chain(context: Context, connection: sqlite3.Connection, seen: Seen) -> Chain | None:
    """Return the verified chain, which goes on from the checkpoint; None if nothing was ever signed.

    Raises:
        TrustError: A subclass that says what is wrong with a statement, the chain or the checkpoint.
        MissingCheckpointError: There are statements and no checkpoint.
    """
    chain = verified_chain(context, connection)
    if chain is None:
        # The first identity writes its checkpoint before it commits, so one of sequence 1 may be ahead of nothing.
        if seen.envelope is not None and (witnessed := _claimed_sequence(seen.envelope)) > 1:
            raise RollbackError(0, witnessed)
        return None
    check_witness(seen, chain, context.clock())
    return chain


def verified_chain(context: Context, connection: sqlite3.Connection) -> Chain | None:
    """Return the verified chain without a look at the checkpoint.

    What this process has verified is not verified again as long as the database has the same statement at its end.
    """
    known = context.verified.chain
    if known is not None and _digest_at(connection, known.sequence) != known.head:
        known = None
    envelopes = statements.envelopes_after(connection, 0 if known is None else known.sequence)
    if envelopes:
        known = verify_chain(envelopes, now=context.clock(), after=known)
    context.verified.chain = known
    return known


def write_checkpoint(context: Context, key: Signing) -> None:
    """Sign the head of the chain as it is now, and keep it outside the database."""
    with _sole_writer(context.home):
        with context.database.reading() as connection:
            chain = verified_chain(context, connection)
        grant = None if chain is None else chain.trust.active(key.public.key_id)
        # Whoever revoked the key meanwhile writes the checkpoint.
        if chain is not None and grant is not None:
            witness_of(context).write(checkpoint_of(context, chain, grant.identity, key))


def checkpoint_of(context: Context, chain: Chain, identity: str, key: Signing) -> bytes:
    """Return the signed checkpoint of the head of `chain`."""
    at = max(to_the_second(context.clock()), chain.statements[-1].statement.predicate.at)
    signer = Signer(identity=identity, key_id=key.public.key_id)
    held = Checkpoint(home=chain.trust.home, sequence=chain.sequence, head=chain.head, at=at, signer=signer)
    return sign_checkpoint(held, key)


def _digest_at(connection: sqlite3.Connection, sequence: int) -> str | None:
    envelope = statements.envelope_at(connection, sequence)
    return None if envelope is None else digest_of(unverified_payload(envelope, PAYLOAD_TYPE))


def _claimed_sequence(envelope: bytes) -> int:
    try:
        claimed = parse_object(unverified_payload(envelope, CHECKPOINT_TYPE)).get("sequence")
    except StrictJsonError:
        return 0
    return claimed if isinstance(claimed, int) else 0


@contextmanager
def _sole_writer(home: Path) -> Generator[None]:
    path = home / _LOCK
    with os_errors_named(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
