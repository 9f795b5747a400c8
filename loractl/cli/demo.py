"""``loractl demo``: the whole job on real parts, each step observed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import ExitCode

app = new_app("Show the whole job.")


@app.command(
    "demo", cls=Command, epilog="loractl demo\nloractl demo --team\nloractl demo --keep-serving --home ./demo-home"
)
def demo(
    ctx: typer.Context,
    *,
    team: Annotated[
        bool, typer.Option("--team", help="Show how several people share a home, and what is caught; starts no server.")
    ] = False,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the server up after the last step, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server; another one if it is taken.")] = 8000,
    adapters: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Take the adapters from here, not from examples/demo.")
    ] = None,
) -> None:
    """Show the main job on a tiny trained model, start to finish; exit 1 if anything was not observed."""
    from loractl.demo import DemoOptions, play, play_team, report_payload  # rich and httpx are only needed here
    from loractl.demo.narration import console_for

    if team and keep_serving:
        raise typer.BadParameter("--team starts no server, so there is none to keep; leave out --keep-serving")
    app_context = context_of(ctx)
    given = app_context.flags.home
    options = DemoOptions(None if given is None else Path(given), adapters, port, keep_serving)
    console = console_for(is_json=app_context.flags.json, is_quiet=app_context.flags.quiet)
    report = (play_team if team else play)(options, console, os.environ)
    app_context.out.emit(lambda: report_payload(report), lambda _: ())
    if not report.is_complete:
        raise typer.Exit(ExitCode.FAILED)
