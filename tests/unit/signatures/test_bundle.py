"""Bundles that are malformed, too large, ambiguous, or of another kind."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry.errors import RegistryError
from loractl_registry.signatures import BundleError, SignatureKind, parse_bundle, verify_files
from loractl_registry.signatures.bundle import MAX_BUNDLE_BYTES, parse_signed
from loractl_registry.signatures.errors import SignedPayloadError, WrongSignatureKindError


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"[]", "no JSON object", id="list"),
        pytest.param(b"\xff", "UTF-8", id="bytes"),
        pytest.param(b'{"a":1,"a":2}', "twice", id="duplicate"),
        pytest.param(b"{}", "media type", id="no-media-type"),
        pytest.param(b" " * (MAX_BUNDLE_BYTES + 1), "larger than", id="large"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep"),
    ],
)
def test_what_is_no_bundle_is_refused(data, said):
    with pytest.raises(BundleError, match=said):
        parse_bundle(data)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"}, "media type", id="old"),
        pytest.param({"verificationMaterial": None}, "verificationMaterial", id="no-material"),
        pytest.param({"verificationMaterial": {}}, "one key or one certificate", id="empty-material"),
        pytest.param(
            {"verificationMaterial": {"publicKey": {"hint": "a"}, "certificate": {}}}, "one key or one", id="two"
        ),
        pytest.param({"verificationMaterial": {"publicKey": {"hint": "a"}}}, "SHA-256", id="hint"),
        pytest.param({"verificationMaterial": {"publicKey": {"hint": 7}}}, "SHA-256", id="hint-number"),
        pytest.param({"dsseEnvelope": None, "messageSignature": {}}, "dsseEnvelope", id="message-signature"),
    ],
)
def test_a_bundle_of_another_shape_is_refused(fields, said, bundle, bundles):
    with pytest.raises(BundleError, match=said):
        parse_bundle(bundles.changed(bundle, **fields))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"payloadType": "text/plain"}, "payload type", id="type"),
        pytest.param({"signatures": []}, "one signature", id="none"),
        pytest.param({"signatures": [{"sig": "AA=="}] * 2}, "one signature", id="two"),
        pytest.param({"signatures": [{"sig": 3}]}, "its sig is 3", id="number"),
        pytest.param({"payload": ""}, "payload", id="empty"),
    ],
)
def test_an_envelope_of_another_shape_is_refused(fields, said, bundle, bundles):
    with pytest.raises(BundleError, match=said):
        parse_bundle(bundles.with_envelope(bundle, **fields))


@pytest.mark.parametrize("field", ["payload", "sig"])
def test_what_is_not_base64_in_one_form_is_refused(field, adapter, bundle, key, bundles):
    text = "not base64!"
    fields = {"payload": text} if field == "payload" else {"signatures": [{"sig": text}]}

    with pytest.raises(BundleError, match="base64"):
        verify_files(adapter.folder, adapter.manifest, bundles.with_envelope(bundle, **fields), [key.public])


def test_every_cut_of_a_bundle_is_refused(bundle, adapter, key):
    for length in range(0, len(bundle), 37):
        with pytest.raises(RegistryError):
            verify_files(adapter.folder, adapter.manifest, bundle[:length], [key.public])


@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data):
    for read in (parse_bundle, parse_signed):
        with pytest.raises(BundleError):
            read(data)


@pytest.mark.parametrize(("field", "kind"), [("certificate", "keyless"), ("x509CertificateChain", "certificate")])
def test_a_certificate_is_told_from_a_key(field, kind, adapter, bundle, key, bundles):
    changed = bundles.changed(bundle, verificationMaterial={field: {}})

    assert parse_bundle(changed).kind is SignatureKind(kind)
    with pytest.raises(WrongSignatureKindError, match="certificate"):
        verify_files(adapter.folder, adapter.manifest, changed, [key.public])


def changed_resource(**fields):
    def change(payload, bundles):
        resources = payload["predicate"]["resources"]
        return bundles.with_resources(payload, [{**resources[0], **fields}, *resources[1:]])

    return change


def changed_serialization(**fields):
    def change(payload, _):
        payload["predicate"]["serialization"] |= fields
        return payload

    return change


PAYLOADS = [
    pytest.param(lambda payload, _: {**payload, "_type": "x"}, "_type", id="type"),
    pytest.param(lambda payload, _: {**payload, "predicateType": "https://x"}, "predicateType", id="predicate-type"),
    pytest.param(lambda payload, _: {**payload, "subject": payload["subject"] * 2}, "one subject", id="subjects"),
    pytest.param(lambda payload, _: {**payload, "subject": []}, "one subject", id="no-subject"),
    pytest.param(lambda payload, _: {**payload, "predicate": []}, "predicate", id="no-predicate"),
    pytest.param(
        lambda payload, _: {**payload, "subject": [{"name": "a", "digest": {"sha256": "0" * 64}}]},
        "does not follow",
        id="root",
    ),
    pytest.param(
        lambda payload, _: {**payload, "subject": [{"name": "a", "digest": {"sha256": "0"}}]}, "no SHA-256", id="short"
    ),
    pytest.param(
        lambda payload, _: {**payload, "predicate": {**payload["predicate"], "resources": []}}, "1 to", id="nothing"
    ),
    pytest.param(
        lambda payload, bundles: bundles.with_resources(payload, payload["predicate"]["resources"] * 2),
        "twice",
        id="twice",
    ),
    pytest.param(changed_serialization(method="shards"), "whole files", id="shards"),
    pytest.param(changed_serialization(hash_type="blake3"), "whole files", id="blake3"),
    pytest.param(changed_serialization(ignore_paths="all"), "ignore_paths", id="ignore"),
    pytest.param(changed_serialization(ignore_paths=[1]), "ignore_paths", id="ignore-number"),
    pytest.param(changed_resource(algorithm="md5"), "no file by its sha256", id="algorithm"),
    pytest.param(changed_resource(digest="A" * 64), "no SHA-256", id="upper-case"),
    *(
        pytest.param(changed_resource(name=name), "no plain path", id=f"path-{number}")
        for number, name in enumerate(["../x", "/etc/x", "./x", "a//b", "a/", "a\\b", "a\nb", "."])
    ),
]


@pytest.mark.parametrize(("change", "said"), PAYLOADS)
def test_a_signed_payload_of_another_shape_is_refused(change, said, adapter, bundle, key, bundles):
    payload = change(bundles.payload(bundle), bundles)

    with pytest.raises(SignedPayloadError, match=said):
        verify_files(adapter.folder, adapter.manifest, bundles.signed(bundle, payload, key), [key.public])


def test_a_signed_payload_with_a_key_twice_is_refused(adapter, bundle, key, bundles):
    text = json.dumps(bundles.payload(bundle)).encode()
    twice = text.replace(b'"predicateType"', b'"predicateType": "https://x", "predicateType"')

    with pytest.raises(SignedPayloadError, match="twice"):
        verify_files(adapter.folder, adapter.manifest, bundles.signed(bundle, twice, key), [key.public])
