"""``loractl review``: what waits for my approval, and what it changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.evidence_view import evidence_lines, evidence_payload
from loractl.cli.history import diff_lines
from loractl.cli.params import AsOption
from loractl.cli.style import Style, clean
from loractl.cli.tables import Column, table
from loractl.cli.views import heading, provenance_lines

if TYPE_CHECKING:
    from loractl_registry.change_norms import ModuleChange
    from loractl_registry.reviewing import Review, Waiting

app = new_app("What waits for me.")

_COLUMNS = (
    Column("module"),
    Column("before", Style.dim, priority=2, is_number=True),
    Column("after", Style.dim, priority=1, is_number=True),
    Column("change", Style.bold, is_number=True),
)


@app.command("review", cls=Command, epilog="loractl review\nloractl review --as grace --json")
def review(ctx: typer.Context, identity: AsOption = None) -> None:
    """Show the versions whose next rung lacks an approval that you may give.

    Each with what the policy still asks for and how it differs from the version that is live: provenance, tensors, and
    per module the Frobenius norm of what it adds to the base's weight and of the change.
    """
    app = context_of(ctx)
    with app.working("comparing weights"):
        found = app.registry.review(actor=app.actor, identity=identity)
    app.out.emit(
        lambda: {
            "identity": found.identity,
            "roles": list(found.roles),
            "waiting": [_payload(one) for one in found.waiting],
        },
        lambda style: _lines(found, style),
        hint=f"loractl approve {found.waiting[0].version.ref} --reason TEXT" if found.waiting else None,
    )
    if not found.waiting:
        app.out.note(f"nothing waits for {found.identity}")


def _payload(one: Waiting) -> dict[str, object]:
    compared = one.diff
    return payloads.version_row(one.version) | {
        "to": one.to.value,
        "open": [payloads.plain(finding) for finding in one.open],
        "provenance": payloads.provenance(one.version.provenance),
        "live": str(one.live.ref) if one.live else None,
        "diff": None
        if compared is None
        else {
            "facts": payloads.change_rows(compared.facts),
            "provenance": payloads.change_rows(compared.provenance),
            "files": payloads.change_rows(compared.files),
            "tensors": payloads.change_rows(compared.tensors),
        },
        "evidence": [evidence_payload(each) for each in one.evidence],
        "live_evidence": [evidence_payload(each) for each in one.live_evidence],
        "modules": [payloads.plain(change) for change in one.changes],
    }


def _lines(found: Review, style: Style) -> Iterator[str]:
    for place, one in enumerate(found.waiting):
        if place:
            yield ""
        stage, to = style.stage(one.version.stage.value), style.stage(one.to.value)
        yield f"{style.bold(str(one.version.ref))}  {stage} -> {to}  added by {clean(one.version.added_by)}"
        yield from (f"  {style.warn('open')}  {clean(each.rule)}: {clean(each.required)}" for each in one.open)
        if one.diff is None:
            yield from heading("provenance", style)
            yield from provenance_lines(one.version.provenance, one.version.facts.declared_base, style)
        else:
            yield from heading("against the live version", style)
            yield from diff_lines(one.diff, style)
        yield from heading("evidence", style)
        yield from evidence_lines(one.evidence, style) if one.evidence else ("none",)
        if one.live_evidence:
            yield from heading("evidence about the live version", style)
            yield from evidence_lines(one.live_evidence, style)
        yield from heading("change per module", style)
        yield from table(_COLUMNS, map(_cells, one.changes), style)


def _cells(change: ModuleChange) -> tuple[str, ...]:
    return change.module, f"{change.before:.4g}", f"{change.after:.4g}", f"{change.change:.4g}"
