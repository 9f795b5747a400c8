"""Accounts without keys: what a bundle must be, and that nothing in a hostile one gets through."""

import json
import sys

import pytest
from support.local_sigstore import LocalSigstore

from loractl_registry.trust import Account, AccountSigner, TrustError, _sigstore, sign_envelope, verify_chain
from loractl_registry.trust import keyless as module
from loractl_registry.trust.errors import EnvelopeError, KeyOwnerError, WrongSignerError
from loractl_registry.trust.fields import Signer, canonical_bytes
from loractl_registry.trust.identity_predicates import AccountTrust
from loractl_registry.trust.keyless import account_id, bundled_envelope, claimed_signer, is_bundle, verify_bundle
from loractl_registry.trust.keyless_errors import (
    InvalidAccountError,
    KeylessSignatureError,
    KeylessUnavailableError,
    NoTokenError,
    SigstoreMissingError,
    TrustedRootError,
)
from loractl_registry.trust.roles import Role
from loractl_registry.trust.statements import AccountStatement, PromotionStatement, identity_subject

KIM, ISSUER = "kim@example.org", "https://accounts.example.org"
LOCAL = LocalSigstore()
ACCOUNT = Account(KIM, ISSUER, LOCAL.trusted_root)
STATEMENT = json.dumps(
    {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "x", "digest": {"sha256": "0" * 64}}],
     "predicateType": "x", "predicate": {}}
).encode()  # fmt: skip
BUNDLE = json.loads(LOCAL.bundle(STATEMENT, KIM, ISSUER))


def paths(value, path=()):
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*path, key))


def changed(path, change):
    bundle = json.loads(json.dumps(BUNDLE))
    held = bundle
    for key in path[:-1]:
        held = held[key]
    change(held, path[-1])
    return json.dumps(bundle).encode()


CHANGES = {
    "gone": lambda held, key: held.pop(key),
    "null": lambda held, key: held.__setitem__(key, None),
    "other-bytes": lambda held, key: held.__setitem__(key, "AAAA"),
    "huge": lambda held, key: held.__setitem__(key, "9" * 30),
    "object": lambda held, key: held.__setitem__(key, {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_bundle_with_anything_changed_is_refused_and_nothing_else_goes_wrong(change):
    for path in paths(BUNDLE):
        with pytest.raises(TrustError):
            verify_bundle(changed(path, CHANGES[change]), ACCOUNT)


def test_claims_of_a_bundle_are_read_without_believing_them():
    assert claimed_signer(json.dumps(BUNDLE).encode()) == (frozenset({KIM}), ISSUER)
    with pytest.raises(EnvelopeError):
        claimed_signer(b'{"mediaType": "x"}')


def test_two_accounts_never_have_the_same_id():
    assert account_id("a", "https://b/c") != account_id("a/c", "https://b")
    assert account_id("a", "b") != account_id("b", "a")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"mediaType": 1}', b'{"payload": ""}'])
def test_what_is_no_bundle_is_none(data):
    assert not is_bundle(data)


@pytest.mark.parametrize(
    "data",
    [b"{", b"{}", b'{"dsseEnvelope": 1}', b" " * (module.MAX_BUNDLE_BYTES + 1)],
    ids=["cut", "empty", "1", "huge"],
)
def test_bundle_without_an_envelope_is_refused(data):
    with pytest.raises(EnvelopeError):
        bundled_envelope(data)


@pytest.fixture
def trusting(home):
    """A home that trusts kim's account as an operator."""
    trust = AccountTrust(
        **home.common("ada"),
        roles=(Role.OPERATOR,),
        account=KIM,
        issuer=ISSUER,
        trusted_root=ACCOUNT.trusted_root,
    )
    home.take(AccountStatement(subject=identity_subject("kim", ACCOUNT.key_id), predicate=trust), by="ada")
    return home


def bundled(home, signer, *, subject=KIM):
    said = home.promotion(signer=Signer(identity="kim", key_id=signer))
    assert isinstance(said, PromotionStatement)
    return LOCAL.bundle(canonical_bytes(said), subject, ISSUER)


def test_bundle_that_names_a_key_is_refused(trusting):
    key = trusting.keys["ada"].public.key_id
    said = trusting.promotion(signer=Signer(identity="ada", key_id=key))

    with pytest.raises(WrongSignerError):
        verify_chain([LOCAL.bundle(canonical_bytes(said), KIM, ISSUER)], now=trusting.now, after=trusting.chain)


def test_bundle_that_names_an_account_that_nobody_trusts_is_refused(trusting):
    with pytest.raises(KeyOwnerError):
        verify_chain([bundled(trusting, "0" * 64)], now=trusting.now, after=trusting.chain)


def test_envelope_by_a_key_in_the_name_of_an_account_is_refused(trusting):
    said = trusting.promotion(signer=Signer(identity="kim", key_id=ACCOUNT.key_id))
    envelope = sign_envelope(canonical_bytes(said), "application/vnd.in-toto+json", trusting.keys["ada"])

    with pytest.raises(WrongSignerError):
        verify_chain([envelope], now=trusting.now, after=trusting.chain)


def test_account_that_is_not_that_of_its_id_is_refused(trusting):
    predicate = trusting.chain.statements[-1].statement.predicate

    with pytest.raises(ValueError, match="account and issuer must be those"):
        AccountStatement(subject=identity_subject("kim", "0" * 64), predicate=predicate)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda: verify_bundle(json.dumps(BUNDLE).encode(), ACCOUNT), id="verify"),
        pytest.param(lambda: AccountSigner(ACCOUNT, lambda: "x").bundle(STATEMENT), id="sign"),
    ],
)
def test_missing_sigstore_is_named_and_believes_nothing(monkeypatch, act):
    monkeypatch.delitem(sys.modules, "loractl_registry.trust._sigstore")
    monkeypatch.delattr("loractl_registry.trust._sigstore")
    monkeypatch.setitem(sys.modules, "sigstore.models", None)

    with pytest.raises(SigstoreMissingError, match=r"sigstore\.models is not installed"):
        act()


def test_token_is_shown_nowhere():
    signer = AccountSigner(ACCOUNT, lambda: "secret")

    assert "secret" not in repr(signer)
    with pytest.raises(KeylessUnavailableError) as caught:
        signer.bundle(STATEMENT)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_refusal_says_what_and_a_way_out():
    samples = [
        KeylessSignatureError(KIM, ISSUER, "x"),
        TrustedRootError("x"),
        InvalidAccountError("issuer", "x"),
        NoTokenError(KIM, "VARIABLE"),
        KeylessUnavailableError("x"),
        SigstoreMissingError("sigstore"),
    ]

    assert all(each.hint and str(each) for each in samples)
    assert len({each.code for each in samples}) == len(samples)
    assert _sigstore.require_root(ACCOUNT.trusted_root) is None
