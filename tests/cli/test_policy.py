"""The policy on the command line: checked, tested, explained."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.cli import clean_environment, run_process
from support.tampering import CUT, run_sql

REVIEWED = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["role:reviewer"]
max_rank = 8
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[adapter.live]
by = ["role:operator"]
[adapter.data]
[adapter.data.tenants]
public = ["acme-*"]
"""
BROKEN = """
base.by = ["role:king"]
[adapter.approved]
by = ["anyone"]
max_rnk = 8
"""
CONTRADICTORY = """
base.by = ["anyone"]
[adapter.approved]
by = ["anyone"]
max_data_class = "secret"
"""
CASES = """
[request]
name = "bot"
number = 1
stage = "candidate"
actor = "ada"
digest = "sha256:x"
now = 2026-01-31T09:00:00Z

[request.base]
name = "tiny"

[[case]]
name = "anybody makes candidates"
expect = "allow"

[[case]]
name = "not even ada"
expect = "{expect}"
"""


@pytest.fixture
def reviewed(lived_in):
    (lived_in / "policy.toml").write_text(REVIEWED.replace("[adapter.data]\n[adapter.data.tenants]\n", "#"))
    return lived_in


def rules(result):
    return {one["rule"]: one for one in result.data["rules"]}


def test_explain_shows_each_rule_with_its_line_what_it_saw_and_the_way_out(cli, golden, reviewed):
    result = cli("policy", "explain", "support-bot@3", "--json")

    approvals = rules(result)["adapter.approved.approvals"]
    assert result.code == 3
    assert (approvals["verdict"], approvals["line"], approvals["seen"]) == ("denied", 8, "none")
    assert "loractl approve support-bot@3" in approvals["way_out"]
    assert rules(result)["adapter.approved.max_rank"]["verdict"] == "allowed"
    assert result.error["code"] == "cli.verification_failed"


def test_explain_as_text_says_the_same(cli, reviewed):
    shown = cli("policy", "explain", "support-bot@3")

    assert "adapter.approved.approvals  line 8" in shown.out
    assert "sees  none" in shown.out


def test_explain_of_what_is_allowed_is_0_and_promote_agrees(cli, lived_in):
    explained = cli("policy", "explain", "support-bot@3", "--to", "live", "--json")

    assert (explained.code, explained.data["is_allowed"], explained.data["to"]) == (0, True, "live")
    assert cli("promote", "support-bot@3", "--to", "live").code == 0


def test_explain_asks_for_the_tenant_too(cli, lived_in):
    (lived_in / "policy.toml").write_text(REVIEWED)

    result = cli("policy", "explain", "support-bot@3", "--tenant", "acme-eu", "--json")

    assert (result.code, result.data["tenant"]) == (3, "acme-eu")
    assert rules(result)["adapter.data.classes"]["verdict"] == "denied"


def test_explain_for_somebody_else_judges_their_roles(cli, lived_in, monkeypatch):
    assert cli("identity", "create", "bob").code == 0
    monkeypatch.setenv("LORACTL_IDENTITY", "alice")
    assert cli("identity", "trust", "bob", str(lived_in / "keys/bob.pem.pub"), "--role", "contributor").code == 0

    result = cli("policy", "explain", "support-bot@3", "--as", "bob", "--json")

    assert (result.code, result.data["identity"], result.data["roles"]) == (3, "bob", ["contributor"])
    assert rules(result)["signature"]["verdict"] == "denied"
    assert cli("policy", "explain", "support-bot@3", "--as", "nobody", "--json").code == 4


def test_explain_does_not_need_the_private_key(cli, lived_in):
    (lived_in / "keys/alice.pem").write_bytes(b"")
    (lived_in / "keys/alice.pem").chmod(0o600)

    assert cli("policy", "explain", "support-bot@3").code == 0


def test_explain_of_a_row_that_was_edited_denies(cli, lived_in):
    run_sql(lived_in, "UPDATE version SET stage = 'approved' WHERE name = 'poet'")

    result = cli("policy", "explain", "poet@1", "--json")

    assert result.code == 3
    assert "the signed statements say draft" in rules(result)["signed"]["why"]


@pytest.mark.parametrize(
    ("command", "verdict", "seen"),
    [
        pytest.param(None, "allowed", "no scan", id="none"),
        pytest.param("true", "allowed", "true passed, signed by alice", id="passed"),
        pytest.param("false", "denied", "false failed, signed by alice", id="failed"),
    ],
)
def test_explain_tells_quarantine_and_promote_agrees(cli, lived_in, command, verdict, seen):
    if command is not None:
        cli("evidence", "scan", "support-bot@3", "--", command)

    explained = cli("policy", "explain", "support-bot@3", "--json")
    promoted = cli("promote", "support-bot@3", "--json")

    rule = rules(explained)["quarantine"]
    assert (rule["verdict"], rule["seen"]) == (verdict, seen)
    assert (explained.code, promoted.code) == ((3, 3) if verdict == "denied" else (0, 0))
    if verdict == "denied":
        assert rule["why"] == promoted.error["message"]
        assert rule["way_out"] == promoted.error["hint"]


def test_explain_says_who_admitted_the_base(cli, lived_in):
    rule = rules(cli("policy", "explain", "support-bot@3", "--json"))["base.by"]
    assert (rule["verdict"], rule["required"]) == ("allowed", "role:operator or anyone")
    assert "tiny-moe admitted by alice (auditor, contributor, operator, reviewer)" in rule["seen"]

    run_sql(lived_in, "UPDATE base SET licence = 'mit'")
    denied = cli("policy", "explain", "support-bot@3", "--json")
    assert denied.code == 3
    assert "the database says licence mit" in rules(denied)["base.by"]["why"]


def test_explain_of_a_signature_that_was_edited_denies(cli, lived_in):
    run_sql(lived_in, "DELETE FROM file_signature")

    result = cli("policy", "explain", "support-bot@3", "--json")

    assert result.code == 3
    assert "is gone" in rules(result)["signed"]["why"]


def test_explain_of_a_chain_that_was_cut_is_refused(cli, lived_in):
    run_sql(lived_in, *CUT)

    assert cli("policy", "explain", "support-bot@3", "--json").error["code"] == "trust.rollback"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(("support-bot@9",), 4, id="no-version"),
        pytest.param(("support-bot@3", "--to", "draft"), 2, id="no-rung"),
        pytest.param(("poet@1", "--tenant", "Bad Name"), 2, id="bad-tenant"),
    ],
)
def test_explain_refuses_what_it_cannot_judge(cli, lived_in, argv, code):
    assert cli("policy", "explain", *argv).code == code


def test_explain_of_a_rejected_version_says_the_way_out(cli, lived_in):
    assert cli("reject", "support-bot@3", "--reason", "fails").code == 0

    result = cli("policy", "explain", "support-bot@3", "--json")

    assert (result.code, result.error["code"]) == (3, "registry.stage")


def test_explain_does_not_import_what_the_answer_does_not_need(lived_in):
    probe = (
        "import sys; from loractl.cli import main; sys.argv = ['loractl', 'policy', 'explain', 'support-bot@3'];"
        " main(); print(sorted({'numpy', 'torch', 'transformers', 'vllm', 'httpx', 'sqlmodel'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", probe], env=clean_environment(lived_in), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        pytest.param(BROKEN, 2, "base.by", id="unknown-role"),
        pytest.param(BROKEN, 5, "max_rnk", id="unknown-key"),
        pytest.param(CONTRADICTORY, 5, "secret", id="contradiction"),
        pytest.param("base = [", 1, "", id="no-toml"),
    ],
)
def test_check_names_every_problem_by_its_line(cli, home, tmp_path, text, line, said):
    file = tmp_path / "draft.toml"
    file.write_text(text)

    result = cli("policy", "check", str(file), "--json")

    assert (result.code, result.data["is_valid"]) == (2, False)
    assert any(one["line"] == line and said in one["text"] for one in result.data["problems"])
    assert f"line {line}" in cli("policy", "check", str(file)).out


def test_check_of_a_good_policy_is_0_and_gives_its_digest(cli, golden, lived_in):
    result = cli("policy", "check", "--json")

    assert result.code == 0
    golden("policy-check", result.out)


def test_tests_beside_the_policy_run(cli, golden, lived_in):
    (lived_in / "policy.tests.toml").write_text(CASES.format(expect="allow"))
    passed = cli("policy", "test", "--json")
    (lived_in / "policy.tests.toml").write_text(CASES.format(expect="deny"))
    failed = cli("policy", "test", "--json")

    assert (passed.code, failed.code) == (0, 3)
    assert [one["has_passed"] for one in failed.data["cases"]] == [True, False]
    assert "expected deny and got allow" in cli("policy", "test").out
    golden("policy-test", passed.out.replace(str(lived_in), "<home>"))


def test_policy_without_tests_is_4(cli, lived_in):
    assert cli("policy", "test", "--json").error["code"] == "registry.policy_cases_not_found"


def test_preset_is_written_once_and_is_in_force(cli, lived_in):
    before = cli("policy", "show", "--json").data
    made = cli("policy", "init", "--preset", "team")
    again = cli("policy", "init", "--preset", "solo", "--json")
    after = cli("policy", "show", "--json").data

    assert (before["file"], made.code, again.code) == (None, 0, 5)
    assert (after["file"], "four_eyes = true" in after["text"]) == (str(lived_in / "policy.toml"), True)
    assert cli("policy", "show").out.startswith("# team")
    assert cli("policy", "init", "--preset", "king").code == 2


def test_policy_larger_than_is_read_is_refused(cli, home, tmp_path):
    file = tmp_path / "huge.toml"
    file.write_text("#" * (2**16 + 1))

    assert cli("policy", "check", str(file), "--json").code == 2


def test_explain_as_a_process(lived_in):
    result = run_process(["policy", "explain", "support-bot@3", "--json"], clean_environment(lived_in))

    assert (result.code, result.data["is_allowed"]) == (0, True)
