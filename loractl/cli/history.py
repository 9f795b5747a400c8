"""``loractl history`` and ``diff``: what changed, when, and between which versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.moments import parse_time
from loractl.cli.params import RefArgument
from loractl.cli.style import Style, clean, count_text
from loractl.cli.tables import Column, table
from loractl.cli.views import MARK, heading, paint_stage, when
from loractl_registry.records import AuditEvent
from loractl_registry.refs import Ref, VersionRef, parse_name, parse_ref

if TYPE_CHECKING:
    from loractl_registry.outcomes import Change, TensorSummary, VersionDiff

app = new_app("What changed.")

_EVENT_COLUMNS = (
    Column("at", Style.dim, priority=1),
    Column("what", paint_stage, priority=0),
    Column("subject", Style.bold),
    Column("stage", priority=2),
    Column("by", priority=3),
    Column("reason", Style.dim, priority=4),
)
_CHANGE_COLUMNS = (Column("", Style.dim), Column("before"), Column("after"))


@app.command("history", cls=Command, epilog="loractl history support-bot\nloractl history --at 2026-01-31")
def history(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(parser=parse_name, metavar="NAME", help="Only this adapter or base.")
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(parser=parse_time, metavar="TIME", help="What was live then: RFC 3339, a date, or 2h, 3d ago."),
    ] = None,
) -> None:
    """Show every change, or with --at what was live then."""
    app = context_of(ctx)
    if at is not None:
        _show_live(ctx, name, at)
        return
    events = app.registry.history(name)
    app.out.emit(
        lambda: [payloads.event_row(event) for event in events],
        lambda style: table(_EVENT_COLUMNS, map(_event_cells, events), style) if events else (),
    )
    if not events:
        app.out.note("nothing has happened yet")


@app.command("diff", cls=Command, epilog="loractl diff support-bot@2 support-bot@3")
def diff(
    ctx: typer.Context,
    before: RefArgument,
    after: Annotated[Ref, typer.Argument(parser=parse_ref, metavar="REF", help="The version to compare it with.")],
) -> None:
    """Show what differs between two versions."""
    app = context_of(ctx)
    with app.working("comparing tensors"):
        found = app.registry.diff(before, after)
    app.out.emit(
        lambda: {
            "before": str(found.before.ref),
            "after": str(found.after.ref),
            "is_same": found.is_same,
            "facts": payloads.change_rows(found.facts),
            "provenance": payloads.change_rows(found.provenance),
            "files": payloads.change_rows(found.files),
            "tensors": payloads.change_rows(found.tensors),
        },
        lambda style: diff_lines(found, style),
    )


def _show_live(ctx: typer.Context, name: str | None, at: datetime) -> None:
    app = context_of(ctx)
    live = tuple(ref for ref in app.registry.live_at(at) if name in (None, ref.name))
    app.out.emit(
        lambda: [{"at": payloads.time_text(at), "name": r.name, "version": r.number, "ref": str(r)} for r in live],
        lambda style: _live_lines(live, style),
    )
    app.out.note(f"{count_text(len(live), 'version')} live at {payloads.time_text(at)}")


def _live_lines(live: Sequence[VersionRef], style: Style) -> Iterator[str]:
    yield from (style.bold(str(ref)) for ref in live)


def _event_cells(event: AuditEvent) -> tuple[str, ...]:
    stages = f"{event.from_stage or 'new'} -> {event.to_stage}" if event.to_stage else ""
    what = MARK if event.action == "adapter.break_glass" else event.action.rpartition(".")[2]
    return when(event.at), what, event.subject, stages, event.actor, event.reason or ""


def diff_lines(found: VersionDiff, style: Style) -> Iterator[str]:
    """Yield what differs between two versions."""
    yield f"{style.bold(str(found.before.ref))} -> {style.bold(str(found.after.ref))}"
    if found.is_same:
        yield "same bytes, same behaviour"
    for title, changes in (("facts", found.facts), ("provenance", found.provenance), ("files", found.files)):
        if changes:
            yield from heading(title, style)
            rows = [(change.name, _side(change.before), _side(change.after)) for change in changes]
            yield from table(_CHANGE_COLUMNS, rows, style)
    if found.tensors:
        yield from heading("tensors", style)
        yield from (_tensor_line(change, style) for change in found.tensors)


def _side(value: object) -> str:
    plain = payloads.plain(value)
    if value is None:
        return "-"
    if isinstance(plain, dict):
        return ", ".join(f"{key} {item}" for key, item in plain.items())  # pyright: ignore[reportUnknownVariableType]
    return ", ".join(map(str, plain)) if isinstance(plain, list) else str(plain)  # pyright: ignore[reportUnknownArgumentType]


def _tensor_line(change: Change, style: Style) -> str:
    name = clean(change.name)
    if change.before is None:
        return f"{style.good('+')} {name}  {style.dim(_tensor(change.after))}"
    if change.after is None:
        return f"{style.bad('-')} {name}  {style.dim(_tensor(change.before))}"
    before, after = _tensor(change.before), _tensor(change.after)
    about = "other values" if before == after else f"{before} -> {after}"
    return f"{style.warn('~')} {name}  {style.dim(about)}"


def _tensor(value: object) -> str:
    summary: TensorSummary = value  # type: ignore[assignment]  # what a diff holds under `tensors`
    return f"{summary.dtype}{list(summary.shape)}"
