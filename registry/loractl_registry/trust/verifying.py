"""Whether to believe a statement: its signature, its signer's key and role at that sequence, its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from loractl_registry.trust.envelope import VerifiedPayload, unverified_payload, verify_envelope
from loractl_registry.trust.errors import (
    EnvelopeError,
    ExpiredError,
    ForeignHomeError,
    FromTheFutureError,
    RoleError,
    StatementError,
    WrongSignerError,
)
from loractl_registry.trust.fields import Signer
from loractl_registry.trust.identity_predicates import IdentityVerb
from loractl_registry.trust.keyless import Account, is_bundle, verify_bundle
from loractl_registry.trust.predicates import Granting
from loractl_registry.trust.roles import MAY_SIGN, Act
from loractl_registry.trust.statements import (
    PAYLOAD_TYPE,
    IdentityStatement,
    Statement,
    describe,
    digest_of,
    parse_statement,
)
from loractl_registry.trust.trust_store import Grant, TrustStore

MAX_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """A statement that may be believed, if it has its place in the chain: see `verify_chain`.

    Attributes:
        digest: Digest of the signed bytes, which the next statement names.
        grant: What the signer's key was trusted with at that sequence.
        key_ids: Every known key whose signature is on it.
    """

    statement: Statement
    digest: str
    grant: Grant
    key_ids: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What it does, in one word."""
        return self.statement.predicate_type.word

    @property
    def subject(self) -> str:
        """Name of what it is about."""
        return self.statement.subject[0].name


def verify_statement(envelope: bytes, trust: TrustStore, now: datetime) -> VerifiedStatement:
    """Return what `envelope` says if it holds at `now`.

    Alone it proves who said so, not that nothing was said since: a thief of a key that was revoked at sequence 9 can
    still sign a statement that claims sequence 3. `verify_chain` finds that, because place 3 is taken.

    Raises:
        TrustError: As `verify_recorded` says; ExpiredError: It held once, and `now` is at or after its expiry.
    """
    verified = verify_recorded(envelope, trust, now)
    require_unexpired(verified.statement, now)
    return verified


def verify_recorded(envelope: bytes, trust: TrustStore, now: datetime) -> VerifiedStatement:
    """Return what `envelope` says, whether or not it has expired since: what a history needs.

    Raises:
        EnvelopeError, SignatureInvalidError, UnknownSignerError: The envelope is not what a trusted key signed.
        KeylessSignatureError: It is a bundle, and not what the account that it names has signed.
        StatementError, PredicateTypeError, ForeignHomeError: What it holds is not ours, or not for this home.
        WrongSignerError, KeyOwnerError, RoleError: Its signer may not say it.
        KeyNotYetTrustedError, KeyRevokedError: Its signer's key may sign nothing at that sequence.
        FromTheFutureError: It is dated more than 5 minutes after `now`.
    """
    opened = _opened(envelope, trust)
    statement = parse_statement(opened.payload)
    predicate, what = statement.predicate, describe(statement)
    if predicate.home != trust.home:
        raise ForeignHomeError(what, predicate.home, trust.home)
    require_signed(what, predicate.signer, opened.key_ids)
    grant = trust.grant_at(what, predicate.signer.identity, predicate.signer.key_id, predicate.sequence)
    require_role(what, grant, predicate.act)
    require_past(what, predicate.at, now)
    return VerifiedStatement(statement, digest_of(opened.payload), grant, opened.key_ids)


def _opened(envelope: bytes, trust: TrustStore) -> VerifiedPayload:
    """Return what is in the envelope, signed by a known key, or in the bundle, signed by the account that it names."""
    if not is_bundle(envelope):
        return verify_envelope(envelope, PAYLOAD_TYPE, trust.keys)
    payload = unverified_payload(envelope, PAYLOAD_TYPE)
    claimed = parse_statement(payload)
    signer, sequence = claimed.predicate.signer, claimed.predicate.sequence
    grant = trust.grant_at(describe(claimed), signer.identity, signer.key_id, sequence)
    require_bundled(describe(claimed), envelope, signer, grant)
    return VerifiedPayload(payload, (signer.key_id,))


def verify_root(envelope: bytes, now: datetime) -> tuple[VerifiedStatement, TrustStore]:
    """Return the first statement of a home and the trust that begins with it; its key is the one that it brings.

    Raises:
        TrustError: It is no first statement, or not signed by its own key.
    """
    statement = parse_statement(unverified_payload(envelope, PAYLOAD_TYPE))
    what = describe(statement)
    if not isinstance(statement, IdentityStatement) or statement.predicate.verb is not IdentityVerb.CREATE:
        raise StatementError(f"a chain begins with the creation of an identity, not with {what}")
    trust = TrustStore.begin(statement)
    (grant,) = trust.grants
    opened = verify_envelope(envelope, PAYLOAD_TYPE, trust.keys)
    require_role(what, grant, Act.CHANGE_IDENTITIES)
    require_past(what, statement.predicate.at, now)
    return VerifiedStatement(statement, digest_of(opened.payload), grant, opened.key_ids), trust


def require_unexpired(statement: Statement, now: datetime) -> None:
    """Return if `statement` holds at `now`; the second of its expiry is the first at which it does not.

    Raises:
        ExpiredError: It does not.
    """
    predicate = statement.predicate
    if isinstance(predicate, Granting) and predicate.expires is not None and now >= predicate.expires:
        raise ExpiredError(describe(statement), predicate.expires)


def require_signed(what: str, signer: Signer, key_ids: tuple[str, ...]) -> None:
    """Return if the key that `what` names is one that signed it, or raise `WrongSignerError`."""
    if signer.key_id not in key_ids:
        raise WrongSignerError(what, signer.identity, signer.key_id)


def require_bundled(what: str, bundle: bytes, signer: Signer, grant: Grant) -> None:
    """Return if the account of `grant`, which `what` names as its signer, has signed what is in `bundle`.

    Under the root that was pinned when it was signed: a newer one need not know the logs of then.

    Raises:
        WrongSignerError: `grant` is that of a key.
        KeylessSignatureError, EnvelopeError: It has not.
    """
    if not isinstance(grant.key, Account):
        raise WrongSignerError(what, signer.identity, signer.key_id)
    if verify_bundle(bundle, grant.key) != (PAYLOAD_TYPE, unverified_payload(bundle, PAYLOAD_TYPE)):
        raise EnvelopeError("two readers find two statements in it")


def require_role(what: str, grant: Grant, act: Act) -> None:
    """Return if `grant` allows `act`, or raise `RoleError`."""
    if not grant.roles & MAY_SIGN[act]:
        raise RoleError(what, grant.identity, grant.roles, MAY_SIGN[act])


def require_past(what: str, at: datetime, now: datetime) -> None:
    """Return if `at` is not later than clocks may differ, or raise `FromTheFutureError`."""
    if at - now > MAX_CLOCK_SKEW:
        raise FromTheFutureError(what, at, now)
