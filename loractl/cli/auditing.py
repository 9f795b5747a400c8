"""``loractl audit``: whether what happened here is what was signed."""

from __future__ import annotations

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import VerificationFailedError
from loractl.cli.params import ReasonOption, YesOption
from loractl.cli.style import count_text

app = new_app("Whether what happened here is what was signed.")


@app.command("verify", cls=Command, epilog="loractl audit verify\nloractl audit verify --json")
def verify(ctx: typer.Context) -> None:
    """Verify every signed statement, the checkpoint, the rows and the audit log.

    Exit code 3 if anything is not as it was signed.
    """
    app = context_of(ctx)
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
