"""OpenSSF model-signing, whose import takes 0.4 s: loaded by the functions that sign, and by a second opinion."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format  # type: ignore[import-untyped]
from model_signing import hashing, verifying
from model_signing import manifest as manifests
from model_signing._hashing.hashing import Digest
from model_signing._signing import sign_ec_key, sign_sigstore_pb
from model_signing._signing import signing as payloads

from loractl_registry.records import Manifest
from loractl_registry.signatures.errors import SignedDigestError, SigningLibraryError
from loractl_registry.trust.keys import PublicKey, Signing


class _HeldKey:
    """Stands in for the private key that model-signing would read from a file, so that an agent may keep it."""

    def __init__(self, key: Signing) -> None:
        self._key = key
        public = serialization.load_pem_public_key(key.public.pem.encode())
        self._public = cast("ec.EllipticCurvePublicKey", public)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    def sign(self, data: bytes, _: ec.ECDSA) -> bytes:
        # Identities are on P-256, for which model-signing asks for SHA-256: what `Signing` promises.
        return self._key.sign(data)


class _KeySigner(sign_ec_key.Signer):
    def __init__(self, key: Signing) -> None:
        self._private_key = _HeldKey(key)  # type: ignore[assignment]  # the two methods that it uses


def payload_of(folder: Path, manifest: Manifest) -> payloads.Payload:
    """Return what model-signing signs: the files of `manifest` as it reads them below `folder`.

    Raises:
        SignedDigestError: It reads something else than `manifest` says.
        SigningLibraryError: It refuses.
    """
    with library_errors():
        config, paths = _hashing(), [folder / entry.path for entry in manifest.files]
        found = config.hash(folder, files_to_hash=paths)  # pyright: ignore[reportUnknownMemberType]
        digests = {each.identifier: f"sha256:{each.digest.digest_hex}" for each in found.resource_descriptors()}
    for entry in manifest.files:
        if digests.get(entry.path) != entry.digest:
            raise SignedDigestError(entry.path, entry.digest, digests.get(entry.path, "nothing"))
    return payloads.Payload(found)


def payload_from(manifest: Manifest, name: str) -> payloads.Payload:
    """Return what model-signing signs for a folder `name` with the files of `manifest`, which somebody has hashed."""
    with library_errors():
        items = [
            manifests.FileManifestItem(
                path=PurePosixPath(entry.path),
                digest=Digest("sha256", bytes.fromhex(entry.digest.removeprefix("sha256:"))),
            )
            for entry in manifest.files
        ]
        how = manifests.SerializationType.from_args({"method": "files", "hash_type": "sha256", "allow_symlinks": False})
        return payloads.Payload(manifests.Manifest(name, items, how))


def statement_of(payload: payloads.Payload) -> bytes:
    """Return `payload` as an in-toto statement in JSON."""
    text: str = json_format.MessageToJson(payload.statement.pb)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return text.encode()


def sign_payload(payload: payloads.Payload, key: Signing) -> bytes:
    """Return the bundle of `payload`, signed by `key`."""
    with library_errors():
        signature = cast("sign_sigstore_pb.Signature", _KeySigner(key).sign(payload))
        return signature.bundle.to_json().encode()


def verify_folder(folder: Path, bundle: Path, key: PublicKey, work: Path) -> None:
    """Let model-signing hash `folder` and verify it; `work` is an empty folder for the key that it reads from a file.

    Raises:
        SigningLibraryError: It refuses.
    """
    public = work / "signer.pub"
    public.write_text(key.pem)
    with library_errors():
        config = verifying.Config().set_hashing_config(_hashing())  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=public)  # pyright: ignore[reportUnknownMemberType]
        config.verify(folder, bundle)  # pyright: ignore[reportUnknownMemberType]


def _hashing() -> hashing.Config:
    # By default it passes over .git and what lies beside it.
    config = hashing.Config()  # type: ignore[no-untyped-call]
    config.set_ignored_paths(paths=[], ignore_git_paths=False)  # pyright: ignore[reportUnknownMemberType]
    return config


@contextlib.contextmanager
def library_errors() -> Generator[None]:
    """Turn what model-signing raises, which is whatever went wrong inside it, into our error; and keep it silent."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (ValueError, LookupError, TypeError, AttributeError, OSError, InvalidSignature) as error:
        raise SigningLibraryError(ascii(str(error) or type(error).__name__)[1:-1][:300]) from error
