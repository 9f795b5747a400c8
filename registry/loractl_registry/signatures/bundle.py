"""Reading a Sigstore bundle that holds an OpenSSF model signature, stricter than the library that writes it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from loractl_registry.file_errors import shown
from loractl_registry.signatures.errors import BundleError, SignedPayloadError
from loractl_registry.strict_json import StrictJsonError, as_list, as_object, parse_object

MAX_BUNDLE_BYTES = 512 * 2**10
MAX_FILES = 10_000

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class SignatureKind(StrEnum):
    """What vouches for the signer: a key, a certificate of one's own authority, or sigstore's short-lived one."""

    KEY = "key"
    CERTIFICATE = "certificate"
    KEYLESS = "keyless"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A parsed bundle; nothing in it is verified.

    Attributes:
        payload, signature: In base64, as they came.
        hint: SHA-256 over the PEM of the signer's public key, in hexadecimal; None where the signer named none.
        data: The whole file.
    """

    kind: SignatureKind
    payload: str
    signature: str
    hint: str | None
    data: bytes

    @property
    def digest(self) -> str:
        """``sha256:hex`` of the whole file."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class SignedFiles:
    """What a model signature is over.

    Attributes:
        name: What the signer called the model: the name of its folder.
        digests: ``sha256:hex`` by POSIX path.
        ignored: Paths that the signer left out, as the signer wrote them.
    """

    name: str
    digests: Mapping[str, str]
    ignored: tuple[str, ...]


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle; whether to believe it is for `verify_files` to say.

    Raises:
        BundleError: It is malformed, too large, or of another kind or version.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(f"it is larger than {MAX_BUNDLE_BYTES} bytes")
    held = _parse(data, BundleError)
    if held.get("mediaType") != MEDIA_TYPE:
        raise BundleError(f"its media type is {shown(held.get('mediaType'))}, not {MEDIA_TYPE}")
    material = _object(held, "verificationMaterial", BundleError)
    envelope = _object(held, "dsseEnvelope", BundleError)
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise BundleError(f"its payload type is {shown(envelope.get('payloadType'))}, not {PAYLOAD_TYPE}")
    signatures = as_list(envelope.get("signatures"))
    # model-signing verifies the first and says nothing of the others.
    signature = as_object(signatures[0]) if signatures and len(signatures) == 1 else None
    if signature is None:
        raise BundleError("it must have one signature")
    kind, hint = _signer(material)
    return Bundle(kind, _text(envelope, "payload", BundleError), _text(signature, "sig", BundleError), hint, data)


def parse_signed(payload: bytes) -> SignedFiles:
    """Read the in-toto statement in a bundle.

    Raises:
        SignedPayloadError: It is malformed, or signs something else than whole files by their SHA-256.
    """
    held = _parse(payload, SignedPayloadError)
    for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if held.get(key) != expected:
            raise SignedPayloadError(f"its {key} is {shown(held.get(key))}, not {expected}")
    name, root = _subject(held)
    predicate = _object(held, "predicate", SignedPayloadError)
    ignored = _ignored(_object(predicate, "serialization", SignedPayloadError))
    resources = as_list(predicate.get("resources"))
    if not resources or len(resources) > MAX_FILES:
        raise SignedPayloadError(f"it must list 1 to {MAX_FILES} files")
    digests: dict[str, str] = {}
    for resource in resources:
        path, digest = _resource(resource)
        if path in digests:
            raise SignedPayloadError(f"it lists {shown(path)} twice")
        digests[path] = f"sha256:{digest}"
    listed = b"".join(bytes.fromhex(digest.removeprefix("sha256:")) for digest in digests.values())
    if hashlib.sha256(listed).hexdigest() != root:
        raise SignedPayloadError("the digest of the whole does not follow from those of its files")
    return SignedFiles(name, digests, ignored)


def _signer(material: dict[str, object]) -> tuple[SignatureKind, str | None]:
    found = [key for key in ("publicKey", "x509CertificateChain", "certificate") if material.get(key) is not None]
    match found:
        case ["publicKey"]:
            hint = _object(material, "publicKey", BundleError).get("hint")
            if hint is not None and not (isinstance(hint, str) and _HEXADECIMAL.fullmatch(hint)):
                raise BundleError(f"it names its key as {shown(hint)}, and not by a SHA-256")
            return SignatureKind.KEY, hint
        case ["x509CertificateChain"]:
            return SignatureKind.CERTIFICATE, None
        case ["certificate"]:
            return SignatureKind.KEYLESS, None
        case _:
            raise BundleError("it must name one key or one certificate as its signer")


def _subject(held: dict[str, object]) -> tuple[str, str]:
    subjects = as_list(held.get("subject"))
    subject = as_object(subjects[0]) if subjects and len(subjects) == 1 else None
    if subject is None:
        raise SignedPayloadError("it must have one subject")
    root = _object(subject, "digest", SignedPayloadError).get("sha256")
    if not isinstance(root, str) or not _HEXADECIMAL.fullmatch(root):
        raise SignedPayloadError(f"the digest of its subject is {shown(root)}, and no SHA-256")
    return _text(subject, "name", SignedPayloadError), root


def _ignored(serialization: dict[str, object]) -> tuple[str, ...]:
    method, algorithm = serialization.get("method"), serialization.get("hash_type")
    if (method, algorithm) != ("files", "sha256"):
        raise SignedPayloadError(
            f"it signs {shown(method)} by {shown(algorithm)}, and only whole files by sha256 are compared"
        )
    paths = as_list(serialization.get("ignore_paths", []))
    texts = tuple(path for path in paths or () if isinstance(path, str))
    if paths is None or len(texts) != len(paths):
        raise SignedPayloadError("its ignore_paths is no list of texts")
    return texts


def _resource(resource: object) -> tuple[str, str]:
    held = as_object(resource)
    if held is None or held.get("algorithm") != "sha256":
        raise SignedPayloadError(f"it lists {shown(resource)}, and no file by its sha256")
    path, digest = _text(held, "name", SignedPayloadError), held.get("digest")
    if not _is_plain(path):
        raise SignedPayloadError(f"it lists {shown(path)}, which is no plain path below a folder")
    if not isinstance(digest, str) or not _HEXADECIMAL.fullmatch(digest):
        raise SignedPayloadError(f"the digest of {shown(path)} is {shown(digest)}, and no SHA-256")
    return path, digest


def _is_plain(path: str) -> bool:
    """Whether `path` has one reading: below the folder, without a part that stands for another."""
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & {*path.split("/")}


def _parse(data: bytes, error: type[BundleError]) -> dict[str, object]:
    try:
        return parse_object(data)
    except StrictJsonError as found:
        raise error(str(found)) from found


def _object(held: dict[str, object], key: str, error: type[BundleError]) -> dict[str, object]:
    value = as_object(held.get(key))
    if value is None:
        raise error(f"its {key} is {shown(held.get(key))}, and no object")
    return value


def _text(held: dict[str, object], key: str, error: type[BundleError]) -> str:
    value = held.get(key)
    if not isinstance(value, str) or not value:
        raise error(f"its {key} is {shown(value)}, and no text")
    return value
