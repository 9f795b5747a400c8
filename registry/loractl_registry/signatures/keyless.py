"""Signing and verifying with sigstore's short-lived certificates instead of a key; needs the network.

What signs is an account that an OpenID provider vouches for, and what is signed stands in a public log for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loractl_registry.records import Manifest
from loractl_registry.signatures.bundle import PAYLOAD_TYPE, Bundle, SignatureKind, SignedFiles, parse_signed
from loractl_registry.signatures.comparing import require_exact_folder
from loractl_registry.signatures.errors import BundleError, WrongSignatureKindError
from loractl_registry.signatures.presence import imports_named
from loractl_registry.signatures.shipped import ShippedSignature, require_folder_signed
from loractl_registry.signatures.verifying import FileSignature


@dataclass(frozen=True, slots=True)
class KeylessIdentity:
    """Who must have signed.

    Attributes:
        identity: What the certificate is for: an address, or the URI of a workflow.
        issuer: URL of the OpenID provider that vouches for it.
    """

    identity: str
    issuer: str


def sign_files_keyless(folder: Path, manifest: Manifest, *, token: str) -> bytes:
    """Return the signature of the files of `manifest` below `folder`, by the account of the OpenID `token`.

    The account, and the digests of the files, become public.

    Raises:
        KeylessUnavailableError: Sigstore's services cannot be reached, or refuse the token.
        SignedFilesError: `folder` does not hold exactly those files.
        SigningUnavailableError: The library is not installed.
    """
    require_exact_folder(folder, manifest)
    with imports_named():
        from loractl_registry.signatures import _library, _sigstore  # 0.4 s to import
    payload = _library.payload_of(folder, manifest)
    return _sigstore.sign(_library.statement_of(payload), token)


def verify_shipped_keyless(
    folder: Path, manifest: Manifest, shipped: ShippedSignature, who: KeylessIdentity
) -> FileSignature:
    """Do what `verify_shipped` does for a signature by the account `who`.

    Raises:
        WrongSignatureKindError: It was made with a key or with a certificate of one's own authority.
        KeylessUnavailableError: What sigstore trusts cannot be fetched.
        KeylessInvalidError: It is not by `who`, or not over what it holds.
        SignedFilesError: It is over other files than those in `folder`.
    """
    signed = open_keyless(shipped.bundle, who)
    not_taken = require_folder_signed(folder, manifest, signed)
    return FileSignature(SignatureKind.KEYLESS, who.identity, signed.name, shipped.bundle.digest, not_taken)


def open_keyless(bundle: Bundle, who: KeylessIdentity) -> SignedFiles:
    """Return what `who` has signed.

    Raises:
        WrongSignatureKindError, KeylessUnavailableError, KeylessInvalidError, BundleError: As `verify_shipped_keyless`
            says.
    """
    if bundle.kind is not SignatureKind.KEYLESS:
        raise WrongSignatureKindError(f"a {bundle.kind}", "verify it with the public key of its signer")
    with imports_named():
        from loractl_registry.signatures import _sigstore  # 0.4 s to import
    payload_type, payload = _sigstore.verify(bundle.data, who.identity, who.issuer)
    if payload_type != PAYLOAD_TYPE:
        raise BundleError(f"its payload type is not {PAYLOAD_TYPE}")
    return parse_signed(payload)
