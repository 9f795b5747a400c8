"""``loractl policy``: what the policy asks, whether it holds together, and why it decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import CliUsageError, VerificationFailedError
from loractl.cli.params import AsOption, RefArgument, existing_file, rung
from loractl.cli.policy_view import denial_of, explanation_lines, explanation_payload, problem_lines, result_lines
from loractl.cli.style import count_text
from loractl_registry.refs import parse_name
from loractl_registry.stages import Stage

if TYPE_CHECKING:
    from loractl.cli.style import Style
    from loractl_registry.home_policies import PolicyText

app = new_app("What the policy asks, and why it decides.")

FileArgument = Annotated[
    Path | None,
    typer.Argument(parser=existing_file, metavar="FILE", help="A policy; that of the home if not given."),
]


@app.command("check", cls=Command, epilog="loractl policy check\nloractl policy check draft.toml --json")
def check(ctx: typer.Context, file: FileArgument = None) -> None:
    """Check that a policy is well-formed and does not contradict itself.

    Every problem is told with its line. Exit code 2 if there is any; a policy like that decides nothing.
    """
    app = context_of(ctx)
    found = app.registry.policies.check(file)
    app.out.emit(
        lambda: {
            "name": found.name,
            "is_valid": not found.problems,
            "digest": found.policy.digest if found.policy else None,
            "problems": [payloads.plain(one) for one in found.problems],
        },
        lambda style: problem_lines(found, style),
        hint="loractl policy test",
    )
    if found.problems:
        counted = count_text(len(found.problems), "problem")
        raise CliUsageError(f"{found.name} cannot be used: {counted}", hint=found.problems[0].way_out)


@app.command("test", cls=Command, epilog="loractl policy test\nloractl policy test draft.toml")
def run_tests(ctx: typer.Context, file: FileArgument = None) -> None:
    """Run the tests beside a policy: policy.tests.toml in the same folder.

    Exit code 3 if any of them does not come out as it must.
    """
    app = context_of(ctx)
    found = app.registry.policies.test(file)
    app.out.emit(
        lambda: {
            "name": found.name,
            "digest": found.policy.digest,
            "cases": [
                {"name": one.case.name, "line": one.case.line, "has_passed": one.has_passed, "problem": one.problem}
                for one in found.results
            ],
        },
        lambda style: result_lines(found, style),
    )
    if found.failed:
        counted = f"{len(found.failed)} of {count_text(len(found.results), 'test')}"
        raise VerificationFailedError(f"{counted} of the policy failed", hint=f"look at {found.cases_file}")


@app.command(
    "explain",
    cls=Command,
    epilog="loractl policy explain support-bot@3\nloractl policy explain support-bot@3 --to live --tenant acme",
)
def explain(
    ctx: typer.Context,
    ref: RefArgument,
    *,
    to: Annotated[
        Stage | None, typer.Option(parser=rung, metavar="STAGE", help="Stage to enter; the next rung if not given.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(parser=parse_name, metavar="NAME", help="Ask also whether this tenant may use it.")
    ] = None,
    identity: AsOption = None,
) -> None:
    """Show what each rule asks of a promotion, what it sees, and why it allows or denies.

    The files and preflight are not looked at. Exit code 3 if any rule denies.
    """
    app = context_of(ctx)
    found = app.registry.policies.explain(ref, actor=app.actor, to=to, tenant=tenant, identity=identity)
    app.out.emit(lambda: explanation_payload(found), lambda style: explanation_lines(found, style))
    if not found.is_allowed:
        raise denial_of(found)


@app.command("show", cls=Command, epilog="loractl policy show\nloractl policy show > policy.toml")
def show(ctx: typer.Context) -> None:
    """Print the policy that is in force."""
    app = context_of(ctx)
    text, found = app.registry.policies.text(), app.registry.policies.check()
    app.out.emit(
        lambda: {
            "name": text.name,
            "file": str(text.file) if text.file else None,
            "digest": found.policy.digest if found.policy else None,
            "text": text.data.decode("utf-8", "replace"),
        },
        lambda style: _text_lines(text, style),
        hint="loractl policy check",
    )


@app.command("init", cls=Command, epilog="loractl policy init --preset team")
def init(
    ctx: typer.Context,
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="team, or solo, which holds anyway.")],
) -> None:
    """Write a preset into the home as its policy, to be edited there."""
    app = context_of(ctx)
    made = app.registry.policies.start_from(preset)
    app.out.emit(
        lambda: {"file": str(made.file), "preset": preset},
        lambda style: [f"Wrote {style.bold(str(made.file))} from the preset {preset}"],
        hint="loractl policy check",
    )


def _text_lines(text: PolicyText, _style: Style) -> Iterator[str]:
    yield from text.data.decode("utf-8", "replace").splitlines()
