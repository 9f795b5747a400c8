"""sigstore-python, whose import takes 0.4 s: loaded by what signs and verifies without a key."""

from __future__ import annotations

import logging
import struct
from json import JSONDecodeError

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import (
    DuplicateExtension,
    ExtensionNotFound,
    InvalidVersion,
    ObjectIdentifier,
    RFC822Name,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    UnrecognizedExtension,
    UnsupportedGeneralNameType,
)

from loractl_registry.trust.errors import EnvelopeError
from loractl_registry.trust.keyless_errors import (
    KeylessSignatureError,
    KeylessUnavailableError,
    SigstoreMissingError,
    TrustedRootError,
)

try:
    from sigstore.dsse import Statement
    from sigstore.errors import Error
    from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
    from sigstore.oidc import IdentityError, IdentityToken
    from sigstore.sign import SigningContext
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity
    from sigstore_models.trustroot.v1 import TrustedRoot as RootModel
except ImportError as error:
    raise SigstoreMissingError(error.name or "sigstore") from error

# Of the provider that vouches, in every certificate of Fulcio.
_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")

# What sigstore and the libraries below it raise over what it reads: its own, and what a hostile text brings up there.
_REFUSED = (
    Error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    InvalidSignature,
    UnsupportedAlgorithm,
    DuplicateExtension,
    ExtensionNotFound,
    InvalidVersion,
    UnsupportedGeneralNameType,
)

# It warns of what it then refuses, and Python shows warnings of a library that has no handler on stderr.
logging.getLogger("sigstore").addHandler(logging.NullHandler())


def sign(statement: bytes, token: str) -> bytes:
    """Return the bundle of `statement`, an in-toto statement in JSON, by the account of `token`.

    Raises:
        KeylessUnavailableError: The services cannot be reached, or refuse the token.
    """
    try:
        identity = IdentityToken(token)
        with services().signer(identity) as signer:
            return signer.sign_dsse(Statement(statement)).to_json().encode()
    except (IdentityError, JSONDecodeError, OSError, *_REFUSED) as error:
        # What requests raises is an OSError. None of them holds the token: it travels in a header.
        raise KeylessUnavailableError(_said(error)) from None


def services() -> SigningContext:
    """Return sigstore's public services, after a look at what is current."""
    return SigningContext.from_trust_config(ClientTrustConfig.production())


def verify(bundle: bytes, subject: str, issuer: str, trusted_root: str) -> tuple[str, bytes]:
    """Return type and bytes of what `subject` has signed, as `issuer` vouches, under `trusted_root` alone.

    Raises:
        KeylessSignatureError: It does not hold.
    """
    try:
        verifier = Verifier(trusted_root=_root(trusted_root))
        return verifier.verify_dsse(bundle=Bundle.from_json(bundle), policy=Identity(identity=subject, issuer=issuer))
    except _REFUSED as error:
        raise KeylessSignatureError(subject, issuer, _said(error)) from error


def claimed(bundle: bytes) -> tuple[frozenset[str], str | None]:
    """Return whom the certificate in `bundle` names, and the issuer; nothing of it is verified.

    Raises:
        EnvelopeError: It cannot be read.
    """
    try:
        extensions = Bundle.from_json(bundle).signing_certificate.extensions
        names = extensions.get_extension_for_class(SubjectAlternativeName).value
        subjects = (*names.get_values_for_type(RFC822Name), *names.get_values_for_type(UniformResourceIdentifier))
        found = [one.value for one in extensions if one.oid == _ISSUER]
        issuers = [one.value.decode() for one in found if isinstance(one, UnrecognizedExtension)]
    except _REFUSED as error:
        raise EnvelopeError(_said(error)) from error
    return frozenset(subjects), issuers[0] if issuers else None


def require_root(text: str) -> None:
    """Return if `text` names an authority and both logs.

    Raises:
        TrustedRootError: It does not.
    """
    from sigstore._internal.trust import KeyringPurpose  # the purpose of a ring of keys has no public name

    try:
        root = _root(text)
        root.get_fulcio_certs()
        root.rekor_keyring(KeyringPurpose.VERIFY)
        root.ct_keyring(KeyringPurpose.VERIFY)
    except _REFUSED as error:
        raise TrustedRootError(_said(error)) from error


def public_root() -> str:
    """Return the root of the public instance that sigstore-python has at hand, without a network."""
    # It has no public way to write a root down.
    held = ClientTrustConfig.production(offline=True)
    text: str = held._inner.trusted_root.to_json()  # pyright: ignore[reportPrivateUsage]
    return text


def _root(text: str) -> TrustedRoot:
    return TrustedRoot(RootModel.from_json(text))


def _said(error: BaseException) -> str:
    return ascii(str(error) or type(error).__name__)[1:-1][:300]
