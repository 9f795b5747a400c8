"""Play the demonstration of a team, which starts no server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from loractl.demo import team_steps
from loractl.demo.claims import Ledger
from loractl.demo.commands import Shell, demo_environment
from loractl.demo.files import CLONE, find_demo_files
from loractl.demo.narration import Narrator
from loractl.demo.play import DemoOptions, DemoReport, demo_home
from loractl.demo.stage import DemoStoppedError, Stage
from loractl.demo.team_claims import TeamClaim

_STEPS: tuple[Callable[[Stage], None], ...] = (
    team_steps.trust_people,
    team_steps.set_policy,
    team_steps.add_adapters,
    team_steps.give_evidence,
    team_steps.refuse,
    team_steps.approve,
    team_steps.flip_row,
    team_steps.replay,
    team_steps.roll_back,
    team_steps.revoke_key,
)


def play_team(
    options: DemoOptions, console: Console, environment: Mapping[str, str], *, root: Path = CLONE
) -> DemoReport:
    """Play every step with real commands on a home of its own, and report what was observed.

    Raises:
        DemoError: The demo's files are not there, or `options.home` is not an empty folder.
    """
    files = find_demo_files(root, options.adapters)
    with demo_home(options.home) as home:
        narrator = Narrator(console)
        shell = Shell(files.root, demo_environment(home, environment), narrator.columns)
        stage = Stage(files, home, shell, narrator, Ledger(TeamClaim))
        started = time.monotonic()
        narrator.say("loractl demo --team: three people, a policy, and somebody who edits the database.")
        narrator.say("Each of them types in a terminal of their own, with LORACTL_IDENTITY set to their name.")
        narrator.command(f"export LORACTL_HOME={home}")
        with suppress(DemoStoppedError):
            for step in _STEPS:
                step(stage)
        report = DemoReport(stage.ledger.observations(), time.monotonic() - started)
        narrator.verdict(stage.ledger.missing(), len(TeamClaim), report.seconds)
        return report
