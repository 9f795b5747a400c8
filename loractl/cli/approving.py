"""``loractl approve`` and ``approvals``: who is for a version's next rung."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.params import ReasonOption, RefArgument
from loractl.cli.style import Style
from loractl.cli.tables import Column, table
from loractl.cli.views import heading, short_digest, when

if TYPE_CHECKING:
    from loractl_registry.outcomes import ApprovalRecord, Approvals

app = new_app("Approvals.")

_COLUMNS = (
    Column("by", Style.bold),
    Column("roles", priority=3),
    Column("for", Style.stage),
    Column("counts", priority=1),
    Column("at", Style.dim, priority=2),
    Column("reason", Style.dim, priority=4),
    Column("statement", Style.dim, priority=5),
)


@app.command("approve", cls=Command, epilog='loractl approve support-bot@3 --reason "read the evaluation"')
def approve(ctx: typer.Context, ref: RefArgument, reason: ReasonOption = None) -> None:
    """Sign that you are for the next rung of a version.

    The policy says how many approvals that rung asks for, and from whom. Nothing moves: promote does that.
    """
    app = context_of(ctx)
    why = app.answer(reason, f"reason for approving {ref}", "--reason")
    given = app.registry.approve(ref, actor=app.actor, reason=why)
    about = f"for {given.to}, signed by {given.identity}"
    app.out.emit(
        lambda: (
            payloads.version_row(given.version)
            | {"to": given.to.value, "by": given.identity, "statement": given.statement, "is_new": given.is_new}
        ),
        lambda style: [
            f"{'Approved' if given.is_new else 'Already approved:'} {style.bold(str(given.version.ref))} {about}"
        ],
        hint=f"loractl promote {given.version.ref} --to {given.to}",
    )


@app.command("approvals", cls=Command, epilog="loractl approvals support-bot@3\nloractl approvals support-bot@3 --json")
def approvals(ctx: typer.Context, ref: RefArgument) -> None:
    """Show the signed approvals of a version and what the policy asks for."""
    app = context_of(ctx)
    found = app.registry.approvals(ref)
    app.out.emit(
        lambda: {
            "ref": str(found.version.ref),
            "stage": found.version.stage.value,
            "to": found.to.value if found.to else None,
            "approvals": [_row(one) for one in found.given],
            "needed": [payloads.plain(one) for one in found.needed],
            "policy": found.policy_digest,
        },
        lambda style: _lines(found, style),
        hint=f"loractl approve {found.version.ref} --reason TEXT" if found.to else None,
    )


def _row(one: ApprovalRecord) -> dict[str, object]:
    return {
        "by": one.identity,
        "roles": list(one.roles),
        "to": one.to.value,
        "is_valid": one.is_valid,
        "at": payloads.time_text(one.at),
        "reason": one.reason,
        "statement": one.statement,
    }


def _lines(found: Approvals, style: Style) -> Iterator[str]:
    yield f"{style.bold(str(found.version.ref))}  {style.stage(found.version.stage.value)}"
    rows = [
        (
            one.identity,
            ", ".join(one.roles),
            one.to.value,
            "yes" if one.is_valid else "no",
            when(one.at),
            one.reason or "",
            short_digest(one.statement),
        )
        for one in found.given
    ]
    if rows:
        yield from table(_COLUMNS, rows, style)
    else:
        yield "no approvals"
    if found.needed:
        yield from heading(f"for {found.to}", style)
    for need in found.needed:
        yield f"  {style.good('ok') if need.is_met else style.warn('open')}  {need.required}; seen: {need.seen}"
