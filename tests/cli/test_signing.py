"""Identities, approvals and the audit of signatures on the command line."""

from __future__ import annotations

import shutil

import pytest
from support.cli import clean_environment, run_process
from support.local_sigstore import LocalSigstore
from support.registry import write_adapter
from support.tampering import CUT, FLIP, run_sql

REVIEWED = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["role:reviewer"]
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[adapter.live]
by = ["role:operator"]
"""


@pytest.fixture
def team(cli, lived_in, monkeypatch):
    """A home where bob reviews what alice adds."""
    assert cli("identity", "create", "bob").code == 0
    monkeypatch.setenv("LORACTL_IDENTITY", "alice")
    assert cli("identity", "trust", "bob", str(lived_in / "keys/bob.pem.pub"), "--role", "reviewer").code == 0
    (lived_in / "policy.toml").write_text(REVIEWED)
    return lived_in


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        pytest.param(("identity", "list"), "identity-list", id="list"),
        pytest.param(("identity", "show", "alice"), "identity-show", id="show"),
        pytest.param(("identity", "create", "carol"), "identity-create", id="create"),
        pytest.param(("identity", "trust", "bob", "{bob}", "--role", "auditor"), "identity-trust", id="trust"),
        pytest.param(("identity", "revoke", "bob", "--reason", "left", "--yes"), "identity-revoke", id="revoke"),
        pytest.param(("approvals", "support-bot@3"), "approvals", id="approvals"),
        pytest.param(("audit", "verify"), "audit-verify", id="verify"),
        pytest.param(("audit", "checkpoint", "--reason", "restored", "--yes"), "audit-checkpoint", id="checkpoint"),
    ],
)
def test_json_has_its_shape(cli, golden, team, argv, name):
    result = cli(*(word.format(bob=team / "keys/bob.pem.pub") for word in argv), "--json")

    assert (result.code, result.err) == (0, "")
    golden(name, result.out)


def test_review_by_a_second_person_from_refusal_to_promotion(cli, golden, team, monkeypatch):
    own = cli("approve", "support-bot@3", "--reason", "mine", "--json")
    monkeypatch.setenv("LORACTL_IDENTITY", "bob")
    early = cli("promote", "support-bot@3", "--json")
    approved = cli("approve", "support-bot@3", "--reason", "read it", "--json")
    seen = cli("approvals", "support-bot@3")
    promoted = cli("promote", "support-bot@3", "--json")

    assert (own.code, own.error["code"]) == (3, "registry.self_approval")
    assert (early.code, early.error["code"]) == (3, "registry.policy_denied")
    assert "adapter.approved.approvals, line" in early.error["message"]
    golden("approve", approved.out)
    assert "ok  1 approval by role:reviewer, other than the one who added it" in seen.out
    assert promoted.data["stage"] == "approved"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(("promote", "poet@1"), 2, "registry.ambiguous_identity", id="nobody-said-who"),
        pytest.param(("identity", "show", "nobody"), 4, "registry.no_such_identity", id="unknown"),
        pytest.param(("identity", "create", "bob"), 5, "registry.identity_exists", id="exists"),
        pytest.param(("identity", "create", "Bad Name"), 2, "registry.invalid_name", id="bad-name"),
        pytest.param(
            ("identity", "trust", "bob", "/no/file", "--role", "auditor"), 4, "cli.no_such_file", id="no-file"
        ),
        pytest.param(("identity", "trust", "bob", "{home}/registry.db", "--role", "auditor"), 3, "trust", id="no-key"),
        pytest.param(
            ("identity", "trust", "bob", "{home}/registry.db", "--role", "king"), 2, "cli.usage", id="no-role"
        ),
        pytest.param(("identity", "revoke", "bob", "--reason", "x"), 2, "cli.confirmation_needed", id="needs-yes"),
        pytest.param(("approve", "support-bot@3"), 2, "cli.confirmation_needed", id="needs-reason"),
        pytest.param(("identity", "create", "carol", "--passphrase-env", "NOT_SET"), 2, "cli.usage", id="no-variable"),
        pytest.param(("audit", "checkpoint", "--reason", "x"), 2, "cli.confirmation_needed", id="checkpoint-needs-yes"),
    ],
)
def test_refusals_say_what_and_the_way_out(cli, team, monkeypatch, argv, code, said):
    monkeypatch.delenv("LORACTL_IDENTITY")

    result = cli(*(word.format(home=team) for word in argv), "--json")

    assert (result.code, result.out) == (code, "")
    assert result.error["code"].startswith(said)
    assert result.error["hint"]


def test_passphrase_comes_from_a_variable_and_never_from_the_command_line(cli, home, lived_in, monkeypatch):
    shutil.rmtree(lived_in / "keys")
    run_sql(lived_in, "DELETE FROM statement")
    (lived_in / "checkpoint.json").unlink()
    monkeypatch.setenv("MY_SECRET", "correct horse battery")

    created = cli("identity", "create", "alice", "--passphrase-env", "MY_SECRET")
    refused = cli("promote", "poet@1")
    monkeypatch.setenv("LORACTL_IDENTITY_PASSPHRASE", "correct horse battery")
    promoted = cli("promote", "poet@1")

    assert (created.code, refused.code, promoted.code) == (0, 3, 0)
    assert "LORACTL_IDENTITY_PASSPHRASE" in refused.err
    assert "ENCRYPTED" in (lived_in / "keys/alice.pem").read_text()


def test_public_key_is_exported_as_pem(cli, team, tmp_path):
    assert cli("identity", "show", "bob", "--out", str(tmp_path / "bob.pub")).code == 0

    assert (tmp_path / "bob.pub").read_text() == (team / "keys/bob.pem.pub").read_text()


def test_empty_home_has_no_identities_and_says_how_they_come(cli, home):
    result = cli("identity", "list")

    assert (result.code, result.out) == (0, "")
    assert "no identities yet" in result.err


@pytest.mark.parametrize("attack", [pytest.param(FLIP, id="row"), pytest.param(CUT, id="chain")])
def test_edited_database_is_told_by_audit_verify(cli, lived_in, attack):
    run_sql(lived_in, *(one.replace("sly", "poet").replace("'live'", "'approved'") for one in attack))

    result = cli("audit", "verify")

    assert result.code == 3
    assert "checkpoint" in result.out or "poet@1: the database says approved" in result.out


def test_serve_refuses_a_database_that_was_cut(cli, lived_in):
    run_sql(lived_in, *CUT)

    result = cli("serve", "tiny-moe", "--device", "cpu", "--port", "0", "--json")

    assert (result.code, result.error["code"]) == (3, "serve.distrust")
    assert "checkpoint has seen" in result.error["message"]


def test_promotion_as_a_process_signs(lived_in):
    environment = clean_environment(lived_in)

    result = run_process(["promote", "poet@1", "--json"], environment)

    assert result.code == 0, result.err
    assert result.data["stage"] == "candidate"


def test_show_says_who_signed_and_what_disagrees(cli, lived_in):
    before = cli("show", "support-bot", "--json").data["signed"]
    run_sql(lived_in, "UPDATE version SET stage = 'approved' WHERE name = 'poet'")
    flipped = cli("show", "poet@1")
    run_sql(lived_in, *CUT)
    cut = cli("show", "support-bot@1")

    assert (before["stage"], before["by"], before["objection"]) == ("live", "alice", None)
    assert "the database says approved, and the signed statements say draft" in flipped.out
    assert "checkpoint has seen" in cut.out


def test_base_show_says_who_admitted_it_and_what_disagrees(cli, lived_in):
    before = cli("base", "show", "tiny-moe")
    run_sql(lived_in, "UPDATE base SET licence = 'MIT'")
    edited = cli("base", "show", "tiny-moe")
    run_sql(lived_in, *CUT)
    cut = cli("base", "show", "tiny-moe", "--json").data["signed"]

    assert "by alice, statement 3" in before.out
    assert "the database says licence MIT" in edited.out
    assert "checkpoint has seen" in cut["objection"]


ACCOUNT = ("--account", "ci@example.org", "--issuer", "https://accounts.example.org", "--role", "contributor")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "trusted_root.json").write_text(LocalSigstore().trusted_root)
    return str(tmp_path / "trusted_root.json")


def test_account_is_trusted_and_shown(cli, team, root, monkeypatch):
    monkeypatch.setenv("LORACTL_IDENTITY", "alice")

    trusted = cli("identity", "trust", "ci", *ACCOUNT, "--trusted-root", root)
    shown = cli("identity", "show", "ci")

    assert (trusted.code, shown.code) == (0, 0), trusted.err
    assert "Trusted ci as contributor" in trusted.out
    assert "ci@example.org" in shown.out
    assert "https://accounts.example.org" in shown.out
    assert cli("identity", "show", "ci", "--out", root).code == 2


def test_account_without_a_token_cannot_sign_and_is_told_how(cli, team, root, tmp_path, monkeypatch):
    monkeypatch.setenv("LORACTL_IDENTITY", "alice")
    cli("identity", "trust", "ci", *ACCOUNT, "--trusted-root", root)
    monkeypatch.setenv("LORACTL_IDENTITY", "ci")

    refused = cli("add", "novel", str(write_adapter(tmp_path / "novel", seed=9)), "--base", "tiny-moe")

    assert refused.code == 3
    assert "SIGSTORE_IDENTITY_TOKEN" in refused.err


@pytest.mark.parametrize("more", [(), ("--account", "ci@example.org"), ("--issuer", "https://x.example")])
def test_trust_asks_for_a_key_or_a_whole_account(cli, team, more):
    refused = cli("identity", "trust", "ci", *more, "--role", "contributor")

    assert refused.code == 2
    assert "a public key, or an account and its issuer" in refused.err
