"""``loractl add`` and ``show``: adapter versions and what is known about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.evidence_view import Attestations
from loractl.cli.glass import warn_of_broken_glass
from loractl.cli.params import AdapterArgument, RefArgument, existing_file
from loractl.cli.preflight_view import preflight_lines, preflight_of, preflight_payload
from loractl.cli.style import Style, size_text
from loractl.cli.tables import Column, table
from loractl.cli.views import heading, provenance_lines, signed_lines, version_facts
from loractl_registry.errors import RegistryError
from loractl_registry.provenance import ProvenanceInput, parse_dataset
from loractl_registry.records import AdapterVersion, FileEntry
from loractl_registry.refs import parse_name

if TYPE_CHECKING:
    from loractl_registry.preflight import PreflightReport

app = new_app("Adapter versions.")

_FILE_COLUMNS = (Column("file"), Column("size", is_number=True, priority=1), Column("digest", Style.dim, priority=2))


@app.command(
    "add",
    cls=Command,
    epilog="loractl add support-bot ./out/checkpoint-400 --base qwen3\n"
    "loractl add support-bot hf:acme/support-lora@v2 --trained-on tickets-2026",
)
def add(
    ctx: typer.Context,
    name: AdapterArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A PEFT folder, or hf:OWNER/REPO[@REVISION].")],
    base: Annotated[
        str | None, typer.Option(parser=parse_name, metavar="BASE", help="Admitted base that it belongs to.")
    ] = None,
    trained_on: Annotated[
        list[str] | None, typer.Option("--trained-on", metavar="DATASET", help="What it was trained on.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="NAME[,licence=SPDX][,class=CLASS]", help="The same, and on what terms."),
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="SPDX", help="Licence of the adapter.")] = None,
    code_commit: Annotated[
        str | None, typer.Option("--code-commit", metavar="COMMIT", help="Commit of the training code.")
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Anything else worth knowing.")] = None,
    provenance: Annotated[
        Path | None,
        typer.Option(
            parser=existing_file, metavar="FILE.json", help="Provenance as a JSON object; options win over it."
        ),
    ] = None,
) -> None:
    """Verify an adapter and store it as the next version of NAME.

    It starts as a draft. The same bytes again are the same version, and say so. What the files tell about where they
    come from is kept; the options add what they do not tell.
    """
    app = context_of(ctx)
    said = ProvenanceInput(
        tuple(trained_on or ()), licence, code_commit, note, provenance, tuple(map(parse_dataset, dataset or ()))
    )
    added = app.registry.add(name, source, actor=app.actor, base=base, provenance=said, progress=app.progress)
    version = added.version
    app.out.emit(
        lambda: payloads.version_detail(version) | {"is_new": added.is_new},
        lambda style: [_added_line(version, style, is_new=added.is_new)],
        hint=f"loractl promote {version.ref}" if added.is_new else f"loractl show {version.ref}",
    )
    if version.base is None:
        app.out.warn(f"the base of {version.ref} is not known; promote needs it: add it again with --base NAME")


@app.command("show", cls=Command, epilog="loractl show support-bot@3\nloractl show support-bot --json")
def show(ctx: typer.Context, ref: RefArgument) -> None:
    """Show one version: facts, provenance, files, preflight, signatures and evidence."""
    app = context_of(ctx)
    version = app.registry.version(ref)
    files = app.registry.manifest(version.ref).files
    checked = preflight_of(app.registry, version.ref)
    signed, broken = app.registry.identities.standing(version), app.registry.broken_glass()
    attested = Attestations.of(app.registry, version.ref)
    app.out.emit(
        lambda: (
            payloads.version_detail(version)
            | {
                "break_glass_until": payloads.break_glass_until(version.ref, broken),
                "files": [payloads.plain(entry) for entry in files],
                "preflight": preflight_payload(checked),
                "signed": payloads.signed(signed),
                **attested.payload(),
            }
        ),
        lambda style: [
            *_detail(version, files, checked, style),
            *signed_lines(signed, style),
            *attested.lines(style),
        ],
        hint=f"loractl history {version.ref.name}",
    )
    warn_of_broken_glass(app, [version.ref])


def _added_line(version: AdapterVersion, style: Style, *, is_new: bool) -> str:
    ref = style.bold(str(version.ref))
    about = f"rank {version.facts.rank}, {size_text(version.size_bytes)}, base {version.base or 'not known'}"
    if is_new:
        return f"Added {ref} as {style.stage(version.stage.value)}  {style.dim(about)}"
    return f"Already there: {ref} has the same bytes and is {style.stage(version.stage.value)}"


def _detail(
    version: AdapterVersion, files: tuple[FileEntry, ...], checked: PreflightReport | RegistryError, style: Style
) -> Iterator[str]:
    yield from version_facts(version, style)
    yield from heading("provenance", style)
    yield from provenance_lines(version.provenance, version.facts.declared_base, style)
    yield from heading("files", style)
    yield from table(_FILE_COLUMNS, [(f.path, size_text(f.size_bytes), f.digest) for f in files], style)
    yield from heading("preflight", style)
    yield from preflight_lines(checked, style)
