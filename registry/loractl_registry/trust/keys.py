"""Identity keys: EC P-256 pairs in PEM files, the private part readable by its owner alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loractl_registry._files import written_beside
from loractl_registry.file_errors import UnreadableError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.trust._small_files import read_small
from loractl_registry.trust.errors import (
    KeyCurveError,
    KeyDamagedError,
    KeyNotFoundError,
    KeyPermissionsError,
    KeyTypeError,
    PassphraseError,
    PassphraseNeededError,
    PassphraseWrongError,
)

PASSPHRASE_VARIABLE = "LORACTL_IDENTITY_PASSPHRASE"  # noqa: S105 the name of a variable
PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
MAX_KEY_BYTES = 16 * 2**10
MAX_PASSPHRASE_BYTES = 1023  # OpenSSL's own limit

Passphrase = Callable[[], str]
"""Where a passphrase comes from; asked only when a key is encrypted, and nothing keeps the answer."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END \1-----\s*")
_PLAIN, _ENCRYPTED, _PUBLIC = b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"PUBLIC KEY"
_CONVERT = "convert it: openssl pkcs8 -topk8 -in OLD -out NEW"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public part of an identity.

    Attributes:
        key_id: SHA-256 over the DER of its SubjectPublicKeyInfo, in hexadecimal.
        pem: That SubjectPublicKeyInfo in PEM, in the one form that `parse_public_key` gives.
    """

    key_id: str
    pem: str

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """Tell whether `signature` is the DER-encoded ECDSA signature of this key over the SHA-256 of `data`.

        Raises:
            TrustError: As `parse_public_key` says of the PEM.
        """
        try:
            _loaded(self.pem).verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class Signing(Protocol):
    """Whoever can sign as one identity: a key in memory, or an agent that keeps it."""

    @property
    def public(self) -> PublicKey:
        """The public part of the key that signs."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the DER-encoded ECDSA signature over the SHA-256 of `data`."""
        ...


class IdentityKey:
    """One pair, in memory; shows nothing but its id."""

    __slots__ = ("_private", "_public")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self._private, self._public = private, _public_of(private.public_key())

    def __repr__(self) -> str:
        return f"IdentityKey({self._public.key_id})"

    @property
    def public(self) -> PublicKey:
        """The public part."""
        return self._public

    def sign(self, data: bytes) -> bytes:
        """Return the DER-encoded ECDSA signature over the SHA-256 of `data`."""
        return self._private.sign(data, ec.ECDSA(hashes.SHA256()))

    def private_pem(self, passphrase: Passphrase | None = None) -> bytes:
        """Return the pair as PKCS#8, encrypted if there is a passphrase.

        The library encrypts after 2048 rounds of PBKDF2, so the passphrase must be long to outlast a thief of the file;
        ``openssl pkcs8 -topk8 -scrypt`` makes guessing dearer, and what it writes is read as well.

        Raises:
            PassphraseError: The passphrase is empty or longer than 1023 bytes.
        """
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            secret = passphrase().encode()
            if not 1 <= len(secret) <= MAX_PASSPHRASE_BYTES:
                raise PassphraseError(MAX_PASSPHRASE_BYTES)
            protection = serialization.BestAvailableEncryption(secret)
        return self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def create_key() -> IdentityKey:
    """Return a new pair on P-256."""
    return IdentityKey(ec.generate_private_key(ec.SECP256R1()))


def passphrase_from(environment: Mapping[str, str], variable: str = PASSPHRASE_VARIABLE) -> Passphrase | None:
    """Return the passphrase that `environment` holds under `variable`, None if it holds none."""
    return (lambda: environment[variable]) if environment.get(variable) else None


def public_path_of(path: Path) -> Path:
    """Return where the public part of the key at `path` lies."""
    return path.with_name(f"{path.name}.pub")


def save_key(key: IdentityKey, path: Path, *, passphrase: Passphrase | None = None) -> None:
    """Write the private part to `path`, mode 0600, and the public part beside it; whole or not there.

    Raises:
        FileExistsRefusedError: One of the two is there; no key is ever overwritten.
        PassphraseError: The passphrase cannot be used.
        RegistryError: The operating system refused.
    """
    private = key.private_pem(passphrase)
    # The outer file gets its name last: a public part without a private one is harmless, the reverse is a riddle.
    with written_beside(path) as part:
        _write(part, private, PRIVATE_MODE)
        with written_beside(public_path_of(path)) as public_part:
            _write(public_part, key.public.pem.encode(), PUBLIC_MODE)


def load_key(path: Path, *, passphrase: Passphrase | None = None) -> IdentityKey:
    """Read a private key that only its owner may read.

    Raises:
        KeyNotFoundError: There is none.
        KeyPermissionsError: Others may read or write it.
        TrustError: As `parse_key` says.
        RegistryError: The operating system refused.
    """
    return parse_key(_read(path, is_private=True), source=str(path), passphrase=passphrase)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        KeyNotFoundError: There is none.
        TrustError: As `parse_public_key` says.
        RegistryError: The operating system refused.
    """
    return parse_public_key(_read(path, is_private=False), source=str(path))


def parse_key(pem: bytes, *, source: str, passphrase: Passphrase | None = None) -> IdentityKey:
    """Read a private key in PKCS#8, which messages call `source`; this is the way for a key in an environment variable.

    Raises:
        PassphraseNeededError, PassphraseWrongError: It is encrypted.
        KeyTypeError, KeyCurveError: It is another kind of key.
        KeyDamagedError: It is no whole key.
    """
    label, der = _unwrap(pem, source)
    if label == _PUBLIC:
        raise KeyTypeError(source, "a public key", hint="name the file without .pub")
    if label not in (_PLAIN, _ENCRYPTED):
        raise KeyTypeError(source, f"a PEM block {label.decode()!r} and no PKCS#8", hint=_CONVERT)
    secret: bytes | None = None
    if label == _ENCRYPTED:
        if passphrase is None:
            raise PassphraseNeededError(source, PASSPHRASE_VARIABLE)
        secret = passphrase().encode()
    # What cryptography says about a key that it cannot read may quote it, so it is left out of our errors.
    try:
        private = serialization.load_der_private_key(der, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if secret is not None:
            raise PassphraseWrongError(source, PASSPHRASE_VARIABLE) from None
        raise KeyDamagedError(source, "its contents are no private key") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyTypeError(source, f"a {_kind_of(private)}")
    _require_p256(private.curve, source)
    return IdentityKey(private)


def parse_public_key(pem: bytes, *, source: str) -> PublicKey:
    """Read a public key in PEM, which messages call `source`.

    Raises:
        KeyTypeError, KeyCurveError: It is another kind of key.
        KeyDamagedError: It is no whole key.
    """
    return _public_of(_parsed(pem, source))


@lru_cache(maxsize=256)
def _loaded(pem: str) -> ec.EllipticCurvePublicKey:
    """A chain has thousands of signatures by few keys, and loading one takes a third of the time of verifying."""
    return _parsed(pem.encode(), "public_key")


def _parsed(pem: bytes, source: str) -> ec.EllipticCurvePublicKey:
    label, der = _unwrap(pem, source)
    if label in (_PLAIN, _ENCRYPTED):
        raise KeyTypeError(source, "a private key", hint="name its .pub file, and show the private one to nobody")
    if label != _PUBLIC:
        raise KeyTypeError(source, f"a PEM block {label.decode()!r} and no public key")
    try:
        public = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyDamagedError(source, "its contents are no public key") from None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise KeyTypeError(source, f"a {_kind_of(public)}")
    _require_p256(public.curve, source)
    return public


def _public_of(key: ec.EllipticCurvePublicKey) -> PublicKey:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    pem = key.public_bytes(serialization.Encoding.PEM, form)
    return PublicKey(hashlib.sha256(der).hexdigest(), pem.decode("ascii"))


def _require_p256(curve: ec.EllipticCurve, source: str) -> None:
    if not isinstance(curve, ec.SECP256R1):
        raise KeyCurveError(source, curve.name)


def _kind_of(key: object) -> str:
    return type(key).__name__.strip("_").removesuffix("PrivateKey").removesuffix("PublicKey") + " key"


def _unwrap(pem: bytes, source: str) -> tuple[bytes, bytes]:
    """Return label and DER of the one PEM block that `pem` is."""
    if len(pem) > MAX_KEY_BYTES:
        raise KeyDamagedError(source, f"it is larger than {MAX_KEY_BYTES} bytes")
    block = _BLOCK.fullmatch(pem)
    if block is None:
        raise KeyDamagedError(source, "it is not one whole PEM block")
    try:
        der = base64.b64decode(block[2].replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except binascii.Error:
        raise KeyDamagedError(source, "its PEM block is not base64") from None
    # Looked at before decryption, so that a cut file is not taken for a wrong passphrase.
    if _outer_length(der) != len(der):
        raise KeyDamagedError(source, "its contents are cut off or padded")
    return block[1], der


def _outer_length(der: bytes) -> int:
    """Return how long the outermost DER sequence says it is, header included; 0 if there is none."""
    if len(der) < 2 or der[0] != 0x30:
        return 0
    if der[1] < 0x80:
        return 2 + der[1]
    count = der[1] & 0x7F
    return 2 + count + int.from_bytes(der[2 : 2 + count], "big")


def _write(part: Path, data: bytes, mode: int) -> None:
    with os_errors_named(part):
        part.chmod(mode)
        part.write_bytes(data)


def _read(path: Path, *, is_private: bool) -> bytes:
    try:
        pem, mode = read_small(path, MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise KeyNotFoundError(path) from error
    except PermissionError as error:
        raise UnreadableError(str(path)) from error
    except OSError as error:
        raise KeyDamagedError(str(path), error.strerror or "it cannot be read") from error
    if is_private and mode & 0o077:
        raise KeyPermissionsError(path, mode)
    return pem
