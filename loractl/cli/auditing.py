"""``loractl audit``: whether what happened here is what was signed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.errors import CliUsageError, VerificationFailedError
from loractl.cli.moments import parse_time
from loractl.cli.params import ReasonOption, YesOption, existing_file
from loractl.cli.style import Style, count_text
from loractl.cli.tables import Column, table
from loractl.cli.views import MARK, paint_stage, when
from loractl_registry.records import AuditEvent
from loractl_registry.refs import parse_ref

app = new_app("Whether what happened here is what was signed.")

_COLUMNS = (
    Column("#", Style.dim, priority=5, is_number=True),
    Column("at", Style.dim, priority=1),
    Column("what", paint_stage),
    Column("subject", Style.bold),
    Column("stage", priority=2),
    Column("by", priority=3),
    Column("signed by", priority=4),
    Column("reason", Style.dim, priority=6),
)


def parse_subject(text: str) -> str:
    """Read a ref or a name."""
    return str(parse_ref(text))


@app.command(
    "show", cls=Command, epilog="loractl audit show --since 7d\nloractl audit show --subject support-bot@3 --json"
)
def show(
    ctx: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="At most so many, the newest.")] = 50,
    since: Annotated[
        datetime | None,
        typer.Option(parser=parse_time, metavar="TIME", help="From then on: RFC 3339, a date, or 2h, 3d ago."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(parser=parse_subject, metavar="NAME", help="Only this ref, adapter, base or identity.")
    ] = None,
) -> None:
    """Show who did what, who signed it, and why."""
    app = context_of(ctx)
    events = app.registry.events(subject=subject, since=since, limit=limit)
    app.out.emit(
        lambda: [payloads.event_row(event) for event in events],
        lambda style: table(_COLUMNS, map(_cells, events), style) if events else (),
        hint="loractl audit verify",
    )
    if not events:
        app.out.note("no such event")


@app.command("export", cls=Command, epilog="loractl audit export audit-2026-01.jsonl")
def export(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")]
) -> None:
    """Write every signed statement, audit row, public key and the checkpoint into one file.

    Somebody who knows the home's id, or has the public key of its first identity, verifies it on any machine.
    """
    app = context_of(ctx)
    made = app.registry.export_audit(file)
    counted = f"{count_text(made.statements, 'statement')}, {count_text(made.events, 'event')}"
    app.out.emit(
        lambda: {
            "file": str(made.file),
            "home": made.home,
            "root_key_id": made.root_key_id,
            "statements": made.statements,
            "events": made.events,
            "head": made.head,
        },
        lambda style: [f"Wrote {style.bold(str(made.file))}  {counted}", f"  home {made.home}"],
        hint=f"loractl audit verify --export {made.file} --key {made.home}",
    )


@app.command(
    "verify",
    cls=Command,
    epilog="loractl audit verify\nloractl audit verify --export audit.jsonl --key first-identity.pub",
)
def verify(
    ctx: typer.Context,
    *,
    export: Annotated[
        Path | None,
        typer.Option("--export", parser=existing_file, metavar="FILE", help="An export instead of the home."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="The export's first public key, as a .pub file or its id, or home id."
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            parser=existing_file,
            metavar="FILE",
            help="A checkpoint that was kept elsewhere; repeatable.",
        ),
    ] = None,
) -> None:
    """Verify every signed statement, the checkpoint, the rows and the audit log.

    With --export, a file that audit export wrote, without the home. Exit code 3 if anything is not as it was signed.
    """
    app = context_of(ctx)
    if export is not None or key is not None or checkpoint:
        _verify_export(app, export, key, checkpoint or [])
        return
    with app.working("verifying signatures"):
        found = app.registry.identities.verify()
    counted = f"{count_text(found.statements, 'statement')}, {count_text(found.events, 'event')}"
    app.out.emit(
        lambda: {
            "is_intact": not found.problems,
            "statements": found.statements,
            "head": found.head,
            "events": found.events,
            "problems": list(found.problems),
        },
        lambda style: [style.bad(line) for line in found.problems] or [f"{style.good('intact')}  {counted}"],
    )
    if found.problems:
        raise VerificationFailedError(
            f"{count_text(len(found.problems), 'thing')} not as it was signed", hint="restore the newest backup"
        )


@app.command(
    "checkpoint", cls=Command, epilog='loractl audit checkpoint --reason "restored the backup of Monday" --yes'
)
def checkpoint(ctx: typer.Context, *, reason: ReasonOption = None, yes: YesOption = False) -> None:
    """Sign what the database says now as its newest state.

    For who restored an older database on purpose: until then everything is refused, because the checkpoint
    remembers more.
    """
    app = context_of(ctx)
    why = app.answer(reason, "reason for a new checkpoint", "--reason")
    app.confirm("forget what the old checkpoint remembers?", is_sure=yes)
    made = app.registry.identities.checkpoint(actor=app.actor, reason=why)
    app.out.emit(
        lambda: {"sequence": made.sequence, "head": made.head, "signer": made.signer},
        lambda style: [f"Checkpoint of sequence {style.bold(str(made.sequence))}, signed by {made.signer}"],
        hint="loractl audit verify",
    )


def _verify_export(app: AppContext, export: Path | None, key: str | None, checkpoints: list[Path]) -> None:
    from loractl_registry.audit_records import read_record  # cryptography, for who verifies alone
    from loractl_registry.audit_verifying import parse_anchor, verify_record

    if export is None or key is None:
        hint = "loractl audit verify --export FILE --key KEY; the key says whose record it has to be"
        raise CliUsageError("--export and --key belong together", hint=hint)
    with app.working("verifying signatures"):
        witnesses = [(str(path), path.read_bytes()) for path in checkpoints]
        found = verify_record(read_record(export), parse_anchor(key), datetime.now(UTC), witnesses=witnesses)
    counted = f"{count_text(found.statements, 'statement')}, {count_text(found.events, 'event')}"
    app.out.emit(
        lambda: {
            "is_intact": not found.problems,
            "home": found.home,
            "statements": found.statements,
            "head": found.head,
            "events": found.events,
            "witnessed": found.witnessed,
            "problems": list(found.problems),
        },
        lambda style: (
            [style.bad(line) for line in found.problems]
            or [f"{style.good('intact')}  {counted}, witnessed up to statement {found.witnessed}"]
        ),
    )
    if found.problems:
        counted = count_text(len(found.problems), "thing")
        raise VerificationFailedError(f"{counted} not as it was signed", hint="ask its owner for the home, or a backup")


def _cells(event: AuditEvent) -> tuple[str, ...]:
    stages = f"{event.from_stage or 'new'} -> {event.to_stage}" if event.to_stage else ""
    what = MARK if event.action == "adapter.break_glass" else event.action
    signer = str(event.detail.get("signer") or "")
    return str(event.sequence), when(event.at), what, event.subject, stages, event.actor, signer, event.reason or ""
