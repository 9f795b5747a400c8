"""Signed checkpoints: what the head of the chain was, kept where a restored database cannot take them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from loractl_registry.strict_json import StrictJsonError, parse_object
from loractl_registry.trust import fields
from loractl_registry.trust.chain import Chain
from loractl_registry.trust.envelope import sign_envelope, unverified_payload, verify_envelope
from loractl_registry.trust.errors import (
    ForeignHomeError,
    ForkError,
    KeyOwnerError,
    RollbackError,
    StatementError,
    UnknownSignerError,
    WrongSignerError,
)
from loractl_registry.trust.fields import Digest, Hexadecimal, Moment, Signer, Strict, canonical_bytes, is_canonical
from loractl_registry.trust.keyless import AccountSigner, is_bundle
from loractl_registry.trust.keys import Signing
from loractl_registry.trust.roles import Act
from loractl_registry.trust.statements import PAYLOAD_TYPE as STATEMENT_PAYLOAD_TYPE
from loractl_registry.trust.statements import STATEMENT_TYPE, HomeSubject, home_subject, signer_id
from loractl_registry.trust.trust_store import TrustStore
from loractl_registry.trust.verifying import require_bundled, require_past, require_role, require_signed
from loractl_registry.trust.witnesses import Witness

_Said = TypeVar("_Said", bound=Strict)

PAYLOAD_TYPE = "application/vnd.loractl.checkpoint.v1+json"
"""Another type than that of statements, so that no signature over one passes for the other."""


class Checkpoint(Strict):
    """At this time, the chain of this home ended here.

    Attributes:
        sequence: Of the newest statement.
        head: Digest of the newest statement.
    """

    version: Literal[1] = 1
    home: Hexadecimal
    sequence: fields.Sequence
    head: Digest
    at: Moment
    signer: Signer


class _AccountCheckpoint(Strict):
    """A checkpoint as an account signs it: sigstore signs nothing but in-toto statements.

    Its predicate type is none of those that statements have, so that neither passes for the other.
    """

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    predicate_type: Literal["https://loractl.dev/attestation/checkpoint/v1"] = Field(
        default="https://loractl.dev/attestation/checkpoint/v1", alias="predicateType"
    )
    subject: tuple[HomeSubject]
    predicate: Checkpoint


def sign_checkpoint(checkpoint: Checkpoint, signer: Signing | AccountSigner) -> bytes:
    """Return the signed envelope of `checkpoint`; by an account, the bundle that holds it.

    Raises:
        WrongSignerError: It names another key or account than that of `signer`.
        RegistryError: As `AccountSigner.bundle` says.
    """
    named = checkpoint.signer
    if named.key_id != signer_id(signer):
        raise WrongSignerError(_describe(checkpoint), named.identity, named.key_id)
    if isinstance(signer, AccountSigner):
        said = _AccountCheckpoint(subject=home_subject(checkpoint.home), predicate=checkpoint)
        return signer.bundle(canonical_bytes(said))
    return sign_envelope(canonical_bytes(checkpoint), PAYLOAD_TYPE, signer)


def verify_checkpoint(envelope: bytes, trust: TrustStore, now: datetime) -> Checkpoint:
    """Return what `envelope` says, signed by a key that was trusted at that sequence.

    Raises:
        EnvelopeError, SignatureInvalidError, UnknownSignerError: The envelope is not what a trusted key signed.
        KeylessSignatureError: It is a bundle, and not what the account that it names has signed.
        StatementError, ForeignHomeError: What it holds is no checkpoint, or one of another home.
        WrongSignerError, KeyOwnerError: Its signer may not say it.
        KeyNotYetTrustedError, KeyRevokedError: Its signer's key may sign nothing at that sequence.
        FromTheFutureError: It is dated more than 5 minutes after `now`.
    """
    is_bundled = is_bundle(envelope)
    opened = None if is_bundled else verify_envelope(envelope, PAYLOAD_TYPE, trust.keys)
    checkpoint = claimed_checkpoint(envelope) if opened is None else _parse(opened.payload)
    what, signer = _describe(checkpoint), checkpoint.signer
    if checkpoint.home != trust.home:
        raise ForeignHomeError(what, checkpoint.home, trust.home)
    if opened is not None:
        require_signed(what, signer, opened.key_ids)
    grant = trust.witness(what, signer.identity, signer.key_id, checkpoint.sequence)
    if is_bundled:
        require_bundled(what, envelope, signer, grant)
    require_role(what, grant, Act.CHECKPOINT)
    require_past(what, checkpoint.at, now)
    return checkpoint


def claimed_checkpoint(envelope: bytes) -> Checkpoint:
    """Return what an envelope or a bundle says, without a look at a signature.

    Raises:
        EnvelopeError, StatementError: It holds no checkpoint.
    """
    if not is_bundle(envelope):
        return _parse(unverified_payload(envelope, PAYLOAD_TYPE))
    said = _read(_AccountCheckpoint, unverified_payload(envelope, STATEMENT_PAYLOAD_TYPE))
    if said.subject[0].digest.sha256 != said.predicate.home:
        raise StatementError("the subject's digest must be the id of the home")
    return said.predicate


def check_against(checkpoint: Checkpoint, digests: Sequence[str]) -> None:
    """Return if a chain whose statements have `digests`, in order, goes on from what `checkpoint` saw.

    Raises:
        RollbackError: It ends before.
        ForkError: It has another statement at that sequence.
    """
    if len(digests) < checkpoint.sequence:
        raise RollbackError(len(digests), checkpoint.sequence)
    held = digests[checkpoint.sequence - 1]
    if held != checkpoint.head:
        raise ForkError(checkpoint.sequence, held, checkpoint.head)


def check_witness(witness: Witness, chain: Chain, now: datetime) -> Checkpoint:
    """Return the checkpoint that `witness` holds, which `chain` goes on from.

    A witness that was taken back together with the database shows nothing; that takes one which its attacker cannot
    write, such as a repository that is pushed elsewhere.

    Raises:
        MissingCheckpointError: It holds none.
        RollbackError, ForkError: As `check_against` says.
        TrustError: As `verify_checkpoint` says.
    """
    envelope = witness.read()
    try:
        checkpoint = verify_checkpoint(envelope, chain.trust, now)
    except (UnknownSignerError, KeyOwnerError) as error:
        # The copy that was restored may be older than the trust in whoever signed last.
        claimed = claimed_checkpoint(envelope)
        if claimed.home == chain.trust.home and claimed.sequence > chain.sequence:
            raise RollbackError(chain.sequence, claimed.sequence) from error
        raise
    check_against(checkpoint, chain.digests)
    return checkpoint


def _describe(checkpoint: Checkpoint) -> str:
    return f"checkpoint at sequence {checkpoint.sequence}"


def _parse(payload: bytes) -> Checkpoint:
    return _read(Checkpoint, payload)


def _read(kind: type[_Said], payload: bytes) -> _Said:
    try:
        parse_object(payload)
        said = kind.model_validate_json(payload)
    except StrictJsonError as error:
        raise StatementError(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise StatementError(f"{place}: {first['msg'].removeprefix('Value error, ')[:300]}") from error
    if not is_canonical(said, payload):
        raise StatementError("it is not in canonical form")
    return said
