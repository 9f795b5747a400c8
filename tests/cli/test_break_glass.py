"""Breaking the glass on the command line is loud wherever the version is shown."""

from __future__ import annotations

import pytest

GLASS = """
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
[adapter.break_glass]
by = ["role:operator"]
hours = 4
"""
BROKEN = ("promote", "poet@1", "--to", "live", "--break-glass", "--reason", "the other one leaks")


@pytest.fixture
def policed(lived_in):
    (lived_in / "policy.toml").write_text(GLASS)
    return lived_in


def test_it_needs_a_reason_and_a_policy_that_knows_it(cli, policed):
    silent = cli("promote", "poet@1", "--break-glass", "--json")
    (policed / "policy.toml").unlink()
    unknown = cli(*BROKEN, "--json")

    assert (silent.code, silent.error["code"]) == (2, "cli.confirmation_needed")
    assert (unknown.code, unknown.error["code"]) == (3, "registry.policy_denied")


def test_json_of_breaking_the_glass_has_its_shape(cli, golden, policed):
    golden("promote-break-glass", cli(*BROKEN, "--json").out)


def test_it_is_loud_everywhere(cli, policed):
    broken = cli(*BROKEN)
    listed, shown, history = cli("list"), cli("show", "poet"), cli("history", "poet")
    row = next(one for one in cli("list", "--json").data if one["ref"] == "poet@1")
    detail = cli("show", "poet", "--json").data

    assert broken.code == 0
    assert "without approvals and evidence" in broken.out
    for talk in (broken.err, listed.err, shown.err):
        assert "warning: BREAK-GLASS: poet@1 is approved without review until" in talk
    assert "live BREAK-GLASS" in listed.out
    assert "BREAK-GLASS: approved without review: the other one leaks" in shown.out
    assert "BREAK-GLASS" in history.out
    assert row["break_glass_until"] == detail["break_glass_until"] == detail["signed"]["expires"]
    assert detail["signed"]["break_glass"] == "the other one leaks"


def test_nothing_is_said_of_versions_that_were_reviewed(cli, policed):
    assert cli(*BROKEN).code == 0

    shown = cli("show", "support-bot")

    assert "BREAK-GLASS" not in shown.out + shown.err
    assert all(one["break_glass_until"] is None for one in cli("list", "--name", "support-bot", "--json").data)
    assert "BREAK-GLASS" not in cli("list", "--name", "support-bot").err


@pytest.mark.parametrize("to", ["candidate", "draft"])
def test_it_leads_only_to_what_is_served(cli, policed, to):
    assert cli("promote", "poet@1", "--break-glass", "--to", to, "--reason", "x").code in (2, 3)
