"""Known flaws of the engine: listed, updated when asked, and what they stop."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from loractl.serving import advisories as serving_advisories
from loractl.serving import launch
from loractl_registry.advisories import bundled_snapshot

SERVE = ("serve", "tiny-moe", "--device", "cpu", "--port", "0", "--dry-run")


def snapshot(*advisories, taken=None):
    day = taken or bundled_snapshot().taken + timedelta(days=1)
    return json.dumps({"format": 1, "date": day.isoformat(), "advisories": list(advisories)})


def advisory(**changes):
    return {
        "id": "LAB-1",
        "aliases": ["LAB-ONE"],
        "package": "vllm",
        "affected": ["<99"],
        "fixed_in": "99.0",
        "severity": "critical",
        "reachable_when": ["hot-lora"],
        "summary": "adapters that are added while others run leak",
    } | changes


@pytest.fixture(autouse=True)
def _cpu_build(monkeypatch):
    monkeypatch.setattr(launch, "has_vllm_build", lambda _: True)


@pytest.fixture
def flawed(lived_in):
    """A home that was told of a flaw that can be reached."""
    (lived_in / "advisories.json").write_text(snapshot(advisory()))
    return lived_in


def test_what_is_installed_here_is_not_refused(cli, lived_in):
    listed = cli("advisories", "list", "--json")
    planned = cli(*SERVE, "--json")

    assert [one["id"] for one in listed.data["advisories"] if one["refuses"]] == []
    assert listed.data["count"] == len(bundled_snapshot().advisories)
    assert planned.code == 0, planned.err


def test_list_all_names_every_advisory_once(cli, golden, lived_in):
    rows = cli("advisories", "list", "--all", "--json").data["advisories"]

    assert len({(one["package"], one["id"]) for one in rows}) == len(rows) == len(bundled_snapshot().advisories)
    assert "CVE-2025-32434" in cli("advisories", "list", "--all").out


def test_critical_and_reachable_refuses_to_start_and_says_the_way_out(cli, flawed):
    result = cli(*SERVE, "--json")

    assert (result.code, result.error["code"]) == (3, "advisories.reachable")
    assert "LAB-1 (critical, reachable)" in result.error["message"]
    assert "--override-advisory LAB-1 --reason TEXT" in result.error["hint"]
    assert "refuses" in cli("advisories", "list").out


@pytest.mark.parametrize("name", ["LAB-1", "LAB-ONE"])
def test_override_with_a_reason_goes_on(cli, flawed, name):
    assert cli(*SERVE, "--override-advisory", name, "--reason", "isolated lab").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("--override-advisory", "LAB-1"), 2, "cli.confirmation_needed", id="no-reason"),
        pytest.param(("--override-advisory", "LAB-1", "--reason", " "), 2, "cli.usage", id="empty-reason"),
        pytest.param(("--override-advisory", "CVE-0", "--reason", "x"), 2, "advisories.override", id="not-found"),
    ],
)
def test_override_that_says_too_little_is_refused(cli, flawed, words, code, said):
    result = cli(*SERVE, *words, "--json")

    assert (result.code, result.error["code"]) == (code, said)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"severity": "high"}, id="less-than-critical"),
        pytest.param({"reachable_when": ["multimodal"]}, id="not-reachable"),
        pytest.param({"affected": ["<0.1"]}, id="not-affected"),
        pytest.param({"package": "transformers", "affected": ["<0.1"]}, id="other-package"),
    ],
)
def test_what_cannot_be_reached_or_is_less_than_critical_goes_on(cli, lived_in, changes):
    (lived_in / "advisories.json").write_text(snapshot(advisory(**changes)))

    assert cli(*SERVE).code == 0


def test_feature_that_a_flag_switches_off_is_not_reached(cli, lived_in):
    (lived_in / "advisories.json").write_text(snapshot(advisory(reachable_when=["prefix-cache"])))

    assert cli(*SERVE).code == 3
    assert cli(*SERVE, "--", "--no-enable-prefix-caching").code == 0


def test_doctor_fails_with_the_way_out(cli, flawed):
    flawed.chmod(0o700)

    (check,) = [one for one in cli("doctor", "--json").data["checks"] if one["name"] == "advisories"]

    assert (check["health"], check["way_out"]) == ("fail", "upgrade to 99.0 or later")


def test_doctor_is_content_with_what_is_installed_here(cli, lived_in, monkeypatch):
    monkeypatch.setattr(serving_advisories, "staleness", lambda *_: None)

    (check,) = [one for one in cli("doctor", "--json").data["checks"] if one["name"] == "advisories"]

    assert check["health"] == "ok"


def test_stale_advisories_are_a_warning_and_no_refusal(cli, lived_in, monkeypatch):
    monkeypatch.setattr(serving_advisories, "staleness", lambda *_: timedelta(days=91))

    listed = cli("advisories", "list")
    (check,) = [one for one in cli("doctor", "--json").data["checks"] if one["name"] == "advisories"]

    assert "91 days old" in listed.err
    assert (check["health"], "91 days old" in check["found"]) == ("warn", True)
    assert cli(*SERVE).code == 0


def test_update_takes_in_a_file_and_says_what_is_new(cli, golden, lived_in, tmp_path):
    file = tmp_path / "newer.json"
    file.write_text(snapshot(advisory()))

    made = cli("advisories", "update", str(file), "--json")

    assert (made.code, made.data["new"], made.data["count"]) == (0, ["LAB-1"], 1)
    assert [one["id"] for one in cli("advisories", "list", "--json").data["advisories"]] == ["LAB-1"]
    assert cli(*SERVE).code == 3


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        pytest.param("{}", 3, "advisories.snapshot", id="malformed"),
        pytest.param(snapshot(taken=date(2020, 1, 1)), 3, "advisories.older_snapshot", id="older"),
        pytest.param(None, 2, "advisories.source", id="no-file"),
    ],
)
def test_update_that_is_refused_leaves_what_is_known(cli, flawed, tmp_path, text, code, said):
    file = tmp_path / "newer.json"
    if text is not None:
        file.write_text(text)

    result = cli("advisories", "update", str(file), "--json")

    assert (result.code, result.error["code"]) == (code, said)
    assert (flawed / "advisories.json").read_text() == snapshot(advisory())


def test_update_fetches_from_nothing_but_https(cli, lived_in):
    assert cli("advisories", "update", "http://example.org/a.json", "--json").error["code"] == "advisories.source"


def test_older_snapshot_in_the_home_hides_nothing_that_loractl_came_with(cli, lived_in):
    (lived_in / "advisories.json").write_text(snapshot(taken=date(2020, 1, 1)))

    assert cli("advisories", "list", "--json").data["count"] == len(bundled_snapshot().advisories)


def test_malformed_snapshot_in_the_home_stops_serving(cli, lived_in):
    (lived_in / "advisories.json").write_text("{")

    assert cli(*SERVE, "--json").error["code"] == "advisories.snapshot"
