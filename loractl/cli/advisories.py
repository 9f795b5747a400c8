"""``loractl advisories``: known flaws of the engine and of what it stands on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.style import Style, clean, count_text
from loractl.cli.tables import Column, table

if TYPE_CHECKING:
    from loractl.serving.advisories import AdvisoryCheck
    from loractl_registry.advisories import Advisory, Finding

app = new_app("Known flaws of the engine.")

_COLUMNS = (
    Column("id", Style.bold),
    Column("severity", priority=1),
    Column("package", priority=2),
    Column("fixed in", priority=4),
    Column("here", priority=3),
    Column("summary", Style.dim, priority=5),
)


@app.command("list", cls=Command, epilog="loractl advisories list\nloractl advisories list --all --json")
def list_advisories(
    ctx: typer.Context,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that nothing installed here falls under.")] = False,
) -> None:
    """List the known flaws of the installed engine, and whether serving can reach them."""
    from loractl.serving.advisories import features_in_use, look_at_advisories  # pydantic, as below
    from loractl.serving.environment import engine_environment

    app = context_of(ctx)
    features = features_in_use((), engine_environment(os.environ, {}).variables)
    found = look_at_advisories(app.registry, features)
    app.out.emit(lambda: _payload(found, every=every), lambda style: _lines(found, style, every=every))
    if found.stale is not None:
        app.out.warn(f"these advisories are {found.stale.days} days old; newer: loractl advisories update SOURCE")


@app.command("update", cls=Command, epilog="loractl advisories update ./advisories.json")
def update(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file or https URL: a snapshot, or OSV.")],
) -> None:
    """Take in newer advisories from a file or a URL.

    Nothing is fetched unless you ask for it here. A snapshot that is older than the one in force is refused.
    """
    app = context_of(ctx)
    made = app.registry.advisories.update(source)
    known = count_text(len(made.snapshot.advisories), "advisory", "advisories")
    app.out.emit(
        lambda: {
            "file": str(made.file),
            "date": made.snapshot.taken.isoformat(),
            "count": len(made.snapshot.advisories),
            "new": list(made.new),
        },
        lambda style: [
            f"{known} of {style.bold(made.snapshot.taken.isoformat())}, {len(made.new)} new",
            *(f"  {each}" for each in made.new),
        ],
        hint="loractl advisories list",
    )


def _payload(found: AdvisoryCheck, *, every: bool) -> dict[str, object]:
    rows = [_row(one.advisory, one) for one in found.findings]
    named = {(one.advisory.package, one.advisory.id) for one in found.findings}
    if every:
        rows += [_row(one, None) for one in found.snapshot.advisories if (one.package, one.id) not in named]
    return {
        "date": found.snapshot.taken.isoformat(),
        "is_stale": found.stale is not None,
        "count": len(found.snapshot.advisories),
        "advisories": rows,
    }


def _row(advisory: Advisory, finding: Finding | None) -> dict[str, object]:
    return {
        "id": advisory.id,
        "aliases": list(advisory.aliases),
        "package": advisory.package.value,
        "severity": advisory.severity.value,
        "affected": [str(each) for each in advisory.affected],
        "fixed_in": advisory.fixed_in,
        "reachable_when": [each.value for each in advisory.reachable_when],
        "summary": advisory.summary,
        "installed": f"{finding.distribution} {finding.installed}" if finding else None,
        "is_reachable": finding.is_reachable if finding else False,
        "refuses": finding.refuses if finding else False,
    }


def _lines(found: AdvisoryCheck, style: Style, *, every: bool) -> Iterator[str]:
    named = {(one.advisory.package, one.advisory.id) for one in found.findings}
    rows = [_cells(one.advisory, one) for one in found.findings]
    if every:
        rows += [_cells(one, None) for one in found.snapshot.advisories if (one.package, one.id) not in named]
    if rows:
        yield from table(_COLUMNS, rows, style)
    known = count_text(len(found.snapshot.advisories), "advisory", "advisories")
    reached, here = len(found.reachable), len(found.findings)
    yield f"{known} of {found.snapshot.taken.isoformat()}; {here} on what is installed, {reached} reachable"


def _cells(advisory: Advisory, finding: Finding | None) -> tuple[str, ...]:
    if finding is None:
        here = "not affected"
    else:
        here = "refuses" if finding.refuses else "reachable" if finding.is_reachable else "not reachable"
    summary = clean(advisory.summary)
    return advisory.id, advisory.severity.value, advisory.package.value, advisory.fixed_in or "-", here, summary
