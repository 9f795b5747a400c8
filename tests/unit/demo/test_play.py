import json
from pathlib import Path

import pytest
from rich.console import Console

from loractl.demo import Claim, DemoError, DemoOptions, DemoReport, Observation, play, report_payload
from loractl.demo.commands import Shell, demo_environment


def _report(*, is_seen: bool) -> DemoReport:
    return DemoReport(tuple(Observation(claim, is_seen=is_seen, found="x") for claim in Claim), 61.27)


def test_demo_does_not_play_in_a_home_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "registry.db").touch()
    options = DemoOptions(home=tmp_path, adapters=None, port=8000, keep_serving=False)

    with pytest.raises(DemoError, match="not an empty folder"):
        play(options, Console(quiet=True), {})

    assert [path.name for path in tmp_path.iterdir()] == ["registry.db"]


def test_report_is_complete_only_if_everything_was_seen() -> None:
    assert _report(is_seen=True).is_complete
    assert not _report(is_seen=False).is_complete


def test_report_payload_names_every_claim() -> None:
    payload = json.loads(json.dumps(report_payload(_report(is_seen=True))))

    assert payload["is_complete"] is True
    assert payload["seconds"] == 61.3
    assert [one["claim"] for one in payload["observations"]] == [claim.value for claim in Claim]


def test_command_says_the_way_out_when_adapters_are_missing(tmp_path: Path) -> None:
    shell = Shell(tmp_path, demo_environment(tmp_path / "home", {}), None)

    refused = shell.run("loractl demo --adapters .")

    assert refused.exit_code == 1
    assert "hint: --adapters wants a folder with pirate" in refused.output
