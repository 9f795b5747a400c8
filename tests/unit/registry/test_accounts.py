"""Accounts that sign without a key: trusted like keys, through sigstore's own code and a local instance behind it."""

import pytest
from support.local_sigstore import LocalSigstore, token_of
from support.notes import chain_by
from support.registry import write_adapter
from support.tampering import WIPE, copied, restored, run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry.audit_records import read_record
from loractl_registry.audit_verifying import verify_record
from loractl_registry.errors import UsageError
from loractl_registry.ledger.chains import checked_chain, resumed_chain
from loractl_registry.ledger.errors import NoSuchIdentityError
from loractl_registry.ledger.standing import Standings
from loractl_registry.refusals import PolicyDeniedError, SelfApprovalError
from loractl_registry.signatures import _library
from loractl_registry.trust import KeylessSignatureError, KeylessUnavailableError, RollbackError, _sigstore
from loractl_registry.trust.checkpoint import claimed_checkpoint
from loractl_registry.trust.errors import IdentityError, RoleError
from loractl_registry.trust.keyless_errors import InvalidAccountError, NoTokenError, TrustedRootError

BOT = Ref("bot", 1)
KIM, ISSUER = "kim@example.org", "https://accounts.example.org"
SIGNED_TWICE = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.candidate.signatures]
count = 1
by = ["role:contributor"]
[adapter.approved]
by = ["role:reviewer"]
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[adapter.live]
by = ["role:operator"]
"""


@pytest.fixture(scope="module")
def local():
    return LocalSigstore()


@pytest.fixture(autouse=True)
def services(local, monkeypatch):
    monkeypatch.setattr(_sigstore, "services", local.services)


@pytest.fixture
def root(local, tmp_path):
    path = tmp_path / "trusted_root.json"
    path.write_text(local.trusted_root)
    return path


@pytest.fixture
def trusted(registry, add, home, clock, root):
    """Trust kim's account with roles, and open the home as kim."""
    opened = []

    def _trusted(*roles, token=lambda: token_of(KIM, ISSUER)):
        registry.identities.trust_account("kim", KIM, ISSUER, roles, actor="ada", trusted_root=root)
        opened.append(Registry.open(home, clock=clock, identity="kim", token=token))
        return opened[-1]

    add()
    yield _trusted
    for each in opened:
        each.close()


def test_an_account_is_listed_with_its_issuer_and_root(registry, trusted):
    trusted("reviewer")

    (found,) = registry.identities.named("kim")
    assert (found.public_key, found.roles, found.is_trusted) == (None, ("reviewer",), True)
    assert (found.account.subject, found.account.issuer) == (KIM, ISSUER)
    event = registry.history("kim")[-1]
    assert event.action == "identity.trust"
    assert (event.detail["account"], event.detail["issuer"]) == (KIM, ISSUER)
    assert event.detail["trusted_root"] == found.account.trusted_root


def test_an_account_s_approval_counts_by_its_role(registry, trusted, home):
    kim = trusted("reviewer")
    (home / "policy.toml").write_text(SIGNED_TWICE)
    registry.promote(BOT, actor="ada", to=Stage.CANDIDATE)
    with pytest.raises(PolicyDeniedError):
        registry.promote(BOT, actor="ada", to=Stage.APPROVED)

    kim.approve(BOT, actor="kim", reason="the evaluation passed")

    registry.promote(BOT, actor="ada", to=Stage.LIVE)
    assert registry.version(BOT).stage is Stage.LIVE
    assert registry.identities.verify().problems == ()


def test_an_account_adds_with_a_signature_that_counts(registry, trusted, home, tmp_path):
    kim = trusted("contributor", "reviewer")
    (home / "policy.toml").write_text(SIGNED_TWICE)

    added = kim.add("novel", str(write_adapter(tmp_path / "novel", seed=7)), actor="kim", base="tiny-moe").version

    (signature,) = registry.file_signatures(Ref("novel", 1))
    assert (signature.kind, signature.identity, signature.is_verified) == ("keyless", "kim", True)
    kim.promote(Ref("novel", 1), actor="kim", to=Stage.CANDIDATE)
    with pytest.raises(SelfApprovalError):
        kim.approve(Ref("novel", 1), actor="kim", reason="mine")
    assert registry.identities.standing(registry.version(added.ref)).objection is None
    assert registry.verify([Ref("novel", 1)])[0].is_intact


def test_an_account_without_the_role_signs_nothing(registry, trusted):
    kim = trusted("auditor")

    with pytest.raises(RoleError, match="kim is auditor"):
        kim.promote(BOT, actor="kim", to=Stage.CANDIDATE)

    assert registry.version(BOT).stage is Stage.DRAFT


def test_a_shipped_signature_by_an_account_counts(registry, trusted, home, local, tmp_path):
    trusted("contributor")
    folder = write_adapter(tmp_path / "novel", seed=7)
    plain = registry.add("plain", str(folder), actor="ada", base="tiny-moe").version
    payload = _library.statement_of(_library.payload_from(registry.manifest(plain.ref), "novel"))
    (folder / "model.sig").write_bytes(local.bundle(payload, KIM, ISSUER))

    registry.add("novel", str(folder), actor="ada", base="tiny-moe")

    found = {one.kind: one for one in registry.file_signatures(Ref("novel", 1))}
    assert (found["shipped"].identity, found["shipped"].is_verified) == ("kim", True)


@pytest.mark.parametrize(
    ("token", "refusal"),
    [
        pytest.param(None, NoTokenError, id="none"),
        pytest.param(lambda: "no token", KeylessUnavailableError, id="malformed"),
        pytest.param(lambda: token_of("eve@example.org", ISSUER), KeylessSignatureError, id="somebody-else-s"),
        pytest.param(lambda: token_of(KIM, "https://evil.example"), KeylessSignatureError, id="another-issuer-s"),
    ],
)
def test_an_account_signs_with_its_own_token_alone(registry, trusted, token, refusal):
    kim = trusted("reviewer", token=token)
    before = registry.identities.verify().statements

    with pytest.raises(refusal) as caught:
        kim.promote(BOT, actor="kim", to=Stage.CANDIDATE)

    assert caught.value.hint
    assert token is None or token() not in str(caught.value)
    assert registry.identities.verify().statements == before


def test_a_revoked_account_signs_nothing_more_and_what_it_signed_stays(registry, trusted):
    kim = trusted("reviewer")
    kim.promote(BOT, actor="kim", to=Stage.CANDIDATE)

    (ended,) = registry.identities.revoke("kim", actor="ada", reason="left")

    assert ended.is_revoked
    with pytest.raises(NoSuchIdentityError):
        kim.promote(BOT, actor="kim", to=Stage.APPROVED)
    assert registry.version(BOT).stage is Stage.CANDIDATE
    assert registry.identities.verify().problems == ()


def test_pinning_another_root_keeps_what_was_signed_under_the_old_one(
    registry, trusted, home, clock, root, monkeypatch
):
    trusted("reviewer").promote(BOT, actor="kim", to=Stage.CANDIDATE)
    newer = LocalSigstore()
    root.write_text(newer.trusted_root)

    registry.identities.trust_account("kim", KIM, ISSUER, ("reviewer",), actor="ada", trusted_root=root)

    with Registry.open(home, clock=clock, identity="kim", token=lambda: token_of(KIM, ISSUER)) as kim:
        with pytest.raises(KeylessSignatureError, match="certificate chain"):
            kim.promote(BOT, actor="kim", to=Stage.APPROVED)
        monkeypatch.setattr(_sigstore, "services", newer.services)
        kim.promote(BOT, actor="kim", to=Stage.APPROVED)
    assert registry.identities.verify().problems == ()


def test_trusting_the_same_account_twice_is_refused(registry, trusted, root):
    trusted("reviewer")

    with pytest.raises(IdentityError, match="has these roles already"):
        registry.identities.trust_account("kim", KIM, ISSUER, ("reviewer",), actor="ada", trusted_root=root)


@pytest.mark.parametrize(("subject", "issuer"), [("", ISSUER), ("a b", ISSUER), (KIM, "http://x.example"), (KIM, "x")])
def test_what_no_certificate_holds_is_no_account(registry, add, subject, issuer, root):
    add()

    with pytest.raises(InvalidAccountError) as caught:
        registry.identities.trust_account("kim", subject, issuer, ("reviewer",), actor="ada", trusted_root=root)

    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize("text", ["", "{}", '{"a": 1, "a": 2}', "[]", "\x00", '{"mediaType": "x"}', " " * 70_000])
def test_what_is_no_root_of_trust_is_refused(registry, add, root, text):
    add()
    root.write_text(text)

    with pytest.raises(TrustedRootError) as caught:
        registry.identities.trust_account("kim", KIM, ISSUER, ("reviewer",), actor="ada", trusted_root=root)

    assert caught.value.hint


def test_without_a_root_the_public_one_is_pinned(registry, add, monkeypatch, tmp_path):
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))
    add()

    found = registry.identities.trust_account("kim", KIM, ISSUER, ("reviewer",), actor="ada")

    assert found.account.trusted_root.startswith("sha256:")


def test_the_record_for_an_auditor_verifies_with_what_an_account_signed(registry, trusted, tmp_path, clock):
    trusted("reviewer").promote(BOT, actor="kim", to=Stage.CANDIDATE)
    exported = registry.export_audit(tmp_path / "record")

    found = verify_record(read_record(tmp_path / "record"), exported.root_key_id, clock())

    assert found.problems == ()


def test_what_accounts_and_keys_signed_is_taken_up_from_the_note_as_it_is_verified(registry, trusted, home, clock):
    kim = trusted("contributor", "reviewer", "operator")
    kim.promote(BOT, actor="kim", to=Stage.CANDIDATE)
    kim.sign_files(BOT, actor="kim")
    registry.identities.revoke("kim", actor="ada", reason="left")

    whole, again = (chain_by(how, home, clock) for how in (checked_chain, resumed_chain))

    assert (whole.reopened, again.reopened) == (0, again.sequence)
    assert again.trust == whole.trust
    assert dict(Standings(again)) == dict(Standings(whole))
    assert [again.granted(one.statement) for one in again.statements] == [
        whole.granted(one.statement) for one in whole.statements
    ]


def test_an_account_s_change_moves_the_checkpoint(registry, trusted, home):
    trusted("reviewer").promote(BOT, actor="kim", to=Stage.CANDIDATE)

    held = claimed_checkpoint((home / "checkpoint.json").read_bytes())

    verified = registry.identities.verify()
    assert (held.sequence, held.head, held.signer.identity) == (verified.statements, verified.head, "kim")
    assert verified.problems == ()


@pytest.mark.parametrize("is_trusted_before", [True, False], ids=["before-its-change", "before-it-was-trusted"])
def test_database_from_before_an_account_s_change_is_refused(
    registry, trusted, home, clock, tmp_path, is_trusted_before
):
    backup = None if is_trusted_before else copied(home, tmp_path / "backup.db")
    kim = trusted("reviewer")
    backup = backup or copied(home, tmp_path / "backup.db")
    kim.promote(BOT, actor="kim", to=Stage.CANDIDATE)
    kim.close()
    registry.close()
    restored(home, backup)

    with Registry.open(home, clock=clock) as again:
        assert "a signed checkpoint has seen" in again.snapshot("tiny-moe").distrust
        with pytest.raises(RollbackError):
            again.promote(BOT, actor="ada")


def test_chain_that_was_wiped_is_refused_where_an_account_s_checkpoint_remembers_it(registry, trusted, home, clock):
    trusted("reviewer").promote(BOT, actor="kim", to=Stage.CANDIDATE)
    run_sql(home, *WIPE)

    with Registry.open(home, clock=clock) as again, pytest.raises(RollbackError):
        again.promote(BOT, actor="ada")


def test_an_account_writes_a_checkpoint_that_was_meant(registry, trusted, home):
    kim = trusted("auditor")
    (home / "checkpoint.json").unlink()

    written = kim.identities.checkpoint(actor="kim", reason="it was lost")

    assert written.signer == "kim"
    assert registry.identities.verify().problems == ()
