"""``loractl requests`` and ``usage``: what servers recorded about requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.errors import CliUsageError, NoSuchRequestError
from loractl.cli.moments import parse_since
from loractl.cli.style import Style
from loractl.cli.tables import Column, table
from loractl.cli.views import when
from loractl.observability.outcomes import Outcome
from loractl.observability.record import RequestRecord
from loractl.observability.records_database import RECORDS_FILE
from loractl.observability.requests_query import RequestFilter, find_request, find_requests
from loractl.observability.usage import UsageBy, UsageRow, usage_csv, usage_payload
from loractl.observability.usage import usage as usage_of
from loractl_registry.clock import to_text

app = new_app("What servers recorded about requests.")

_ADAPTER = re.compile(r"([a-z0-9_][a-z0-9._-]{0,62})(?:@([1-9][0-9]{0,9}))?", re.ASCII)
_REQUEST_COLUMNS = (
    Column("at", Style.dim, priority=1),
    Column("request", priority=6),
    Column("tenant", priority=2),
    Column("adapter", Style.bold),
    Column("outcome"),
    Column("in", priority=4, is_number=True),
    Column("out", priority=4, is_number=True),
    Column("first token", priority=3, is_number=True),
    Column("total", priority=5, is_number=True),
)
_USAGE_COLUMNS = (
    Column("requests", is_number=True),
    Column("errors", priority=3, is_number=True),
    Column("refused", priority=4, is_number=True),
    Column("in", priority=2, is_number=True),
    Column("out", priority=2, is_number=True),
    Column("busy", priority=1, is_number=True),
    Column("share", is_number=True),
)

SinceOption = Annotated[
    datetime | None,
    typer.Option(
        parser=parse_since, metavar="TIME", help="From then on: RFC 3339, the start of a date, or 2h, 3d ago."
    ),
]


class _Spoken(NamedTuple):
    """An adapter as it is asked for; without a version, all of them."""

    name: str
    version: int | None


def _adapter(text: str) -> _Spoken:
    found = _ADAPTER.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text[:80]!r} is no adapter; write NAME or NAME@3")
    return _Spoken(found[1], int(found[2]) if found[2] else None)


@app.command(
    "requests",
    cls=Command,
    epilog="loractl requests --since 1h --outcome engine\n"
    "loractl requests --tenant acme --adapter support-bot@3 --json",
)
def requests(
    ctx: typer.Context,
    request_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Only this one, as its answer's x-loractl-request-id said.")
    ] = None,
    *,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only requests of this tenant.")] = None,
    adapter: Annotated[
        _Spoken | None,
        typer.Option(parser=_adapter, metavar="NAME[@N]", help="Only of this adapter, or of one version of it."),
    ] = None,
    outcome: Annotated[
        Outcome | None,
        typer.Option(metavar="OUTCOME", help=f"Only requests that ended so: {', '.join(Outcome)}."),
    ] = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most this many, the newest.")] = 100,
) -> None:
    """Show the requests that ended last, newest first, as servers recorded them."""
    app = context_of(ctx)
    name, version = adapter or (None, None)
    wanted = RequestFilter(since=since, tenant=tenant, adapter=name, version=version, outcome=outcome, limit=limit)
    found = find_requests(_records(app), wanted) if request_id is None else [_one(app, request_id)]
    app.out.emit(
        lambda: [_request_row(each) for each in found],
        lambda style: table(_REQUEST_COLUMNS, map(_request_cells, found), style) if found else (),
    )
    if not found:
        _say_why_empty(app)


@app.command(
    "usage", cls=Command, epilog="loractl usage --since 30d\nloractl usage --by tenant --since 2026-01-01 --csv"
)
def usage(
    ctx: typer.Context,
    *,
    by: Annotated[UsageBy, typer.Option(help="What is added up together.")] = UsageBy.ADAPTER,
    since: SinceOption = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write CSV with a heading.")] = False,
) -> None:
    """Show what each adapter or tenant used: requests, tokens, busy seconds and its share of them."""
    app = context_of(ctx)
    if csv and app.out.is_json:
        raise CliUsageError("--csv and --json exclude each other", hint="choose one")
    found = usage_of(_records(app), by=by, since=since)
    app.out.emit(
        lambda: usage_payload(found),
        lambda style: usage_csv(found).splitlines() if csv else _usage_lines(by, found, style),
    )
    if not found:
        _say_why_empty(app)


def _records(app: AppContext) -> Path:
    return app.settings.home / RECORDS_FILE


def _one(app: AppContext, request_id: str) -> RequestRecord:
    found = find_request(_records(app), request_id)
    if found is None:
        raise NoSuchRequestError(request_id)
    return found


def _say_why_empty(app: AppContext) -> None:
    path = _records(app)
    if path.exists():
        app.out.note("no such requests are among the records that are kept")
    else:
        app.out.note(f"nothing was recorded yet: there is no {path}")
        app.out.hint("loractl serve BASE")


def _request_row(record: RequestRecord) -> Mapping[str, object]:
    return asdict(record) | {"at": to_text(record.at), "outcome": record.outcome.value}


def _request_cells(record: RequestRecord) -> tuple[str, ...]:
    return (
        when(record.at),
        record.id,
        record.tenant,
        record.adapter if record.version is None else f"{record.adapter}@{record.version}",
        record.outcome.value,
        str(record.input_tokens),
        str(record.output_tokens),
        "" if record.first_token_s is None else _seconds(record.first_token_s),
        _seconds(record.total_s),
    )


def _usage_lines(by: UsageBy, rows: Sequence[UsageRow], style: Style) -> Sequence[str]:
    if not rows:
        return ()
    columns = (Column(by.value, Style.bold), *_USAGE_COLUMNS)
    return list(table(columns, map(_usage_cells, rows), style))


def _usage_cells(row: UsageRow) -> tuple[str, ...]:
    counts = (row.requests, row.errors, row.refused, row.input_tokens, row.output_tokens)
    return row.name, *map(str, counts), _seconds(row.busy_s), f"{row.share:.1%}"


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 10 else f"{value:.0f} s"
