"""Signatures of an adapter's files, as OpenSSF model-signing writes them: who says that these bytes are what they made.

A signature says who, and neither which version nor whether it may be used: that is for the statements of
`loractl_registry.trust`. Imports cryptography: import it where it is used.
"""

from __future__ import annotations

from loractl_registry.signatures.bundle import Bundle, SignatureKind, SignedFiles, parse_bundle
from loractl_registry.signatures.errors import (
    BundleError,
    FileSignatureError,
    SignedFilesError,
    SigningUnavailableError,
    UnknownFileSignerError,
    WrongSignatureKindError,
)
from loractl_registry.signatures.shipped import (
    SHIPPED_NAME,
    ShippedSignature,
    examine_shipped,
    find_shipped,
    verify_shipped,
    verify_shipped_again,
)
from loractl_registry.signatures.signing import prepare_signing, sign_files, sign_manifest
from loractl_registry.signatures.verifying import FileSignature, verify_files, verify_files_again, verify_manifest

__all__ = [
    "SHIPPED_NAME",
    "Bundle",
    "BundleError",
    "FileSignature",
    "FileSignatureError",
    "ShippedSignature",
    "SignatureKind",
    "SignedFiles",
    "SignedFilesError",
    "SigningUnavailableError",
    "UnknownFileSignerError",
    "WrongSignatureKindError",
    "examine_shipped",
    "find_shipped",
    "parse_bundle",
    "prepare_signing",
    "sign_files",
    "sign_manifest",
    "verify_files",
    "verify_files_again",
    "verify_manifest",
    "verify_shipped",
    "verify_shipped_again",
]
