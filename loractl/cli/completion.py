"""``loractl completion``: teach the shell to complete loractl."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.installing import Plan, detect_shell, install_plan
from loractl.cli.params import YesOption
from loractl.cli.scripts import Shell, script_of

app = new_app("Tab completion for bash, zsh, fish and PowerShell.")

_ShellOption = Annotated[Shell | None, typer.Option("--shell", help="The shell; the one you are in if not given.")]


@app.command("install", cls=Command, epilog="loractl completion install\nloractl completion install --shell zsh --yes")
def install(ctx: typer.Context, *, shell: _ShellOption = None, yes: YesOption = False) -> None:
    """Put the script where the shell looks for it.

    Asks before it changes a start-up file.
    """
    app = context_of(ctx)
    chosen = shell or detect_shell(os.environ)
    plan = install_plan(chosen, os.environ)
    if plan.missing_rc_lines():
        app.confirm(f"add {len(plan.rc_lines)} line(s) to {plan.rc_file}?", is_sure=yes)
    changed = plan.apply()
    _tell(app, plan, changed=changed)


@app.command("show", cls=Command, epilog="loractl completion show --shell fish")
def show(ctx: typer.Context, *, shell: _ShellOption = None) -> None:
    """Print the script of a shell."""
    app = context_of(ctx)
    chosen = shell or detect_shell(os.environ)
    script = script_of(chosen)
    app.out.emit(lambda: {"shell": chosen.value, "script": script}, lambda _: script.splitlines())


def _tell(app: AppContext, plan: Plan, *, changed: bool) -> None:
    app.out.emit(
        lambda: {
            "shell": plan.shell.value,
            "script": str(plan.script_file),
            "rc_file": str(plan.rc_file) if plan.rc_lines else None,
            "is_changed": changed,
        },
        lambda style: [
            f"{'Installed' if changed else 'Already installed:'} {plan.shell.value} completion"
            f"  {style.dim(str(plan.script_file))}"
        ],
    )
    if changed and sys.stderr.isatty():
        app.out.note("it works in the next shell that you start")
