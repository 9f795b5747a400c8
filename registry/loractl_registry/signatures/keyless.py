"""Signatures of files by accounts without a key: sigstore's bundles, verified under the root that a home has pinned."""

from __future__ import annotations

from collections.abc import Sequence

from loractl_registry.signatures.bundle import PAYLOAD_TYPE, Bundle, SignedFiles, parse_signed
from loractl_registry.signatures.errors import BundleError, KeylessInvalidError, UnknownFileSignerError
from loractl_registry.trust.errors import EnvelopeError
from loractl_registry.trust.keyless import Account, claimed_signer, verify_bundle
from loractl_registry.trust.keyless_errors import KeylessSignatureError


def open_keyless(bundle: Bundle, accounts: Sequence[Account]) -> tuple[str, SignedFiles]:
    """Return the id of the one of `accounts` who made `bundle`, and what it is over.

    Raises:
        UnknownFileSignerError: Its certificate names none of them.
        KeylessInvalidError: It names one, and sigstore does not find it signed by that one.
        BundleError: It is malformed, or what it is over is.
    """
    try:
        subjects, issuer = claimed_signer(bundle.data)
    except EnvelopeError as error:
        raise BundleError(f"sigstore cannot read it: {error}") from error
    named = [one for one in accounts if one.subject in subjects and one.issuer == issuer]
    if not named:
        raise UnknownFileSignerError(f"{', '.join(sorted(subjects)) or 'nobody'} of {issuer}")
    refusal: KeylessSignatureError | None = None
    for account in named:
        try:
            payload_type, payload = verify_bundle(bundle.data, account)
        except KeylessSignatureError as error:
            refusal = error
            continue
        if payload_type != PAYLOAD_TYPE:
            raise BundleError(f"its payload type is not {PAYLOAD_TYPE}")
        return account.key_id, parse_signed(payload)
    assert refusal is not None  # noqa: S101  # some account was named
    raise KeylessInvalidError(named[0].subject, refusal.problem) from refusal
