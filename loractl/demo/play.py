"""Play the demo from the first step to the last."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from loractl.demo import registry_steps, serving_steps
from loractl.demo.claims import Claim, Observation
from loractl.demo.commands import Shell, demo_environment
from loractl.demo.files import CLONE, DemoError, find_demo_files
from loractl.demo.narration import Narrator
from loractl.demo.stage import PIRATE, DemoStoppedError, Stage, curl_line

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How to play.

    Attributes:
        home: Folder that becomes the demo's LORACTL_HOME and stays; None for a temporary one.
        adapters: Folder to take the adapters from instead of the clone's.
        port: Port that the server gets if it is free.
        keep_serving: Leave the server up after the last step until it is interrupted.
    """

    home: Path | None
    adapters: Path | None
    port: int
    keep_serving: bool


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What was observed."""

    observations: tuple[Observation, ...]
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether every claim was seen to hold."""
        return all(observation.is_seen for observation in self.observations)


def report_payload(report: DemoReport) -> dict[str, object]:
    """Return `report` as ``--json`` writes it."""
    return {
        "is_complete": report.is_complete,
        "seconds": round(report.seconds, 1),
        "observations": [
            {"claim": one.claim.value, "text": one.claim.text, "is_seen": one.is_seen, "found": one.found}
            for one in report.observations
        ],
    }


def play(options: DemoOptions, console: Console, environment: Mapping[str, str], *, root: Path = CLONE) -> DemoReport:
    """Play every step on real parts, stop the server in any case, and report what was observed.

    Raises:
        DemoError: The demo's files are not there, or `options.home` is not an empty folder.
        KeyboardInterrupt: Interrupted or terminated before the last step; the server is stopped first.
    """
    files = find_demo_files(root, options.adapters)
    with _terminable(), demo_home(options.home) as home:
        narrator = Narrator(console)
        shell = Shell(files.root, demo_environment(home, environment), narrator.columns)
        stage = Stage(files, home, shell, narrator)
        started = time.monotonic()
        _introduce(stage)
        try:
            _play_steps(stage, options)
        finally:
            with _uninterrupted():
                serving_steps.stop(stage)
        report = DemoReport(stage.ledger.observations(), time.monotonic() - started)
        narrator.verdict(stage.ledger.missing(), len(Claim), report.seconds)
        return report


def _introduce(stage: Stage) -> None:
    stage.narrator.say("loractl demo: a tiny Mixture-of-Experts base, three adapters on its experts, and a real vLLM.")
    stage.narrator.command(f"cd {stage.files.root}")
    stage.narrator.command(f"export LORACTL_HOME={stage.home}")


def _play_steps(stage: Stage, options: DemoOptions) -> None:
    steps: tuple[Callable[[Stage], None], ...] = (
        registry_steps.admit_base,
        registry_steps.add_adapters,
        registry_steps.list_drafts,
        registry_steps.promote_two,
        lambda stage: serving_steps.serve(stage, options.port),
        serving_steps.list_served,
        serving_steps.ask_mixed,
        serving_steps.tamper,
        serving_steps.change_version,
        serving_steps.revoke_and_roll_back,
    )
    try:
        for step in steps:
            step(stage)
    except DemoStoppedError:
        return
    if options.keep_serving:
        _keep_serving(stage)


def _keep_serving(stage: Stage) -> None:
    stage.narrator.step("It stays up", f"Endpoint {stage.url}/v1. Ctrl-C stops it. In another terminal:")
    stage.narrator.command(f"export LORACTL_HOME={stage.home}")
    stage.narrator.command(curl_line(stage.url, PIRATE, serving_steps.ASKED))
    stage.narrator.say("or with the official client:")
    stage.narrator.output(serving_steps.openai_snippet(stage.url))
    try:
        while stage.server is not None and stage.server.exit_code() is None:
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return


@contextmanager
def demo_home(kept: Path | None) -> Generator[Path, None, None]:
    """Yield the home of a demonstration: `kept`, which stays, or a temporary one.

    Raises:
        DemoError: `kept` is not an empty folder.
    """
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="loractl-demo-") as folder:
            yield Path(folder, "home")
        return
    if kept.exists() and (not kept.is_dir() or any(kept.iterdir())):
        raise DemoError(f"cannot play in {kept}: it is not an empty folder", hint="name a folder that is new")
    kept.mkdir(parents=True, exist_ok=True)
    yield kept.resolve()


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """Let an impatient second Ctrl-C not leave a server behind; stopping it has limits of its own."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


@contextmanager
def _terminable() -> Generator[None, None, None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that it stops its server."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
