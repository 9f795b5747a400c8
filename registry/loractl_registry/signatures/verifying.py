"""Whether trusted keys have signed exactly the files of a manifest.

The files are not read: the signature is over their digests, and whoever has the manifest has hashed them. So it takes
one signature and a small JSON text, and model-signing, with its import of 0.4 s, is only asked for a second opinion.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.records import Manifest
from loractl_registry.signatures.bundle import (
    PAYLOAD_TYPE,
    Bundle,
    SignatureKind,
    SignedFiles,
    parse_bundle,
    parse_signed,
)
from loractl_registry.signatures.comparing import require_exact_folder, require_nothing_else, require_signed
from loractl_registry.signatures.errors import (
    BundleError,
    FileSignatureInvalidError,
    RenamedFolderError,
    UnknownFileSignerError,
    WrongSignatureKindError,
)
from loractl_registry.signatures.keyless import open_keyless
from loractl_registry.signatures.presence import imports_named
from loractl_registry.trust.envelope import verify_envelope
from loractl_registry.trust.errors import EnvelopeError, SignatureInvalidError, short
from loractl_registry.trust.keyless import Account
from loractl_registry.trust.keys import PublicKey


@dataclass(frozen=True, slots=True)
class FileSignature:
    """A signature that holds for the files that it was compared with.

    Attributes:
        signer: Id of the key, or of the account that signed without one.
        name: What the signer called the model. Signed, and yet free text: nothing binds it to a version.
        digest: ``sha256:hex`` of the signature file.
        not_taken: Files that are signed too and that an adapter does not need, so that they were not compared.
    """

    kind: SignatureKind
    signer: str
    name: str
    digest: str
    not_taken: tuple[str, ...] = ()


def verify_files(
    folder: Path, manifest: Manifest, bundle: bytes, signers: Iterable[PublicKey | Account]
) -> FileSignature:
    """Return who of `signers` signed exactly the files of `manifest`, under the name that `folder` has.

    `folder` is looked at and not read; that its files have the digests of `manifest` is for the caller to know.

    Raises:
        BundleError: `bundle` is malformed, or over something else than files.
        WrongSignatureKindError: It was made with a certificate, and nobody here is an account.
        UnknownFileSignerError, FileSignatureInvalidError, KeylessInvalidError: None of `signers` made it.
        SignedFilesError: It is over other files, or `folder` holds something else; each is named.
        RenamedFolderError: The files were signed under another name.
        RegistryError: The operating system refused.
    """
    opened = parse_bundle(bundle)
    signer, signed = open_signed(opened, signers)
    require_signed(signed, manifest)
    require_nothing_else(signed, manifest)
    require_exact_folder(folder, manifest)
    if signed.name != folder.name:
        raise RenamedFolderError(signed.name, folder.name)
    return FileSignature(opened.kind, signer, signed.name, opened.digest)


def verify_manifest(
    manifest: Manifest, bundle: bytes, signers: Iterable[PublicKey | Account], *, name: str
) -> FileSignature:
    """Do what `verify_files` does for a folder called `name`, without a look at it: for who has checked its files.

    Raises:
        FileSignatureError: As `verify_files` says.
    """
    opened = parse_bundle(bundle)
    signer, signed = open_signed(opened, signers)
    require_signed(signed, manifest)
    require_nothing_else(signed, manifest)
    if signed.name != name:
        raise RenamedFolderError(signed.name, name)
    return FileSignature(opened.kind, signer, signed.name, opened.digest)


def verify_files_again(folder: Path, manifest: Manifest, bundle: bytes, keys: Iterable[PublicKey]) -> FileSignature:
    """Do what `verify_files` does, and have model-signing itself hash and verify `folder`: a second implementation.

    Raises:
        SigningLibraryError: model-signing refuses what `verify_files` accepts.
        SigningUnavailableError: It is not installed.
        RegistryError: As `verify_files` says.
    """
    known = tuple(keys)
    found = verify_files(folder, manifest, bundle, known)
    with imports_named():
        from loractl_registry.signatures import _library  # model-signing takes 0.4 s to import
    (key,) = (each for each in known if each.key_id == found.signer)
    with tempfile.TemporaryDirectory(prefix="loractl-") as name:
        work = Path(name)
        (work / "model.sig").write_bytes(bundle)
        _library.verify_folder(folder, work / "model.sig", key, work)
    return found


def open_signed(bundle: Bundle, signers: Iterable[PublicKey | Account]) -> tuple[str, SignedFiles]:
    """Return the id of the one of `signers` who made `bundle`, and what it is over.

    Raises:
        WrongSignatureKindError: It was made with a certificate, and none of `signers` is an account.
        UnknownFileSignerError, FileSignatureInvalidError, KeylessInvalidError: None of them did.
        BundleError: What it is over is malformed.
    """
    known = tuple(signers)
    if bundle.kind is SignatureKind.KEY:
        key, signed = _open_keyed(bundle, (one for one in known if isinstance(one, PublicKey)))
        return key.key_id, signed
    accounts = tuple(one for one in known if isinstance(one, Account))
    if bundle.kind is SignatureKind.KEYLESS and accounts:
        return open_keyless(bundle, accounts)
    raise WrongSignatureKindError(
        f"a certificate ({bundle.kind})",
        "an operator may trust the account that signed: loractl identity trust NAME --account SUBJECT --issuer URL",
    )


def _open_keyed(bundle: Bundle, keys: Iterable[PublicKey]) -> tuple[PublicKey, SignedFiles]:
    # The hint only says which key to try. Signers before model-signing 1.1 name none.
    tried = [key for key in {each.key_id: each for each in keys}.values() if bundle.hint in (None, hint_of(key))]
    if not tried:
        raise UnknownFileSignerError("nobody here" if bundle.hint is None else f"key {short(bundle.hint)} (PEM digest)")
    for key in tried:
        if (payload := _payload(bundle, key)) is not None:
            return key, parse_signed(payload)
    if bundle.hint is None:
        raise UnknownFileSignerError("a key that it does not name")
    raise FileSignatureInvalidError(tried[0].key_id)


def hint_of(key: PublicKey) -> str:
    """Return how model-signing names `key`: by the SHA-256 over its PEM, where we take the DER inside."""
    return hashlib.sha256(key.pem.encode()).hexdigest()


def _payload(bundle: Bundle, key: PublicKey) -> bytes | None:
    """Return the payload if `key` has signed it."""
    # A bundle names its key outside of its envelope. Written inside, it is one of the envelopes that we verify already.
    fields = {
        "payload": bundle.payload,
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key.key_id, "sig": bundle.signature}],
    }
    try:
        return verify_envelope(json.dumps(fields).encode(), PAYLOAD_TYPE, [key]).payload
    except SignatureInvalidError:
        return None
    except EnvelopeError as error:
        raise BundleError(str(error).removeprefix("refused envelope: ")) from error
