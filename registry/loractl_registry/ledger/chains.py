"""Reading the chain of a home: verified, held against the checkpoint, and gone on from what was verified before."""

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
from loractl_registry.ledger import prefixes
from loractl_registry.strict_json import StrictJsonError, parse_object
from loractl_registry.trust import (
    AccountSigner,
    Chain,
    Checkpoint,
    FileWitness,
    MissingCheckpointError,
    RollbackError,
    Signer,
    Witness,
    check_witness,
    choose_witness,
    sign_checkpoint,
    signer_id,
    to_the_second,
    verify_chain,
)
from loractl_registry.trust.checkpoint import PAYLOAD_TYPE as CHECKPOINT_TYPE
from loractl_registry.trust.checkpoint import claimed_checkpoint
from loractl_registry.trust.envelope import unverified_payload
from loractl_registry.trust.keyless import is_bundle
from loractl_registry.trust.keys import Signing
from loractl_registry.trust.statements import PAYLOAD_TYPE, digest_of

CHECKPOINT = "checkpoint.json"
_LOCK = "checkpoint.lock"


@dataclass(frozen=True, slots=True)
class Seen:
    """The checkpoint as it was read before the database, which can only have gone on since.

    Attributes:
        place: Where it is kept.
        elsewhere: As the witness outside of the home has it; None if there is no such witness.
    """

    envelope: bytes | None
    place: str = CHECKPOINT
    elsewhere: Seen | None = None

    def read(self) -> bytes:
        """Return the envelope, or raise `MissingCheckpointError`."""
        if self.envelope is None:
            raise MissingCheckpointError(self.place)
        return self.envelope

    def write(self, envelope: bytes) -> None:
        """Do nothing: what was read stays what was read."""


def read_checkpoint(context: Context) -> Seen:
    """Return the checkpoint of the home. Read it before the transaction in which the chain is read."""
    home, *others = (_kept_by(witness) for witness in witnesses_of(context))
    return Seen(home, elsewhere=Seen(others[0], str(context.witness)) if others else None)


def witnesses_of(context: Context) -> tuple[Witness, ...]:
    """Return where the checkpoint is kept: in the home, and where the operator wants it besides."""
    home = FileWitness(context.home / CHECKPOINT)
    return (home,) if context.witness is None else (home, choose_witness(context.witness, os.environ))


def _kept_by(witness: Witness) -> bytes | None:
    try:
        return witness.read()
    except MissingCheckpointError:
        return None


def checked_chain(context: Context, connection: sqlite3.Connection, seen: Seen) -> Chain | None:
    """Return the chain, which goes on from the checkpoint, every statement verified by this process.

    Raises:
        TrustError: A subclass that says what is wrong with a statement, the chain or the checkpoint.
        MissingCheckpointError: There are statements and no checkpoint.
    """
    return _witnessed(context, seen, verified_chain(context, connection))


def resumed_chain(context: Context, connection: sqlite3.Connection, seen: Seen) -> Chain | None:
    """Return the chain, as `checked_chain` does; what an earlier process has verified is not verified again.

    For verbs of one person at a terminal. Whatever serves, or says that everything is in order, asks `checked_chain`.
    """
    chain = _witnessed(context, seen, _resumed(context, connection))
    if chain is not None:
        prefixes.keep(context, chain)
    return chain


def _witnessed(context: Context, seen: Seen, chain: Chain | None) -> Chain | None:
    if chain is None:
        # The first identity writes its checkpoint before it commits, so one of sequence 1 may be ahead of nothing.
        for envelope in (seen.envelope, None if seen.elsewhere is None else seen.elsewhere.envelope):
            if envelope is not None and (witnessed := _claimed_sequence(envelope)) > 1:
                raise RollbackError(0, witnessed)
        return None
    check_witness(seen, chain, context.clock())
    if seen.elsewhere is not None:
        check_witness(seen.elsewhere, chain, context.clock())
    return chain


def verified_chain(context: Context, connection: sqlite3.Connection) -> Chain | None:
    """Return the verified chain without a look at the checkpoint; None if nothing was ever signed.

    What this process has verified is not verified again as long as the database has the same statement at its end.
    """
    known = _known(context, connection)
    return _gone_on(context, connection, None if known is not None and known.reopened else known)


def _resumed(context: Context, connection: sqlite3.Connection) -> Chain | None:
    return _gone_on(context, connection, _known(context, connection) or prefixes.resume(context, connection))


def _known(context: Context, connection: sqlite3.Connection) -> Chain | None:
    known = context.verified.chain
    return known if known is not None and _digest_at(connection, known.sequence) == known.head else None


def _gone_on(context: Context, connection: sqlite3.Connection, known: Chain | None) -> Chain | None:
    envelopes = statements.envelopes_after(connection, 0 if known is None else known.sequence)
    if envelopes:
        known = verify_chain(envelopes, now=context.clock(), after=known)
    context.verified.chain = known
    return known


def write_checkpoint(context: Context, key: Signing | AccountSigner) -> None:
    """Sign the head of the chain as it is now, and keep it outside the database."""
    with _sole_writer(context.home):
        with context.database.reading() as connection:
            chain = _resumed(context, connection)
        grant = None if chain is None else chain.trust.active(signer_id(key))
        # Whoever revoked the key meanwhile writes the checkpoint.
        if chain is not None and grant is not None:
            envelope = checkpoint_of(context, chain, grant.identity, key)
            for witness in witnesses_of(context):
                witness.write(envelope)
            prefixes.keep(context, chain)


def checkpoint_of(context: Context, chain: Chain, identity: str, key: Signing | AccountSigner) -> bytes:
    """Return the signed checkpoint of the head of `chain`."""
    at = max(to_the_second(context.clock()), chain.statements[-1].statement.predicate.at)
    signer = Signer(identity=identity, key_id=signer_id(key))
    held = Checkpoint(home=chain.trust.home, sequence=chain.sequence, head=chain.head, at=at, signer=signer)
    return sign_checkpoint(held, key)


def _digest_at(connection: sqlite3.Connection, sequence: int) -> str | None:
    envelope = statements.envelope_at(connection, sequence)
    return None if envelope is None else digest_of(unverified_payload(envelope, PAYLOAD_TYPE))


def _claimed_sequence(envelope: bytes) -> int:
    if is_bundle(envelope):
        return claimed_checkpoint(envelope).sequence
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
