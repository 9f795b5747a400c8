"""``loractl promote`` and ``rollback``: the ways up to live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.glass import warn_of_broken_glass
from loractl.cli.params import AdapterArgument, OptionalReasonOption, RefArgument, rung
from loractl.cli.preflight_view import preflight_payload, preflight_summary
from loractl.cli.proving import prove_first
from loractl.cli.running import Refusal, refusals_of
from loractl.cli.style import Style
from loractl_registry.refs import Ref
from loractl_registry.stages import Stage

if TYPE_CHECKING:
    from loractl_registry.outcomes import Promotion

app = new_app("Ways up to live.")

_CHECKED = {
    Stage.CANDIDATE: "files match their digests, preflight passed",
    Stage.APPROVED: "policy allows it",
    Stage.LIVE: "files match their digests, the bare name means it now",
}
_UNREVIEWED = {
    Stage.APPROVED: "without approvals and evidence",
    Stage.LIVE: "without approvals and evidence, the bare name means it now",
}


@app.command(
    "promote",
    cls=Command,
    epilog="loractl promote support-bot@3\nloractl promote support-bot@3 --to live\n"
    'loractl promote support-bot@3 --break-glass --reason "live one leaks"',
)
def promote(
    ctx: typer.Context,
    ref: RefArgument,
    to: Annotated[
        Stage | None,
        typer.Option(parser=rung, metavar="STAGE", help="candidate, approved or live; one rung if not given."),
    ] = None,
    reason: OptionalReasonOption = None,
    *,
    prove: Annotated[
        bool | None,
        typer.Option(
            "--prove/--no-prove", help="Prove a draft's effect first; if not given, as the setting prove says."
        ),
    ] = None,
    break_glass: Annotated[
        bool,
        typer.Option(
            "--break-glass", help="Without approvals and evidence, for an operator, with a reason; over by itself."
        ),
    ] = False,
) -> None:
    """Move a version up: candidate, approved, live.

    What each rung asks for is checked first: the stored files, whether the base can take the adapter, the policy. Where
    the policy asks for a proof of effect, a draft is proven before, by vLLM if it is installed; the setting prove says
    auto for every draft where there is an engine, or never. A running server takes it within a second.
    """
    app = context_of(ctx)
    if break_glass:
        _break_glass(app, ref, to, reason)
        return
    prove_first(app, ref, is_wanted=prove)
    with app.working(f"checking {ref}"):
        promotion = app.registry.promote(ref, actor=app.actor, to=to, reason=reason)
    _tell(app, promotion, refusals_of(app.settings.home, promotion.version))


@app.command("rollback", cls=Command, epilog='loractl rollback support-bot --reason "3 is worse"')
def rollback(ctx: typer.Context, name: AdapterArgument, reason: OptionalReasonOption = None) -> None:
    """Make the version that was live before live again."""
    app = context_of(ctx)
    with app.working(f"checking {name}"):
        promotion = app.registry.rollback(name, actor=app.actor, reason=reason)
    _tell(app, promotion, refusals_of(app.settings.home, promotion.version))


def _break_glass(app: AppContext, ref: Ref, to: Stage | None, reason: str | None) -> None:
    why = app.answer(reason, f"reason for breaking the glass for {ref}", "--reason")
    with app.working(f"checking {ref}"):
        promotion = app.registry.break_glass(ref, actor=app.actor, to=to, reason=why)
    _tell(app, promotion, refusals_of(app.settings.home, promotion.version), _CHECKED | _UNREVIEWED)
    warn_of_broken_glass(app, [promotion.version.ref])


def _tell(
    app: AppContext,
    promotion: Promotion,
    refusals: tuple[Refusal, ...],
    checked: Mapping[Stage, str] = _CHECKED,
) -> None:
    version = promotion.version
    app.out.emit(
        lambda: (
            payloads.version_row(version)
            | {
                "from_stage": promotion.from_stage.value,
                "entered": [stage.value for stage in promotion.entered],
                "replaced": str(promotion.replaced) if promotion.replaced else None,
                "preflight": preflight_payload(promotion.preflight),
                "servers": [payloads.plain(refusal) for refusal in refusals],
            }
        ),
        lambda style: _lines(promotion, checked, style),
        hint=_next(promotion),
    )
    for refusal in refusals:
        if refusal.reason is not None:
            app.out.warn(f"the server at {refusal.url} cannot take {version.ref}: {refusal.reason}")


def _lines(promotion: Promotion, checked: Mapping[Stage, str], style: Style) -> Iterator[str]:
    version = promotion.version
    ref = style.bold(str(version.ref))
    if not promotion.entered:
        yield f"{ref} is {style.stage(version.stage.value)} already"
        return
    yield f"{ref}  {style.stage(promotion.from_stage.value)} -> {style.stage(version.stage.value)}"
    width = max(len(stage) for stage in promotion.entered)
    for stage in promotion.entered:
        about = checked[stage]
        if stage is Stage.CANDIDATE and promotion.preflight is not None:
            about = f"{about}: {preflight_summary(promotion.preflight)}"
            yield from (style.warn(f"  note: {finding}") for finding in promotion.preflight.findings)
        yield f"  {style.good('ok')} {style.stage(stage.value.ljust(width))}  {style.dim(about)}"
    if promotion.replaced:
        yield f"  {promotion.replaced} was live and stays {style.stage('approved')}"


def _next(promotion: Promotion) -> str:
    version = promotion.version
    if version.stage is Stage.LIVE:
        return f"loractl rollback {version.ref.name}" if promotion.replaced else f"loractl serve {version.base}"
    return f"loractl promote {version.ref}"
