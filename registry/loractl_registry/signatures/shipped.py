"""A signature that ships with an adapter, by its author and over the author's own folder."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.adapter_names import SIGNATURE, TAKEN
from loractl_registry.hashing import hash_file
from loractl_registry.home_errors import os_errors_named
from loractl_registry.records import Manifest
from loractl_registry.signatures.bundle import (
    MAX_BUNDLE_BYTES,
    Bundle,
    SignatureKind,
    SignedFiles,
    parse_bundle,
    parse_signed,
)
from loractl_registry.signatures.comparing import require_signed, sizes_in
from loractl_registry.signatures.errors import (
    BundleError,
    MissingSignedFileError,
    SignedDigestError,
    UnknownFileSignerError,
    UnsignableFileError,
    UnsignedFileError,
    WrongSignatureKindError,
)
from loractl_registry.signatures.verifying import FileSignature, open_signed
from loractl_registry.trust.keyless import Account
from loractl_registry.trust.keys import PublicKey

SHIPPED_NAME = SIGNATURE


@dataclass(frozen=True, slots=True)
class ShippedSignature:
    """A parsed signature file; nothing in it is verified."""

    path: Path
    bundle: Bundle

    @property
    def kind(self) -> SignatureKind:
        """What vouches for its signer."""
        return self.bundle.kind


def find_shipped(folder: Path) -> ShippedSignature | None:
    """Return the signature that lies in `folder` as model.sig, None if there is none.

    Raises:
        BundleError: It is malformed.
        UnsignableFileError: It is a link or a device.
        RegistryError: The operating system refused.
    """
    path = folder / SHIPPED_NAME
    with os_errors_named(path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            is_link = stat.S_ISLNK(status.st_mode)
            raise UnsignableFileError(SHIPPED_NAME, "a symbolic link" if is_link else "not a regular file")
        # It may be another file by now: a link is not followed, and opening a FIFO does not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            data = stream.read(MAX_BUNDLE_BYTES + 1)
    return ShippedSignature(path, parse_bundle(data))


def verify_shipped(
    folder: Path, manifest: Manifest, shipped: ShippedSignature, signers: Iterable[PublicKey | Account]
) -> FileSignature:
    """Return who of `signers` signed the adapter in `folder`, of which `manifest` holds what is taken.

    Every file of `manifest` is signed, with its digest. What else is in `folder` must be signed too, and is hashed
    here; signed files that no adapter needs may be missing, because a download leaves them out. Its name is free.

    Raises:
        WrongSignatureKindError: It was made with a certificate, and nobody here is an account.
        UnknownFileSignerError, FileSignatureInvalidError, KeylessInvalidError: None of `signers` made it.
        SignedFilesError: It is over other files than those in `folder`; each is named.
        BundleError: It is over something else than files.
        RegistryError: The operating system refused.
    """
    signer, signed = open_signed(shipped.bundle, signers)
    not_taken = require_folder_signed(folder, manifest, signed)
    return FileSignature(shipped.kind, signer, signed.name, shipped.bundle.digest, not_taken)


def examine_shipped(
    folder: Path, manifest: Manifest, shipped: ShippedSignature, signers: Iterable[PublicKey | Account]
) -> FileSignature | None:
    """Do what `verify_shipped` does, and return None where none of `signers` made it.

    Then nobody can say who did; and still the files must be those that it lists.

    Raises:
        FileSignatureInvalidError, KeylessInvalidError, SignedFilesError, BundleError, RegistryError: As
            `verify_shipped` says.
    """
    try:
        return verify_shipped(folder, manifest, shipped, signers)
    except (UnknownFileSignerError, WrongSignatureKindError):
        require_folder_signed(folder, manifest, parse_signed(_unverified(shipped.bundle)))
        return None


def verify_shipped_again(manifest: Manifest, bundle: bytes, signers: Iterable[PublicKey | Account]) -> FileSignature:
    """Do what `verify_shipped` does where the author's folder is gone: the stored files are those of `manifest`.

    Raises:
        RegistryError: As `verify_shipped` says.
    """
    opened = parse_bundle(bundle)
    signer, signed = open_signed(opened, signers)
    not_taken = require_taken_signed(manifest, signed)
    return FileSignature(opened.kind, signer, signed.name, opened.digest, not_taken)


def require_folder_signed(folder: Path, manifest: Manifest, signed: SignedFiles) -> tuple[str, ...]:
    """Return the signed files that are not taken, if everything in `folder` is signed as it is.

    Raises:
        SignedFilesError: Something is not.
    """
    not_taken = require_taken_signed(manifest, signed)
    taken = {entry.path for entry in manifest.files}
    sizes = sizes_in(folder, [*taken, *signed.digests])
    if unsigned := sizes.keys() - signed.digests.keys() - {SHIPPED_NAME}:
        raise UnsignedFileError(unsigned)
    if missing := taken - sizes.keys():
        raise MissingSignedFileError(missing)
    for path in not_taken:
        if path in sizes:
            found = hash_file(folder / path, expected_bytes=sizes[path])
            if found != signed.digests[path]:
                raise SignedDigestError(path, signed.digests[path], found)
    return not_taken


def require_taken_signed(manifest: Manifest, signed: SignedFiles) -> tuple[str, ...]:
    """Return the signed files that are not in `manifest`, if all of its files are signed and none was left out.

    Raises:
        SignedFilesError: A file of the manifest is not signed as it is, or a signed file that is taken is missing.
    """
    require_signed(signed, manifest)
    others = signed.digests.keys() - {entry.path for entry in manifest.files}
    if missing := others & TAKEN:
        raise MissingSignedFileError(missing)
    return tuple(sorted(others))


def _unverified(bundle: Bundle) -> bytes:
    try:
        return base64.b64decode(bundle.payload, validate=True)
    except ValueError as error:
        raise BundleError("its payload is not base64") from error
