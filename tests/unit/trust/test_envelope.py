"""DSSE envelopes: the specification's vector, and every way to change one."""

import json
from base64 import b64decode, b64encode, urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from loractl_registry.trust import create_key, sign_envelope, verify_envelope
from loractl_registry.trust.envelope import MAX_ENVELOPE_BYTES, MAX_SIGNATURES
from loractl_registry.trust.errors import EnvelopeError, SignatureInvalidError, TrustError, UnknownSignerError
from loractl_registry.trust.keys import IdentityKey

TYPE = "application/vnd.example+json"
PAYLOAD = b'{"a":1}'
KEY, OTHER = create_key(), create_key()
ENVELOPE = sign_envelope(PAYLOAD, TYPE, KEY)


def changed(**fields):
    return json.dumps({**json.loads(ENVELOPE), **fields}).encode()


def signature(**fields):
    return changed(signatures=[{**json.loads(ENVELOPE)["signatures"][0], **fields}])


def verify(data, *keys, payload_type=TYPE):
    return verify_envelope(data, payload_type, [key.public for key in keys or (KEY,)])


def test_encoding_is_that_of_the_specification():
    assert Envelope(b"hello world", "http://example.com/HelloWorld", {}).pae() == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_signature_of_the_specification_verifies():
    # protocol.md of DSSE v1, Test Vectors; r and s are there side by side, and here in DER.
    key = IdentityKey(
        ec.derive_private_key(
            97358161215184420915383655311931858321456579547487070936769975997791359926199, ec.SECP256R1()
        )
    )
    raw = b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    body = {
        "payload": "aGVsbG8gd29ybGQ=",
        "payloadType": "http://example.com/HelloWorld",
        "signatures": [{"keyid": key.public.key_id, "sig": b64encode(der).decode()}],
    }

    verified = verify(json.dumps(body).encode(), key, payload_type="http://example.com/HelloWorld")

    assert (verified.payload, verified.key_ids) == (b"hello world", (key.public.key_id,))


def test_envelope_gives_back_what_was_signed_and_who_did():
    both = sign_envelope(PAYLOAD, TYPE, KEY, OTHER)

    assert verify(both, KEY, OTHER).key_ids == (KEY.public.key_id, OTHER.public.key_id)
    assert verify(both, OTHER).key_ids == (OTHER.public.key_id,)
    assert verify(both, KEY).payload == PAYLOAD


@given(st.binary(max_size=2000))
def test_any_payload_survives(payload):
    assert verify(sign_envelope(payload, TYPE, KEY)).payload == payload


def test_envelope_cut_at_any_byte_is_refused():
    for end in range(len(ENVELOPE)):
        with pytest.raises(EnvelopeError):
            verify(ENVELOPE[:end])


def test_no_flipped_bit_passes():
    for index in range(len(ENVELOPE)):
        for bit in range(8):
            damaged = bytearray(ENVELOPE)
            damaged[index] ^= 1 << bit
            with pytest.raises(TrustError):
                verify(bytes(damaged))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_noise_is_refused(noise):
    with pytest.raises(EnvelopeError):
        verify(noise)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"]),
)
def test_field_of_any_other_type_is_refused(value, field):
    data = signature(**{field: value}) if field in ("sig", "keyid") else changed(**{field: value})

    with pytest.raises(TrustError):
        verify(data)


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures"])
def test_missing_field_is_refused(field):
    body = json.loads(ENVELOPE)
    del body[field]

    with pytest.raises(EnvelopeError):
        verify(json.dumps(body).encode())


def test_unknown_fields_are_passed_over_as_the_specification_asks():
    assert verify(changed(extra=[1, {"a": None}])).payload == PAYLOAD
    assert verify(signature(cert="none")).payload == PAYLOAD


def test_duplicate_key_is_refused():
    twice = ENVELOPE.replace(b'{"payload":', b'{"payload":"e30=","payload":', 1)

    with pytest.raises(EnvelopeError, match="twice"):
        verify(twice)


def test_other_payload_type_is_refused_by_name():
    with pytest.raises(EnvelopeError, match=r"payload type is 'application/vnd\.example\+json', not other"):
        verify(ENVELOPE, payload_type="other")


def test_payload_type_is_signed():
    with pytest.raises(SignatureInvalidError):
        verify(changed(payloadType="other"), payload_type="other")


def test_url_safe_base64_is_taken():
    payload = bytes(range(256))
    body = json.loads(sign_envelope(payload, TYPE, KEY))
    body["payload"] = urlsafe_b64encode(payload).decode()

    assert verify(json.dumps(body).encode()).payload == payload


@pytest.mark.parametrize(
    "text",
    ["eyJhIjoxfQ", "eyJhIjoxfR==", "eyJhIjoxfQ==\n", " eyJhIjoxfQ==", "eyJhIjoxfQ===", "eyJh+_==", "é", "A", "="],
)
def test_base64_has_one_form(text):
    with pytest.raises(EnvelopeError, match="base64"):
        verify(changed(payload=text))


@pytest.mark.parametrize("count", [0, MAX_SIGNATURES + 1])
def test_number_of_signatures_is_bounded(count):
    with pytest.raises(EnvelopeError, match="1 to 16 signatures"):
        verify(changed(signatures=[{"keyid": str(number), "sig": "AAAA"} for number in range(count)]))


def test_two_signatures_by_one_key_are_refused():
    row = json.loads(ENVELOPE)["signatures"][0]

    with pytest.raises(EnvelopeError, match="two signatures"):
        verify(changed(signatures=[row, row]))


def test_oversize_is_refused_before_it_is_parsed():
    with pytest.raises(EnvelopeError, match="larger than"):
        verify(b"[" * (MAX_ENVELOPE_BYTES + 1))
    with pytest.raises(EnvelopeError, match="more than"):
        sign_envelope(b"x" * MAX_ENVELOPE_BYTES, TYPE, KEY)


def test_deep_nesting_is_refused():
    with pytest.raises(EnvelopeError):
        verify(b'{"a":' * 40_000)


def test_swapped_signatures_are_refused():
    mine, yours = json.loads(sign_envelope(PAYLOAD, TYPE, KEY, OTHER))["signatures"]
    swapped = [{**mine, "sig": yours["sig"]}, {**yours, "sig": mine["sig"]}]

    with pytest.raises(SignatureInvalidError):
        verify(changed(signatures=swapped), KEY, OTHER)


def test_signature_of_another_payload_is_refused():
    other = json.loads(sign_envelope(b'{"a":2}', TYPE, KEY))

    with pytest.raises(SignatureInvalidError):
        verify(changed(signatures=other["signatures"]))


def test_signature_under_anothers_name_is_refused():
    with pytest.raises(SignatureInvalidError):
        verify(signature(keyid=OTHER.public.key_id), KEY, OTHER)


def test_bad_signature_of_a_known_key_is_refused_beside_a_good_one():
    rows = json.loads(sign_envelope(PAYLOAD, TYPE, KEY, OTHER))["signatures"]
    rows[1]["sig"] = rows[0]["sig"]

    with pytest.raises(SignatureInvalidError):
        verify(changed(signatures=rows), KEY, OTHER)


@pytest.mark.parametrize("sig", ["AAAA", "MAYCAQACAQA=", "MAYCAQECAQE="], ids=["noise", "zeros", "ones"])
def test_degenerate_signature_is_refused(sig):
    with pytest.raises(SignatureInvalidError):
        verify(signature(sig=sig))


def test_trailing_bytes_after_a_signature_are_refused():
    sig = b64decode(json.loads(ENVELOPE)["signatures"][0]["sig"])

    with pytest.raises(SignatureInvalidError):
        verify(signature(sig=b64encode(sig + b"\0").decode()))


def test_unknown_signer_is_named_and_hostile_names_are_escaped():
    with pytest.raises(UnknownSignerError, match=KEY.public.key_id[:16]):
        verify(ENVELOPE, OTHER)
    with pytest.raises(UnknownSignerError) as caught:
        verify(signature(keyid="\x1b[31m\u202e" * 1000))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
