"""sigstore-python, whose import takes 0.4 s: loaded by the functions that sign and verify without a key."""

from __future__ import annotations

from sigstore.dsse import Statement
from sigstore.errors import Error, NetworkError, TUFError, VerificationError
from sigstore.models import Bundle, ClientTrustConfig, InvalidBundle
from sigstore.oidc import IdentityError, IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity

from loractl_registry.signatures.errors import BundleError, KeylessInvalidError, KeylessUnavailableError

# What requests raises is an OSError.
_UNREACHABLE = (TUFError, NetworkError, OSError)


def sign(statement: bytes, token: str) -> bytes:
    """Return the bundle of `statement`, an in-toto statement in JSON, by the account of `token`.

    Raises:
        KeylessUnavailableError: The services cannot be reached, or refuse the token.
    """
    try:
        trusted = ClientTrustConfig.production()
        identity = IdentityToken(token)
        with SigningContext.from_trust_config(trusted).signer(identity) as signer:
            return signer.sign_dsse(Statement(statement)).to_json().encode()
    except (*_UNREACHABLE, IdentityError, Error) as error:
        raise KeylessUnavailableError(_said(error)) from error


def verify(bundle: bytes, identity: str, issuer: str) -> tuple[str, bytes]:
    """Return type and bytes of what `identity` has signed, as `issuer` vouches.

    Raises:
        BundleError: sigstore cannot read the bundle.
        KeylessUnavailableError: What it trusts cannot be fetched.
        KeylessInvalidError: It does not hold.
    """
    try:
        held = Bundle.from_json(bundle)
    except (InvalidBundle, ValueError) as error:
        raise BundleError(f"sigstore cannot read it: {_said(error)}") from error
    try:
        verifier = Verifier.production()
        return verifier.verify_dsse(bundle=held, policy=Identity(identity=identity, issuer=issuer))
    except VerificationError as error:
        raise KeylessInvalidError(identity, _said(error)) from error
    except _UNREACHABLE as error:
        raise KeylessUnavailableError(_said(error)) from error


def _said(error: BaseException) -> str:
    return ascii(str(error) or type(error).__name__)[1:-1][:300]
