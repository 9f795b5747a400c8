"""``loractl verify``, ``fsck`` and ``gc``: whether the store holds what the registry says, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import VerificationFailedError
from loractl.cli.params import YesOption
from loractl.cli.style import Style, clean, count_text, size_text
from loractl.cli.views import damage_lines, short_digest
from loractl_registry.refs import Ref, parse_ref

if TYPE_CHECKING:
    from loractl_registry.outcomes import Finding, FsckReport, GcReport, VersionVerification

app = new_app("Whether the store holds what the registry says.")


@app.command("verify", cls=Command, epilog="loractl verify support-bot@3\nloractl verify --json")
def verify(
    ctx: typer.Context,
    refs: Annotated[
        list[Ref] | None, typer.Argument(parser=parse_ref, metavar="REF", help="Versions to check; all if none.")
    ] = None,
) -> None:
    """Hash the stored files again and compare.

    Exit code 3 if any differ.
    """
    app = context_of(ctx)
    with app.working("hashing stored files"):
        found = app.registry.verify(tuple(refs or ()))
    damaged = [one for one in found if not one.is_intact]
    app.out.emit(
        lambda: [_verification(one) for one in found],
        lambda style: _verify_lines(found, style),
    )
    if damaged:
        raise VerificationFailedError(
            f"{count_text(len(damaged), 'version')} of {len(found)} differ from what was added",
            hint=f"take it out of service: loractl revoke {damaged[0].ref} --reason TEXT",
        )


@app.command("fsck", cls=Command, epilog="loractl fsck\nloractl fsck --repair")
def fsck(
    ctx: typer.Context,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without losing anything.")] = False,
    yes: YesOption = False,
) -> None:
    """Look for orphans, half-written files and damage.

    Exit code 3 if anything is left. Damaged versions are reported and never removed.
    """
    app = context_of(ctx)
    if repair:
        app.confirm(f"remove orphans and half-written files in {app.settings.home}?", is_sure=yes)
    with app.working("checking the whole home"):
        report = app.registry.fsck(repair=repair, actor=app.actor)
    app.out.emit(lambda: _fsck_payload(report), lambda style: _fsck_lines(report, style))
    if not report.is_clean:
        left = [finding for finding in report.findings if not finding.is_repaired]
        raise VerificationFailedError(
            f"{count_text(len(left), 'finding')} left",
            hint=None if repair else "mend what can be: loractl fsck --repair",
        )


@app.command("gc", cls=Command, epilog="loractl gc --dry-run\nloractl gc --yes")
def gc(
    ctx: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")] = False,
    yes: YesOption = False,
) -> None:
    """Free the space of rejected and revoked versions.

    Their history stays.
    """
    app = context_of(ctx)
    if not dry_run:
        planned = app.registry.gc(dry_run=True)
        if planned.contents:
            app.confirm(
                f"remove the bytes of {count_text(len(planned.contents), 'rejected or revoked version')}"
                f" ({size_text(planned.freed_bytes)})?",
                is_sure=yes,
            )
    with app.working("freeing space"):
        report = app.registry.gc(dry_run=dry_run, actor=app.actor)
    app.out.emit(
        lambda: _gc_payload(report),
        lambda style: _gc_lines(report, style),
        hint="loractl gc" if dry_run and report.contents else None,
    )


def _verification(one: VersionVerification) -> dict[str, object]:
    return {
        "ref": str(one.ref),
        "is_intact": one.is_intact,
        "damaged": payloads.damage_rows(one.damaged),
        "collected_at": payloads.time_text(one.collected_at) if one.collected_at else None,
    }


def _verify_lines(found: tuple[VersionVerification, ...], style: Style) -> Iterator[str]:
    for one in found:
        if not one.is_intact:
            yield from damage_lines(str(one.ref), one.damaged, style)
        elif one.collected_at:
            yield f"{style.dim('collected')}  {one.ref}"
        else:
            yield f"{style.good('intact')}  {one.ref}"


def _fsck_payload(report: FsckReport) -> dict[str, object]:
    return {
        "is_clean": report.is_clean,
        "contents_checked": report.contents_checked,
        "findings": [payloads.plain(finding) for finding in report.findings],
    }


def _fsck_lines(report: FsckReport, style: Style) -> Iterator[str]:
    yield from (_finding_line(finding, style) for finding in report.findings)
    checked = style.dim(f"{count_text(report.contents_checked, 'content')} checked")
    yield f"{style.good('clean')}  {checked}" if report.is_clean else checked


def _finding_line(finding: Finding, style: Style) -> str:
    mark = style.good("mended") if finding.is_repaired else style.bad(finding.kind)
    return f"{mark}  {clean(finding.subject)}: {clean(finding.detail)}"


def _gc_payload(report: GcReport) -> dict[str, object]:
    return {
        "is_dry_run": report.is_dry_run,
        "freed_bytes": report.freed_bytes,
        "contents": [{"digest": digest, "refs": payloads.refs(refs)} for digest, refs in report.contents.items()],
    }


def _gc_lines(report: GcReport, style: Style) -> Iterator[str]:
    verb = "would remove" if report.is_dry_run else "removed"
    for digest, refs in report.contents.items():
        yield f"{verb}  {', '.join(map(str, refs))}  {style.dim(short_digest(digest))}"
    yield f"{'Would free' if report.is_dry_run else 'Freed'} {size_text(report.freed_bytes)}"
