"""A server's life on the terminal: its plan, how far its start is, where it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from loractl.cli.context import AppContext
from loractl.cli.style import Style, clean
from loractl.cli.tables import Column, table
from loractl_registry.progress import SILENT, Progress

if TYPE_CHECKING:
    from loractl.engine.plan import EnginePlan
    from loractl.serving.launch import PreparedServer
    from loractl.serving.request import Ready

_PLAN_COLUMNS = (Column("plan", Style.bold), Column("value"), Column("why", Style.dim, priority=1))


class _Spinner(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update(self, status: str) -> None: ...


class TerminalUi:
    """Shows a server to its user: one line that moves on a terminal, one line a step elsewhere."""

    def __init__(self, app: AppContext) -> None:
        self._app = app
        self._label = ""
        self._spinner: _Spinner | None = None
        self._progress: Progress = app.progress or SILENT

    @property
    def progress(self) -> Progress:
        """The bar for files that are hashed."""
        return self._progress

    def prepared(self, server: PreparedServer) -> None:
        """Show the plan, and why, on stderr."""
        style = self._app.out.talk_style
        self._app.out.say("\n".join(plan_lines(server.plan, style)))

    def step(self, label: str, elapsed_s: float) -> None:
        """Show how far the start is."""
        if self._app.flags.quiet or self._app.flags.json:
            return
        if not sys.stderr.isatty():
            if label != self._label:
                self._app.out.note(f"{label} ({elapsed_s:.0f} s)")
        else:
            self._spin(f"{label}  {elapsed_s:.0f} s")
        self._label = label

    def ready(self, ready: Ready) -> None:
        """Say where it answers and how to ask it."""
        self._stop_spinning()
        self._app.out.emit(lambda: ready_payload(ready), lambda style: ready_lines(ready, style))
        self._app.out.note("Ctrl-C finishes the running requests and stops the server")

    def notice(self, level: str, message: str) -> None:
        """Say one thing about the running server."""
        self._stop_spinning()
        if level in ("DEBUG", "INFO"):
            self._app.out.note(message)
        else:
            self._app.out.warn(message)

    def last_lines(self, lines: Sequence[str]) -> None:
        """Show the last output of an engine that crashed."""
        self._stop_spinning()
        style = self._app.out.talk_style
        self._app.out.say("\n".join(f"{style.dim('|')} {clean(line)}" for line in lines))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._stop_spinning()

    def _spin(self, text: str) -> None:
        if self._spinner is None:
            from rich.console import Console  # only where a server starts on a terminal

            self._spinner = Console(stderr=True).status(text)
            self._spinner.start()
        self._spinner.update(text)

    def _stop_spinning(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
        self._spinner = None


def plan_lines(plan: EnginePlan, style: Style) -> Iterator[str]:
    """Yield the settings of a plan, each with why."""
    return table(_PLAN_COLUMNS, [(row.setting, row.value, row.why) for row in plan.rows], style)


def plan_payload(server: PreparedServer) -> dict[str, object]:
    """Return what ``--dry-run --json`` writes."""
    return {
        "base": server.plan.base,
        "url": server.endpoint.url,
        "models": list(server.models),
        "argv": list(server.argv),
        "environment": dict(server.environment),
        "plan": [{"setting": row.setting, "value": row.value, "why": row.why} for row in server.plan.rows],
        "damaged": [str(found.ref) for found in server.damaged],
    }


def ready_payload(ready: Ready) -> dict[str, object]:
    """Return what ``--json`` writes once the server answers."""
    return {
        "url": ready.endpoint.url,
        "api": f"{ready.endpoint.url}/v1",
        "base": ready.plan.base,
        "models": list(ready.models),
        "startup_s": round(ready.startup_s, 1),
        "log": str(ready.log),
        "pid": os.getpid(),
    }


def ready_lines(ready: Ready, style: Style) -> Iterator[str]:
    """Yield where the server answers, whom, and a line to try it with."""
    after = style.dim(f"after {ready.startup_s:.0f} s")
    yield f"{style.good('ready')}  {style.bold(f'{ready.endpoint.url}/v1')}  {after}"
    yield f"models  {', '.join(ready.models)}"
    body = f'{{"model": "{ready.models[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    yield "try"
    yield style.command(f"  curl {ready.endpoint.url}/v1/chat/completions \\")
    yield style.command(f"    -H 'content-type: application/json' -d '{body}'")
