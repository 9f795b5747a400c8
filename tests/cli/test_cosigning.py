"""``loractl sign``: a second person's signature over the files of a version."""

from __future__ import annotations

import pytest

TWICE = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.candidate.signatures]
count = 2
by = ["role:contributor"]
[adapter.approved]
by = ["anyone"]
[adapter.live]
by = ["anyone"]
"""


@pytest.fixture
def twice(cli, lived_in, monkeypatch):
    """A home where a candidate takes two signatures, and bob may make one."""
    assert cli("identity", "create", "bob").code == 0
    monkeypatch.setenv("LORACTL_IDENTITY", "alice")
    assert cli("identity", "trust", "bob", str(lived_in / "keys/bob.pem.pub"), "--role", "contributor").code == 0
    (lived_in / "policy.toml").write_text(TWICE)
    return lived_in


def test_second_signature_counts_for_the_policy(cli, twice, monkeypatch):
    denied = cli("promote", "poet@1", "--json")
    assert "loractl sign poet@1" in denied.error["hint"]

    monkeypatch.setenv("LORACTL_IDENTITY", "bob")
    signed = cli("sign", "poet@1", "--json")
    monkeypatch.setenv("LORACTL_IDENTITY", "alice")

    assert (signed.code, signed.data["by"], signed.data["is_new"]) == (0, "bob", True)
    assert cli("promote", "poet@1").code == 0
    assert cli("verify", "poet@1").code == 0
    assert cli("audit", "verify").code == 0


def test_signing_again_changes_nothing_and_says_so(cli, twice, monkeypatch):
    monkeypatch.setenv("LORACTL_IDENTITY", "bob")
    first, again, added = cli("sign", "poet@1", "--json"), cli("sign", "poet@1", "--json"), cli("sign", "poet@1")

    assert (again.code, again.data["is_new"], again.data["statement"]) == (0, False, None)
    assert again.data["signature"] == first.data["signature"]
    assert "Already signed: the files of poet@1, as bob" in added.out


def test_who_added_a_version_has_signed_it_already(cli, twice):
    assert cli("sign", "poet@1", "--json").data["is_new"] is False


@pytest.mark.parametrize(("ref", "code"), [("poet@9", 4), ("nobody", 4)])
def test_no_version_is_not_signed(cli, twice, ref, code):
    assert cli("sign", ref).code == code


def test_a_revoked_version_is_not_signed(cli, twice, monkeypatch):
    assert cli("revoke", "poet@1", "--reason", "leaks", "--yes").code == 0
    monkeypatch.setenv("LORACTL_IDENTITY", "bob")

    assert cli("sign", "poet@1", "--json").error["code"] == "registry.stage"
