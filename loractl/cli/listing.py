"""``loractl list``: a module of its own, because it has to answer within a few hundred milliseconds."""

from __future__ import annotations

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.glass import warn_of_broken_glass
from loractl.cli.params import BaseFilter, NameFilter, StageFilter
from loractl.cli.views import version_table
from loractl_registry.refs import VersionRef

app = new_app("Adapter versions.")


@app.command("list", cls=Command, epilog="loractl list --stage live\nloractl list --name support-bot --json")
def list_versions(
    ctx: typer.Context, name: NameFilter = None, stage: StageFilter = None, base: BaseFilter = None
) -> None:
    """List adapter versions."""
    app = context_of(ctx)
    rows = app.registry.summaries(name=name, stage=stage, base=base)
    broken = app.registry.broken_glass()
    app.out.emit(
        lambda: [payloads.summary_row(row, broken) for row in rows],
        lambda style: version_table(rows, style, broken) if rows else (),
    )
    if broken:
        warn_of_broken_glass(app, [VersionRef(row.name, row.number) for row in rows])
    if not rows:
        is_filtered = name or stage or base
        app.out.note("no versions match" if is_filtered else "no adapters yet")
        app.out.hint("loractl list" if is_filtered else "loractl add NAME SOURCE")
