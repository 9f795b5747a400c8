"""DSSE envelopes by version 1 of its specification, behind a parser that is stricter."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass

from loractl_registry.file_errors import shown
from loractl_registry.strict_json import StrictJsonError, as_list, as_object, parse_object
from loractl_registry.trust.errors import EnvelopeError, SignatureInvalidError, UnknownSignerError
from loractl_registry.trust.keyless import bundled_envelope, is_bundle
from loractl_registry.trust.keys import PublicKey, Signing

MAX_ENVELOPE_BYTES = 256 * 2**10
MAX_SIGNATURES = 16

_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """Bytes that at least one trusted key has signed.

    Attributes:
        key_ids: Every trusted key that has, in the order of the signatures.
    """

    payload: bytes
    key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Envelope:
    """What an envelope holds, of which nothing is verified yet; signatures by key id."""

    payload: bytes
    signatures: dict[str, bytes]


def sign_envelope(payload: bytes, payload_type: str, *signers: Signing) -> bytes:
    """Return the envelope of `payload`, signed by each of `signers`.

    Raises:
        EnvelopeError: It would be larger than a reader takes.
    """
    signed = _encoded(payload, payload_type)
    signatures = [{"keyid": each.public.key_id, "sig": _encode(each.sign(signed))} for each in signers]
    body = {"payload": _encode(payload), "payloadType": payload_type, "signatures": signatures}
    data = json.dumps(body, separators=(",", ":")).encode("ascii")
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"it has {len(data)} bytes, more than {MAX_ENVELOPE_BYTES}")
    return data


def verify_envelope(data: bytes, payload_type: str, keys: Iterable[PublicKey]) -> VerifiedPayload:
    """Return what is in the envelope and which of `keys` signed it.

    Signatures by other keys are passed over. One that names a key of `keys` must be by it: DSSE would pass over it too,
    but here it means that somebody changed the envelope.

    Raises:
        EnvelopeError: It is malformed, or of another payload type.
        SignatureInvalidError: A signature is not by the key that it names, over these bytes.
        UnknownSignerError: No signature names one of `keys`.
    """
    envelope = _parse(data, payload_type)
    known = {key.key_id: key for key in keys}
    signers = [key_id for key_id in envelope.signatures if key_id in known]
    if not signers:
        raise UnknownSignerError(envelope.signatures)
    signed = _encoded(envelope.payload, payload_type)
    for key_id in signers:
        if not known[key_id].has_signed(signed, envelope.signatures[key_id]):
            raise SignatureInvalidError(key_id)
    return VerifiedPayload(envelope.payload, tuple(signers))


def unverified_payload(data: bytes, payload_type: str) -> bytes:
    """Return what is in the envelope, or in that of a bundle, without a look at a signature: to learn whose to ask for.

    Raises:
        EnvelopeError: It is malformed, or of another payload type.
    """
    if is_bundle(data):
        return _payload(bundled_envelope(data), payload_type)
    return _parse(data, payload_type).payload


def _encoded(payload: bytes, payload_type: str) -> bytes:
    """Return what a signature is over: the specification's PAE, which no other type and payload have."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _parse(data: bytes, payload_type: str) -> _Envelope:
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"it is larger than {MAX_ENVELOPE_BYTES} bytes")
    try:
        # The specification asks readers to ignore fields that they do not know; none of them is signed.
        held = parse_object(data)
    except StrictJsonError as error:
        raise EnvelopeError(str(error)) from error
    return _Envelope(_payload(held, payload_type), _signatures(held))


def _payload(held: dict[str, object], payload_type: str) -> bytes:
    found = _text(held, "payloadType")
    if found != payload_type:
        raise EnvelopeError(f"its payload type is {shown(found)}, not {payload_type}")
    return _decode(held, "payload")


def _signatures(held: dict[str, object]) -> dict[str, bytes]:
    rows = as_list(held.get("signatures"))
    if not rows or len(rows) > MAX_SIGNATURES:
        raise EnvelopeError(f"it must have 1 to {MAX_SIGNATURES} signatures")
    signatures: dict[str, bytes] = {}
    for row in rows:
        fields = as_object(row)
        if fields is None:
            raise EnvelopeError("one of its signatures is no JSON object")
        # Optional in DSSE, where every key would be tried; everything that writes for us names its key.
        key_id = _text(fields, "keyid")
        if key_id in signatures:
            raise EnvelopeError(f"it has two signatures by {shown(key_id)}")
        signatures[key_id] = _decode(fields, "sig")
    return signatures


def _text(held: dict[str, object], name: str) -> str:
    value = held.get(name)
    if not isinstance(value, str):
        raise EnvelopeError(f"its {name} is no text")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(held: dict[str, object], name: str) -> bytes:
    """Decode standard or URL-safe base64, of which every byte string has exactly one text."""
    text = _text(held, name)
    try:
        standard = text if "+" in text or "/" in text else text.translate(_URL_SAFE)
        data = base64.b64decode(standard, validate=True)
    except ValueError as error:  # binascii.Error, and what is not ASCII
        raise EnvelopeError(f"its {name} is not base64") from error
    if _encode(data) != standard:
        raise EnvelopeError(f"its {name} is not base64 in its one form")
    return data
