"""The libraries behind signatures: late, possibly absent, and without a network."""

import json
import socket
import subprocess
import sys

import pytest
from support.local_sigstore import LocalSigstore, token_of

from loractl_registry import signatures
from loractl_registry.signatures import (
    BundleError,
    SignatureKind,
    SigningUnavailableError,
    UnknownFileSignerError,
    WrongSignatureKindError,
    examine_shipped,
    find_shipped,
    sign_files,
    sign_manifest,
    verify_manifest,
    verify_shipped,
    verify_shipped_again,
)
from loractl_registry.signatures.errors import KeylessInvalidError, SignedDigestError
from loractl_registry.trust import Account, AccountSigner, KeylessUnavailableError, _sigstore

ADA, ISSUER = "ada@example.org", "https://accounts.example.org"


@pytest.fixture(scope="module")
def local():
    return LocalSigstore()


@pytest.fixture(scope="module")
def account(local):
    return Account(ADA, ISSUER, local.trusted_root)


@pytest.fixture
def keyless(local, bundle, bundles):
    """Return the signature of the adapter's files as ada would make it without a key."""

    def sign(subject=ADA, issuer=ISSUER, by=local, **more):
        return by.bundle(json.dumps(bundles.payload(bundle)).encode(), subject, issuer, **more)

    return sign


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


def test_signing_keyless_without_a_network_is_refused(adapter, account, offline):
    signer = AccountSigner(account, lambda: token_of(ADA, ISSUER))

    with pytest.raises(KeylessUnavailableError, match="cannot use sigstore keyless") as caught:
        sign_manifest(adapter.manifest, signer, name="support-bot")

    assert "without one, sign with a key" in caught.value.hint


def test_files_signed_by_an_account_verify_without_a_network(adapter, account, local, offline, monkeypatch):
    monkeypatch.setattr(_sigstore, "services", local.services)
    signer = AccountSigner(account, lambda: token_of(ADA, ISSUER))

    found = verify_manifest(
        adapter.manifest, sign_manifest(adapter.manifest, signer, name="support-bot"), [account], name="support-bot"
    )

    assert (found.kind, found.signer) == (SignatureKind.KEYLESS, account.key_id)


def shipped_in(adapter, bundle):
    adapter.path("model.sig").write_bytes(bundle)
    return find_shipped(adapter.folder)


def test_a_shipped_keyless_signature_verifies_without_a_network(adapter, account, keyless, offline):
    shipped = shipped_in(adapter, keyless())

    found = verify_shipped(adapter.folder, adapter.manifest, shipped, [account])

    assert (found.kind, found.signer) == (SignatureKind.KEYLESS, account.key_id)
    assert verify_shipped_again(adapter.manifest, shipped.bundle.data, [account]) == found


def test_files_signed_keyless_are_compared_like_any_others(adapter, account, keyless):
    shipped = shipped_in(adapter, keyless())
    adapter.path("adapter_config.json").write_text("changed")

    with pytest.raises(SignedDigestError):
        verify_shipped(adapter.folder, adapter.hashed(), shipped, [account])


@pytest.mark.parametrize(
    ("subject", "issuer"), [("eve@example.org", ISSUER), (ADA, "https://accounts.evil.example")], ids=["san", "issuer"]
)
def test_a_stranger_s_keyless_signature_is_by_nobody_here(adapter, account, keyless, subject, issuer):
    shipped = shipped_in(adapter, keyless(subject, issuer))

    with pytest.raises(UnknownFileSignerError, match=subject):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [account])
    assert examine_shipped(adapter.folder, adapter.manifest, shipped, [account]) is None


def test_a_signature_in_ada_s_name_from_another_sigstore_is_refused(adapter, account, keyless):
    shipped = shipped_in(adapter, keyless(by=LocalSigstore()))

    with pytest.raises(KeylessInvalidError, match="certificate chain"):
        examine_shipped(adapter.folder, adapter.manifest, shipped, [account])


def test_a_keyless_bundle_that_sigstore_cannot_read_is_refused(adapter, account, bundle, bundles):
    shipped = shipped_in(adapter, bundles.changed(bundle, verificationMaterial={"certificate": {}}))

    with pytest.raises(BundleError, match="sigstore cannot read it"):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [account])


def test_a_keyless_signature_where_no_account_is_trusted_is_of_the_wrong_kind(adapter, key, keyless):
    shipped = shipped_in(adapter, keyless())

    with pytest.raises(WrongSignatureKindError, match="a certificate"):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public])


def test_a_signature_by_a_key_is_not_verified_as_keyless(adapter, account, bundle):
    shipped = shipped_in(adapter, bundle)

    with pytest.raises(UnknownFileSignerError):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [account])


def test_another_payload_type_under_keyless_is_refused(adapter, account, keyless):
    with pytest.raises(BundleError, match="payload type"):
        shipped_in(adapter, keyless(payload_type="text/plain"))
