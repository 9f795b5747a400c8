"""``loractl evidence``: what was found out about a version, kept by digest and signed for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.errors import VerificationFailedError
from loractl.cli.evidence_view import added_lines, added_payload, evidence_lines, evidence_payload, text_of
from loractl.cli.params import RefArgument, existing_file
from loractl.cli.style import Style

if TYPE_CHECKING:
    from loractl_registry.attestations import AddedEvidence

app = new_app("What was found out about versions.")


class AddedType(StrEnum):
    """What a file may be; a proof of effect is made by ``loractl prove`` alone."""

    EVAL = "eval"
    CARD = "card"
    SCAN = "scan"
    REVIEW = "review"


@app.command(
    "add",
    cls=Command,
    epilog="loractl evidence add support-bot@3 results.json --type eval\n"
    "loractl evidence add support-bot@3 report.txt --type scan --passed --kind clamav",
)
def add(
    ctx: typer.Context,
    ref: RefArgument,
    file: Annotated[Path, typer.Argument(parser=existing_file, metavar="FILE", help="At most 16 MiB.")],
    type_: Annotated[AddedType, typer.Option("--type", help="What it is.")],
    *,
    kind: Annotated[str | None, typer.Option(metavar="TEXT", help="What made it, where it does not say.")] = None,
    passed: Annotated[
        bool | None, typer.Option("--passed/--failed", help="Its verdict, where it does not say.")
    ] = None,
) -> None:
    """Keep a file as evidence about a version.

    Numbers are read from what lm-eval writes, from an object with metrics, or from an object of numbers. The policy
    can ask for them. The same file again is a no-op.
    """
    app = context_of(ctx)
    from loractl_registry.evidence import EvidenceType  # cryptography, which help does without

    added = app.registry.evidence.add(ref, file, EvidenceType(type_.value), actor=app.actor, kind=kind, passed=passed)
    show_added(app, added)


@app.command("list", cls=Command, epilog="loractl evidence list support-bot@3 --json")
def list_evidence(ctx: typer.Context, ref: RefArgument) -> None:
    """List the evidence about a version, oldest first."""
    app = context_of(ctx)
    version = app.registry.version(ref)
    found = app.registry.evidence.select(version.ref)
    app.out.emit(
        lambda: [evidence_payload(one) for one in found],
        lambda style: list(evidence_lines(found, style)) or ["no evidence"],
        hint=f"loractl evidence add {version.ref} FILE --type eval",
    )


@app.command("show", cls=Command, epilog="loractl evidence show support-bot@3 9f86d081 --out results.json")
def show(
    ctx: typer.Context,
    ref: RefArgument,
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="The beginning of its digest is enough.")],
    *,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write its bytes to a file.")] = None,
) -> None:
    """Show one piece of evidence as it was kept."""
    app = context_of(ctx)
    record, body = app.registry.evidence.read(ref, digest)
    if out is not None:
        out.write_bytes(body)
    app.out.emit(
        lambda: evidence_payload(record) | {"size_bytes": len(body), "text": text_of(body)},
        lambda style: [*evidence_lines((record,), style), *(() if out is not None else ("", text_of(body) or ""))],
    )


@app.command(
    "scan",
    cls=Command,
    epilog="loractl evidence scan support-bot@3 -- modelscan -p\nloractl evidence scan support-bot@3",
)
def scan(
    ctx: typer.Context,
    ref: RefArgument,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="Scanner and its flags, behind a --.")
    ] = None,
    *,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, max=86400, help="How long it may take.")] = 300,
) -> None:
    """Run a scanner on the stored files of a version and keep what it says.

    Exit code 0 of the scanner is a scan that passed. The folder comes last, or where {folder} stands. Without a command
    the setting scan_command says it. A version whose newest scan failed cannot be promoted; exit code 3.
    """
    app = context_of(ctx)
    if command and "--" not in app.argv:
        raise typer.BadParameter(f"unexpected {command[0]!r}; the scanner goes behind a --")
    version = app.registry.version(ref)
    words = tuple(command or app.settings.scan_command or ())
    with app.working(f"scanning {version.ref}"):
        added = app.registry.evidence.scan(version.ref, words, actor=app.actor, timeout_s=timeout)
    show_added(app, added)


def show_added(app: AppContext, added: AddedEvidence) -> None:
    """Show evidence that was kept, and fail where it is a scan that failed."""
    ref = added.version.ref

    def lines(style: Style) -> list[str]:
        return list(added_lines(added, style))

    app.out.emit(lambda: added_payload(added), lines, hint=f"loractl evidence list {ref}")
    if added.evidence.type == "scan" and added.evidence.passed is False:
        retire = f"loractl retire {ref} --reason TEXT"
        see = f"loractl evidence show {ref} {added.evidence.digest[7:19]}"
        stays = f"; it is {added.version.stage} and still served" if added.is_served else ""
        raise VerificationFailedError(
            f"{ref} is in quarantine: its newest scan failed{stays}",
            hint=f"take it out of service: {retire}" if added.is_served else f"see what the scanner said: {see}",
        )
    if added.is_quarantined:
        app.out.warn(f"{ref} is in quarantine: its newest scan failed")
