"""``loractl doctor``: whether everything is in place, and what to do where it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.checks import Check, Health, examine
from loractl.cli.context import context_of
from loractl.cli.errors import CliError
from loractl.cli.style import Style, clean, count_text
from loractl.cli.tables import fold

app = new_app("Whether everything is in place.")


@app.command("doctor", cls=Command, epilog="loractl doctor")
def doctor(ctx: typer.Context) -> None:
    """Check the installation, the home and the registry.

    Every check says what it found and the way out. Exit code 1 if any fails.
    """
    app = context_of(ctx)
    checks = list(examine(lambda: app.settings, lambda: app.registry, os.environ))
    failed = [check for check in checks if check.health is Health.FAIL]
    app.out.emit(
        lambda: {
            "is_healthy": not failed,
            "checks": [
                {"name": c.name, "health": c.health.value, "found": c.found, "way_out": c.way_out} for c in checks
            ],
        },
        lambda style: _lines(checks, style),
    )
    if failed:
        raise CliError(f"{count_text(len(failed), 'check')} failed", hint=failed[0].way_out)


def _lines(checks: list[Check], style: Style) -> Iterator[str]:
    paint = {Health.OK: style.good, Health.WARN: style.warn, Health.FAIL: style.bad}
    left = max(len(check.name) for check in checks)
    for check in checks:
        room = None if style.width is None else max(style.width - left - 8, 16)
        first, *rest = fold(clean(check.found), room)
        yield f"{paint[check.health](check.health.value.ljust(4))}  {style.bold(check.name.ljust(left))}  {first}"
        yield from (" " * (left + 8) + line for line in rest)
        if check.way_out and check.health is not Health.OK:
            yield from (" " * (left + 8) + style.command(line) for line in fold(clean(check.way_out), room))
