"""What `serve` is asked for, and how it says what happens; nothing here prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loractl.serving.traffic import TrafficSettings
from loractl.settings import DeviceChoice, LogLevel
from loractl_registry.progress import Progress

if TYPE_CHECKING:
    from loractl.engine.plan import EnginePlan
    from loractl.serving.launch import PreparedServer
    from loractl.serving.readiness import Endpoint

DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """One ``loractl serve BASE``.

    Attributes:
        actor: Who appears in the audit log for what the server refuses.
        port: 0 picks a free one.
        max_adapters: Adapters that the engine holds at once; None leaves it to the plan.
        max_rank: Largest adapter rank that the engine takes; None leaves it to the plan.
        engine_args: What the user wrote after ``--``.
        witness: File that keeps the signed checkpoint besides the home.
        traffic: How requests are queued, recorded and traced.
        override_advisories: Ids of advisories that would refuse, and that somebody decided to serve with.
        override_reason: Why; kept in the audit log.
        drain_s: How long running requests may go on once the server was asked to stop.
    """

    home: Path
    base: str
    actor: str
    device: DeviceChoice = DeviceChoice.AUTO
    host: str = "127.0.0.1"
    port: int = 8000
    max_adapters: int | None = None
    max_rank: int | None = None
    engine_args: tuple[str, ...] = ()
    log_level: LogLevel = LogLevel.INFO
    drain_s: float = DRAIN_S
    witness: Path | None = None
    traffic: TrafficSettings = field(default_factory=TrafficSettings)
    override_advisories: tuple[str, ...] = ()
    override_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A server that answers.

    Attributes:
        models: Every name that a request may ask for, the base last.
        startup_s: From the start of the engine until it answered.
        log: File that keeps the engine's output.
    """

    endpoint: Endpoint
    plan: EnginePlan
    models: tuple[str, ...]
    startup_s: float
    log: Path


class ServeUi(Protocol):
    """Shows a server's life to its user. Called from the thread that called `serve`."""

    @property
    def progress(self) -> Progress:
        """The bar for files that are hashed."""
        ...

    def prepared(self, server: PreparedServer) -> None:
        """Show the plan, and why, before anything starts."""
        ...

    def step(self, label: str, elapsed_s: float) -> None:
        """Show how far the start is; called when the step changes and about four times a second."""
        ...

    def ready(self, ready: Ready) -> None:
        """Say where it answers and how to ask it."""
        ...

    def notice(self, level: str, message: str) -> None:
        """Say one thing about the running server; `level` is a name of `logging`."""
        ...

    def last_lines(self, lines: Sequence[str]) -> None:
        """Show the last output of an engine that crashed; the error follows."""
        ...
