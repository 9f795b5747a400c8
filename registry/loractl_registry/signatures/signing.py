"""Signing the files of an adapter as OpenSSF model-signing does, with an identity's key or as its account."""

from __future__ import annotations

import importlib
from pathlib import Path

from loractl_registry.records import Manifest
from loractl_registry.signatures.comparing import require_exact_folder
from loractl_registry.signatures.presence import imports_named
from loractl_registry.trust.keyless import AccountSigner
from loractl_registry.trust.keys import Signing


def prepare_signing() -> None:
    """Import the library that signs, so that `sign_manifest` takes no time while others wait.

    Raises:
        SigningUnavailableError: It is not installed.
    """
    with imports_named():
        importlib.import_module("loractl_registry.signatures._library")


def sign_manifest(manifest: Manifest, signer: Signing | AccountSigner, *, name: str) -> bytes:
    """Return the signature of the files of `manifest` in a folder called `name`, without reading them again.

    For who has just hashed them. It is the signature that `sign_files` makes of that folder.

    Raises:
        SigningLibraryError: model-signing refuses.
        SigningUnavailableError: It is not installed.
        RegistryError: As `AccountSigner.bundle` says.
    """
    with imports_named():
        from loractl_registry.signatures import _library  # model-signing takes 0.4 s to import
    payload = _library.payload_from(manifest, name)
    if isinstance(signer, AccountSigner):
        return signer.bundle(_library.statement_of(payload))
    return _library.sign_payload(payload, signer)


def sign_files(folder: Path, manifest: Manifest, key: Signing) -> bytes:
    """Return the signature of the files of `manifest`, which model-signing reads once more below `folder`.

    It is a Sigstore bundle, and what ``model_signing verify key`` takes. What it says of the model's name is the name
    of `folder`: in the store, the digest of the content.

    Raises:
        SignedFilesError: `folder` does not hold exactly those files.
        SigningLibraryError: model-signing refuses.
        SigningUnavailableError: It is not installed.
    """
    require_exact_folder(folder, manifest)
    with imports_named():
        from loractl_registry.signatures import _library  # model-signing takes 0.4 s to import
    return _library.sign_payload(_library.payload_of(folder, manifest), key)
