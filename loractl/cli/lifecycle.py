"""``loractl demote``, ``reject``, ``retire`` and ``revoke``: the ways down and out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.params import ReasonOption, RefArgument, YesOption
from loractl.cli.style import Style

if TYPE_CHECKING:
    from loractl_registry.outcomes import StageChange

app = new_app("Ways down and out.")


@app.command("demote", cls=Command, epilog='loractl demote support-bot@3 --reason "answers too long"')
def demote(ctx: typer.Context, ref: RefArgument, reason: ReasonOption = None) -> None:
    """Take a version one rung down."""
    app = context_of(ctx)
    why = app.answer(reason, f"reason for demoting {ref}", "--reason")
    _tell(app, app.registry.demote(ref, actor=app.actor, reason=why))


@app.command("reject", cls=Command, epilog='loractl reject support-bot@3 --reason "fails the evaluation"')
def reject(ctx: typer.Context, ref: RefArgument, reason: ReasonOption = None) -> None:
    """Turn a candidate down, for good."""
    app = context_of(ctx)
    why = app.answer(reason, f"reason for rejecting {ref}", "--reason")
    _tell(app, app.registry.reject(ref, actor=app.actor, reason=why))


@app.command("retire", cls=Command, epilog='loractl retire support-bot@1 --reason "replaced by 3"')
def retire(ctx: typer.Context, ref: RefArgument, reason: ReasonOption = None) -> None:
    """Take a version out of service; it may be promoted again."""
    app = context_of(ctx)
    why = app.answer(reason, f"reason for retiring {ref}", "--reason")
    _tell(app, app.registry.retire(ref, actor=app.actor, reason=why))


@app.command("revoke", cls=Command, epilog='loractl revoke support-bot@2 --reason "leaks ticket numbers" --yes')
def revoke(ctx: typer.Context, ref: RefArgument, *, reason: ReasonOption = None, yes: YesOption = False) -> None:
    """Withdraw a version for good.

    It is never served again, under any name. A running server cuts its requests and forgets it within a second.
    """
    app = context_of(ctx)
    version = app.registry.version(ref)
    why = app.answer(reason, f"reason for revoking {version.ref}", "--reason")
    app.confirm(f"revoke {version.ref}, which is {version.stage}, for good?", is_sure=yes)
    _tell(app, app.registry.revoke(ref, actor=app.actor, reason=why))


def _tell(app: AppContext, change: StageChange) -> None:
    version = change.version
    app.out.emit(
        lambda: (
            payloads.version_row(version)
            | {"from_stage": change.from_stage.value, "same_bytes": payloads.refs(change.same_bytes)}
        ),
        lambda style: _lines(change, style),
        hint=_next(change),
    )
    if change.same_bytes:
        others = ", ".join(map(str, change.same_bytes))
        app.out.warn(f"the same bytes can still be served as {others}")


def _lines(change: StageChange, style: Style) -> Iterator[str]:
    ref, stage = style.bold(str(change.version.ref)), style.stage(change.version.stage.value)
    if change.from_stage is change.version.stage:
        yield f"{ref} is {stage} already"
    else:
        yield f"{ref}  {style.stage(change.from_stage.value)} -> {stage}"


def _next(change: StageChange) -> str | None:
    name = change.version.ref.name
    was_live = change.from_stage.value == "live" and change.version.stage is not change.from_stage
    return f"loractl rollback {name}" if was_live else f"loractl history {name}"
