"""The libraries behind signatures: late, possibly absent, and without a network."""

import json
import socket
import subprocess
import sys
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore.errors import VerificationError

from loractl_registry import signatures
from loractl_registry.signatures import (
    BundleError,
    KeylessIdentity,
    KeylessUnavailableError,
    SigningUnavailableError,
    _sigstore,
    find_shipped,
    sign_files,
    sign_files_keyless,
    verify_shipped_keyless,
)
from loractl_registry.signatures.errors import KeylessInvalidError, SignedDigestError, WrongSignatureKindError

WHO = KeylessIdentity("ada@example.org", "https://accounts.example.org")


def test_every_exported_name_is_there():
    for name in signatures.__all__:
        assert getattr(signatures, name) is not None


def test_verifying_imports_neither_model_signing_nor_sigstore():
    probe = (
        "import sys, loractl_registry.signatures;"
        "print([name for name in ('model_signing', 'sigstore', 'OpenSSL') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["OpenSSL", "model_signing"])
def test_a_missing_library_is_named(missing, adapter, key, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in {"model_signing", missing}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "loractl_registry.signatures._library", raising=False)
    monkeypatch.delattr(signatures, "_library", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(SigningUnavailableError, match=missing):
        sign_files(adapter.folder, adapter.manifest, key)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def test_signing_keyless_without_a_network_is_refused(adapter, offline):
    with pytest.raises(KeylessUnavailableError, match="cannot use sigstore keyless") as caught:
        sign_files_keyless(adapter.folder, adapter.manifest, token="no token")

    assert "without one, sign with a key" in caught.value.hint


def keyless_bundle(bundle, bundles):
    """A bundle that sigstore can parse; its certificate is a stranger's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(minutes=10))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    entry = {
        "logIndex": "1",
        "logId": {"keyId": b64encode(b"k" * 32).decode()},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1767225600",
        "inclusionPromise": {"signedEntryTimestamp": b64encode(b"s").decode()},
        "inclusionProof": {
            "logIndex": "1",
            "rootHash": b64encode(b"r" * 32).decode(),
            "treeSize": "2",
            "hashes": [],
            "checkpoint": {"envelope": "x"},
        },
        "canonicalizedBody": b64encode(b"{}").decode(),
    }
    material = {"certificate": {"rawBytes": b64encode(certificate).decode()}, "tlogEntries": [entry]}
    return bundles.changed(bundle, verificationMaterial=material)


def test_verifying_keyless_without_a_network_is_refused(adapter, bundle, bundles, offline):
    adapter.path("model.sig").write_bytes(keyless_bundle(bundle, bundles))
    shipped = find_shipped(adapter.folder)

    assert shipped.kind is signatures.SignatureKind.KEYLESS
    with pytest.raises(KeylessUnavailableError):
        verify_shipped_keyless(adapter.folder, adapter.manifest, shipped, WHO)


def test_a_keyless_bundle_that_sigstore_cannot_read_is_refused(adapter, bundle, bundles, offline):
    adapter.path("model.sig").write_bytes(bundles.changed(bundle, verificationMaterial={"certificate": {}}))

    with pytest.raises(BundleError, match="sigstore cannot read it"):
        verify_shipped_keyless(adapter.folder, adapter.manifest, find_shipped(adapter.folder), WHO)


def test_a_signature_by_a_key_is_not_verified_as_keyless(adapter, bundle):
    adapter.path("model.sig").write_bytes(bundle)

    with pytest.raises(WrongSignatureKindError, match="a key"):
        verify_shipped_keyless(adapter.folder, adapter.manifest, find_shipped(adapter.folder), WHO)


def test_files_signed_keyless_are_compared_like_any_others(adapter, bundle, bundles, monkeypatch):
    payload = bundles.payload(bundle)
    monkeypatch.setattr(_sigstore, "verify", lambda *_: ("application/vnd.in-toto+json", json.dumps(payload).encode()))
    adapter.path("model.sig").write_bytes(keyless_bundle(bundle, bundles))
    shipped = find_shipped(adapter.folder)

    assert verify_shipped_keyless(adapter.folder, adapter.manifest, shipped, WHO).signer == WHO.identity
    adapter.path("adapter_config.json").write_text("changed")
    with pytest.raises(SignedDigestError):
        verify_shipped_keyless(adapter.folder, adapter.hashed(), shipped, WHO)


def test_another_payload_type_under_keyless_is_refused(adapter, bundle, bundles, monkeypatch):
    monkeypatch.setattr(_sigstore, "verify", lambda *_: ("text/plain", b"{}"))
    adapter.path("model.sig").write_bytes(keyless_bundle(bundle, bundles))

    with pytest.raises(BundleError, match="payload type"):
        verify_shipped_keyless(adapter.folder, adapter.manifest, find_shipped(adapter.folder), WHO)


def test_what_sigstore_does_not_find_signed_is_refused(adapter, bundle, bundles, monkeypatch):
    class Refusing:
        @classmethod
        def production(cls):
            return cls()

        def verify_dsse(self, **_):
            raise VerificationError("certificate's SANs do not match")

    monkeypatch.setattr(_sigstore, "Verifier", Refusing)
    adapter.path("model.sig").write_bytes(keyless_bundle(bundle, bundles))

    with pytest.raises(KeylessInvalidError, match="SANs do not match"):
        verify_shipped_keyless(adapter.folder, adapter.manifest, find_shipped(adapter.folder), WHO)
