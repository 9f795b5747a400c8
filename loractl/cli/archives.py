"""``loractl export``, ``import`` and ``backup``: versions and the registry as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.params import existing_file
from loractl.cli.style import Style, count_text, size_text
from loractl_registry.refs import parse_ref

if TYPE_CHECKING:
    from loractl_registry.outcomes import AddedVersion

app = new_app("Versions and the registry as files.")


@app.command("export", cls=Command, epilog="loractl export support-bot@3 support-bot.tar")
def export(
    ctx: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="REF... FILE", help="Versions to export, then the archive to write.")
    ],
) -> None:
    """Write versions to one archive.

    It holds their files, manifests and provenance.
    """
    app = context_of(ctx)
    *texts, file = words
    if not texts:
        raise typer.BadParameter(f"{file!r} is the only word; write REF... FILE, such as support-bot@3 out.tar")
    refs = tuple(map(parse_ref, texts))
    with app.working(f"writing {file}"):
        report = app.registry.export(refs, Path(file))
    app.out.emit(
        lambda: {
            "file": str(report.file),
            "refs": payloads.refs(report.refs),
            "size_bytes": report.size_bytes,
            "digest": report.digest,
        },
        lambda style: [
            f"Exported {count_text(len(report.refs), 'version')} to {style.bold(str(report.file))}"
            f"  {style.dim(f'{size_text(report.size_bytes)}, {report.digest}')}"
        ],
        hint=f"loractl import {report.file}",
    )


@app.command("import", cls=Command, epilog="loractl import support-bot.tar")
def import_archive(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(parser=existing_file, metavar="FILE", help="An archive that export wrote.")],
) -> None:
    """Verify an archive and store its versions as drafts."""
    app = context_of(ctx)
    with app.working(f"verifying {file}"):
        added = app.registry.import_archive(file, actor=app.actor)
    app.out.emit(
        lambda: [payloads.version_row(one.version) | {"is_new": one.is_new} for one in added],
        lambda style: _import_lines(added, style),
        hint=f"loractl promote {added[0].version.ref}" if added else None,
    )


@app.command("backup", cls=Command, epilog="loractl backup registry-2026-01-31.db")
def backup(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to write.")]
) -> None:
    """Copy the registry's database to FILE.

    Safe while a server runs. Adapter files are not in it: export holds those.
    """
    app = context_of(ctx)
    with app.working(f"writing {file}"):
        written = app.registry.backup(file)
    size = written.stat().st_size
    app.out.emit(
        lambda: {"file": str(written), "size_bytes": size},
        lambda style: [f"Backed up to {style.bold(str(written))}  {style.dim(size_text(size))}"],
    )


def _import_lines(added: tuple[AddedVersion, ...], style: Style) -> Iterator[str]:
    for one in added:
        ref, stage = style.bold(str(one.version.ref)), style.stage(one.version.stage.value)
        yield f"Imported {ref} as {stage}" if one.is_new else f"Already there: {ref} has the same bytes and is {stage}"
