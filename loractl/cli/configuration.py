"""``loractl config``: every setting, its value, and where it came from."""

from __future__ import annotations

import os
import shlex
from typing import cast

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.style import Style
from loractl.cli.tables import Column, table
from loractl.settings import config_files, setting_names, unknown_variables, variable_of

app = new_app("Settings and where they come from.")

_COLUMNS = (
    Column("setting", Style.bold),
    Column("value"),
    Column("from", Style.dim, priority=1),
    Column("variable", Style.dim, priority=2),
)


@app.command("show", cls=Command, epilog="loractl config show\nLORACTL_PORT=9000 loractl config show --json")
def show(ctx: typer.Context) -> None:
    """Show every setting, its value and where it came from."""
    app = context_of(ctx)
    settings = app.settings
    names = setting_names()
    values = {name: getattr(settings, name) for name in names}
    app.out.emit(
        lambda: [
            {
                "setting": name,
                "value": _plain(values[name]),
                "source": settings.origins[name].source.value,
                "where": settings.origins[name].where or None,
                "variable": variable_of(name),
            }
            for name in names
        ],
        lambda style: table(
            _COLUMNS,
            [(n, _text(n, values[n]), str(settings.origins[n]), variable_of(n)) for n in names],
            style,
        ),
    )
    app.out.note(f"files: {' and '.join(map(str, config_files(settings.home, os.environ)))}")
    for name in unknown_variables(os.environ):
        app.out.warn(f"{name} is set, and no setting has that name")


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return shlex.join(cast("tuple[str, ...]", value))
    return value if value is None or isinstance(value, int) else str(value)


def _text(name: str, value: object) -> str:
    if value is None:
        return "not set" if name == "scan_command" else "chosen by the plan"
    return str(_plain(value))
