"""What waits for whom, and what they are shown of it."""

from __future__ import annotations

import json

import pytest
from support.tampering import FLIP, run_sql

REVIEWED = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["role:reviewer"]
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[[adapter.approved.evidence]]
type = "scan"
[adapter.live]
by = ["role:operator"]
"""


@pytest.fixture
def team(cli, lived_in, monkeypatch):
    """A home where bob reviews what alice adds, and carol operates."""
    for name, role in (("bob", "reviewer"), ("carol", "operator")):
        assert cli("identity", "create", name).code == 0
        monkeypatch.setenv("LORACTL_IDENTITY", "alice")
        assert cli("identity", "trust", name, str(lived_in / f"keys/{name}.pem.pub"), "--role", role).code == 0
    (lived_in / "policy.toml").write_text(REVIEWED)
    return lived_in


def waiting(result):
    assert (result.code, result.err) == (0, "")
    return {one["ref"]: one for one in result.data["waiting"]}


def test_review_shows_what_waits_with_what_is_open_and_the_change_from_what_is_live(cli, golden, team):
    result = cli("review", "--as", "bob", "--json")

    found = waiting(result)["support-bot@3"]
    assert (found["to"], found["live"]) == ("approved", "support-bot@2")
    assert [one["rule"] for one in found["open"]] == ["adapter.approved.approvals", "adapter.approved.evidence[0]"]
    assert len(found["diff"]["tensors"]) == 4
    assert {one["module"] for one in found["modules"]} == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    }
    assert all(one["change"] > 0 and one["before"] > 0 for one in found["modules"])


def test_review_shows_evidence_about_what_waits_and_about_what_is_live(cli, team, tmp_path, monkeypatch):
    results = tmp_path / "results.json"
    monkeypatch.setenv("LORACTL_IDENTITY", "bob")
    for ref, value in (("support-bot@3", 0.7), ("support-bot@2", 0.6)):
        results.write_text(json.dumps({"metrics": {"acc": value}}))
        assert cli("evidence", "add", ref, str(results), "--type", "eval").code == 0

    found = waiting(cli("review", "--json"))["support-bot@3"]
    shown = cli("review").out

    assert [one["metrics"] for one in found["evidence"]] == [{"acc": 0.7}]
    assert [one["metrics"] for one in found["live_evidence"]] == [{"acc": 0.6}]
    assert "evidence about the live version" in shown


def test_review_as_text_names_modules_and_what_is_open(cli, team):
    shown = cli("review", "--as", "bob").out

    assert "support-bot@3  candidate -> approved  added by alice" in shown
    assert "open  adapter.approved.approvals: 1 approval by role:reviewer" in shown
    assert "model.layers.0.self_attn.q_proj" in shown


@pytest.mark.parametrize(
    "who", [pytest.param("alice", id="who-added-it"), pytest.param("carol", id="who-has-no-role-for-it")]
)
def test_nothing_waits_for_who_may_not_approve_it(cli, team, who):
    result = cli("review", "--as", who, "--json")

    assert waiting(result) == {}
    assert f"nothing waits for {who}" in cli("review", "--as", who).err


def test_what_was_approved_waits_no_longer(cli, team, monkeypatch):
    monkeypatch.setenv("LORACTL_IDENTITY", "bob")
    before = waiting(cli("review", "--json"))

    assert cli("approve", "support-bot@3", "--reason", "read it").code == 0

    assert "support-bot@3" in before
    assert "support-bot@3" not in waiting(cli("review", "--json"))


def test_rejected_by_a_reviewer_waits_no_longer_and_others_cannot_reject(cli, team, monkeypatch):
    monkeypatch.setenv("LORACTL_IDENTITY", "carol")
    refused = cli("reject", "support-bot@3", "--reason", "x", "--json")
    monkeypatch.setenv("LORACTL_IDENTITY", "bob")
    rejected = cli("reject", "support-bot@3", "--reason", "leaks names", "--json")

    assert (refused.code, refused.error["code"]) == (3, "trust.role")
    assert rejected.data["stage"] == "rejected"
    assert "support-bot@3" not in waiting(cli("review", "--json"))
    event = cli("history", "support-bot", "--json").data[-1]
    assert (event["action"], event["detail"]["signer"], event["reason"]) == ("adapter.reject", "bob", "leaks names")


def test_row_that_was_edited_waits_for_nobody(cli, team):
    run_sql(team, FLIP[0].replace("sly", "poet").replace("'live'", "'candidate'"))

    assert "poet@1" not in waiting(cli("review", "--as", "bob", "--json"))


def test_version_without_a_live_one_is_compared_with_the_base(cli, team):
    assert cli("promote", "poet@1").code == 0

    found = waiting(cli("review", "--as", "bob", "--json"))["poet@1"]

    assert (found["live"], found["diff"]) == (None, None)
    assert all(one["before"] == 0 and one["change"] == one["after"] for one in found["modules"])


def test_review_alone_at_home_is_empty(cli, lived_in):
    assert waiting(cli("review", "--json")) == {}


def test_review_for_a_stranger_is_4(cli, team):
    assert cli("review", "--as", "nobody", "--json").error["code"] == "registry.no_such_identity"
