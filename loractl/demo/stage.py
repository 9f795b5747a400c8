"""What every step of the demo works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loractl.demo.chat import Answer, Question, ask
from loractl.demo.claims import Claimed, Ledger, Observation
from loractl.demo.commands import Outcome, Shell
from loractl.demo.files import DemoFiles
from loractl.demo.narration import Narrator
from loractl.demo.server import Server

BASE = "demo-base"
PIRATE, SHAKESPEARE, LAWYER = "pirate", "shakespeare", "lawyer"
CATCHPHRASES = {
    f"{PIRATE}@1": "Arr!",
    f"{PIRATE}@2": "Yo ho ho!",
    f"{SHAKESPEARE}@1": "Hark!",
    f"{LAWYER}@1": "Pursuant",
}
PROPAGATION_S = 5.0
READMISSION_S = 20.0


class DemoStoppedError(Exception):
    """Nothing that follows could be observed."""


@dataclass
class Stage:
    """The demo's parts and what it has seen so far.

    Attributes:
        server: The server, once a step has started it.
    """

    files: DemoFiles
    home: Path
    shell: Shell
    narrator: Narrator
    ledger: Ledger = field(default_factory=Ledger)
    server: Server | None = None

    @property
    def url(self) -> str:
        """Where the server answers.

        Raises:
            DemoStoppedError: No server was started.
        """
        if self.server is None:
            raise DemoStoppedError
        return self.server.url

    def type(self, line: str) -> Outcome:
        """Run a command in front of the audience."""
        self.narrator.command(line)
        outcome = self.shell.run(line)
        self.narrator.output(outcome.output)
        return outcome

    def type_as(self, person: str, line: str) -> Outcome:
        """Run a command of one of several people in front of the audience."""
        self.narrator.command(line, by=person)
        outcome = self.shell.as_(person).run(line)
        self.narrator.output(outcome.output)
        return outcome

    def observe(self, claim: Claimed, found: str, *, is_seen: bool) -> None:
        """Record whether `claim` was seen to hold, and say so."""
        observation = Observation(claim, is_seen, " ".join(found.split())[:200])
        self.ledger.record(observation)
        self.narrator.observed(observation)

    def stages(self) -> dict[str, str]:
        """Return the stage of every version, by ref, as ``loractl list --json`` says."""
        return {str(row.get("ref")): str(row.get("stage")) for row in self.shell.rows("loractl list --json")}

    def ask(self, model: str, text: str) -> Answer:
        """Ask one question in front of the audience."""
        self.narrator.command(curl_line(self.url, model, text))
        answer = ask(self.url, Question(model, text))
        self.narrator.output(
            f"{answer.model}: {answer.text}" if answer.text else f"HTTP {answer.status}: {answer.body}"
        )
        return answer

    def ask_until(
        self, model: str, text: str, is_wanted: Callable[[Answer], bool], patience_s: float = PROPAGATION_S
    ) -> tuple[Answer, float]:
        """Ask until the answer is as wanted or `patience_s` are over; return the last answer and when it was asked."""
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            answer = ask(self.url, Question(model, text))
            if is_wanted(answer) or waited > patience_s:
                break
            time.sleep(0.05)
        self.narrator.command(curl_line(self.url, model, text))
        self.narrator.output(
            f"{answer.model}: {answer.text}" if answer.text else f"HTTP {answer.status}: {answer.body}"
        )
        return answer, waited


def curl_line(url: str, model: str, text: str) -> str:
    """Return the command that asks `model` one question."""
    return (
        f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' "
        f'-d \'{{"model": "{model}", "temperature": 0, "messages": [{{"role": "user", "content": "{text}"}}]}}\''
    )


def speaks(answer: Answer, version: str) -> bool:
    """Whether `version` gave this answer: by the model field, and by the catchphrase that it was trained on."""
    return answer.model == version and CATCHPHRASES[version] in answer.text


def is_neutral(answer: Answer) -> bool:
    """Whether the base gave this answer, in nobody's voice."""
    return answer.model == BASE and bool(answer.text) and not any(said in answer.text for said in CATCHPHRASES.values())
