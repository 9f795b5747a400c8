"""The demonstration of a team observes what it claims, and notices when there was nothing to observe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from loractl.demo import DemoOptions, TeamClaim, play_team, team_steps
from loractl.demo.commands import Shell, demo_environment

CAUGHT = {TeamClaim.FLIPPED_ROW_CAUGHT, TeamClaim.REPLAY_CAUGHT, TeamClaim.OLD_DATABASE_CAUGHT}


def _missing(home: Path | None) -> set[object]:
    options = DemoOptions(home=home, adapters=None, port=8000, keep_serving=False)
    report = play_team(options, Console(quiet=True), os.environ)
    return {one.claim for one in report.observations if not one.is_seen}


def test_command_observes_every_claim_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shell = Shell(tmp_path, demo_environment(tmp_path / "own", os.environ) | {"TMPDIR": str(tmp_path)}, None)

    (report,) = shell.rows("loractl demo --team --json")

    observations = report["observations"]
    assert [one["claim"] for one in observations if one["is_seen"]] == [claim.value for claim in TeamClaim]
    assert report["is_complete"] is True
    assert list(tmp_path.iterdir()) == []


def test_intruder_who_does_nothing_leaves_nothing_to_observe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_steps, "flip_stage_sql", lambda *_: "SELECT 1")
    monkeypatch.setattr(team_steps, "replay_sql", lambda _: "SELECT 1")
    monkeypatch.setattr(team_steps, "put_database", lambda *_: None)

    assert _missing(None) == CAUGHT


def test_people_without_keys_end_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_steps, "ROLES", {"Carl": ("contributor",)})

    assert _missing(tmp_path / "home") == set(TeamClaim)


def test_claims_have_sentences() -> None:
    assert all(claim.text for claim in TeamClaim)


def test_nothing_is_kept_serving_for_a_team(tmp_path: Path) -> None:
    refused = Shell(tmp_path, demo_environment(tmp_path / "home", {}), None).run(
        "loractl demo --team --keep-serving --json"
    )

    assert refused.exit_code == 2
    assert json.loads(refused.output)["error"]["code"] == "cli.usage"
