"""``loractl base``: which base models adapters may belong to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import VerificationFailedError
from loractl.cli.params import BaseArgument, YesOption
from loractl.cli.style import Style, clean, count_text, size_text
from loractl.cli.tables import Column, facts, table
from loractl.cli.views import damage_lines, heading, short_digest, when
from loractl_registry.records import Base

if TYPE_CHECKING:
    from loractl_registry.outcomes import SignedAdmission

app = new_app("Base models that adapters may belong to.")

_COLUMNS = (
    Column("name", Style.bold),
    Column("type", priority=3),
    Column("size", priority=1, is_number=True),
    Column("licence", priority=4),
    Column("digest", Style.dim, priority=2),
    Column("added", Style.dim, priority=5),
    Column("path", Style.dim, priority=6),
)


@app.command(
    "add", cls=Command, epilog="loractl base add qwen3 hf:Qwen/Qwen3-30B-A3B\nloractl base add tiny ./tiny-moe"
)
def add(
    ctx: typer.Context,
    name: BaseArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or hf:OWNER/REPO[@REVISION].")],
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Licence, where the model card says none.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Hub branch, tag or commit, instead of @REVISION.")
    ] = None,
) -> None:
    """Admit a base model by the digest of every file.

    Config, tokenizer and weights are hashed; the files stay where they are.
    """
    app = context_of(ctx)
    added = app.registry.add_base(
        name, source, actor=app.actor, licence=licence, revision=revision, progress=app.progress
    )
    verb = "Admitted" if added.is_new else "Already admitted, with the same digest:"
    app.out.emit(
        lambda: payloads.base_row(added.base) | {"is_new": added.is_new},
        lambda style: [f"{verb} {style.bold(added.base.name)}  {style.dim(_sizes(added.base))}"],
        hint=f"loractl add NAME SOURCE --base {added.base.name}",
    )


@app.command("list", cls=Command, epilog="loractl base list --json")
def list_bases(ctx: typer.Context) -> None:
    """List the admitted bases."""
    app = context_of(ctx)
    bases = app.registry.bases()
    app.out.emit(
        lambda: [payloads.base_row(base) for base in bases],
        lambda style: table(_COLUMNS, map(_row, bases), style) if bases else (),
    )
    if not bases:
        app.out.note("no bases yet")
        app.out.hint("loractl base add NAME SOURCE")


@app.command("show", cls=Command, epilog="loractl base show qwen3")
def show(ctx: typer.Context, name: BaseArgument) -> None:
    """Show one base and how many versions it has."""
    app = context_of(ctx)
    base = app.registry.base(name)
    versions = app.registry.versions(base=name)
    signed = app.registry.identities.admission(base)
    app.out.emit(
        lambda: (
            payloads.base_row(base)
            | {"versions": [str(version.ref) for version in versions], "signed": payloads.plain(signed)}
        ),
        lambda style: [*_detail(base, len(versions), style), *_signed_lines(signed, style)],
        hint=f"loractl base verify {name}",
    )


@app.command("verify", cls=Command, epilog="loractl base verify qwen3\nloractl base verify qwen3 --full")
def verify(
    ctx: typer.Context,
    name: BaseArgument,
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Hash every file, also those whose size and time have not changed.")
    ] = False,
) -> None:
    """Check that a base's files are what was admitted.

    A file whose size and time have not changed is not hashed again, unless --full asks for it. Exit code 3 if any
    differ.
    """
    app = context_of(ctx)
    found = app.registry.verify_base(name, full=full, progress=app.progress)
    how = "every file hashed" if found.was_full else f"size and time unchanged, {found.rehashed} hashed"
    app.out.emit(
        lambda: {
            "name": name,
            "is_intact": found.is_intact,
            "was_full": found.was_full,
            "rehashed": found.rehashed,
            "damaged": payloads.damage_rows(found.damaged),
        },
        lambda style: (
            [f"{style.good('intact')}  {name}  {style.dim(f'({how})')}"]
            if found.is_intact
            else damage_lines(name, found.damaged, style)
        ),
        hint=f"loractl base verify {name} --full" if found.is_intact and not found.was_full else None,
    )
    if not found.is_intact:
        raise VerificationFailedError(
            f"{name} is not what was admitted: {count_text(len(found.damaged), 'file')} differ",
            hint=f"restore the files in {found.base.path}, or admit them under another name",
        )


@app.command("remove", cls=Command, epilog="loractl base remove old-base --yes")
def remove(ctx: typer.Context, name: BaseArgument, *, yes: YesOption = False) -> None:
    """Forget a base that no usable version belongs to.

    Its files stay where they are.
    """
    app = context_of(ctx)
    app.registry.base(name)
    app.confirm(f"remove base {name}?", is_sure=yes)
    base = app.registry.remove_base(name, actor=app.actor)
    app.out.emit(
        lambda: payloads.base_row(base) | {"is_removed": True},
        lambda style: [f"Removed base {style.bold(name)}; its files are still in {base.path}"],
    )


def _sizes(base: Base) -> str:
    return f"{count_text(base.file_count, 'file')}, {size_text(base.size_bytes)}, {short_digest(base.digest)}"


def _row(base: Base) -> tuple[str, ...]:
    kind = str(base.config.get("model_type", ""))
    digest = short_digest(base.digest)
    return base.name, kind, size_text(base.size_bytes), base.licence or "", digest, when(base.added_at), str(base.path)


def _signed_lines(signed: SignedAdmission, style: Style) -> Iterator[str]:
    yield from heading("signed", style)
    if signed.by is not None:
        yield f"by {signed.by}, statement {signed.sequence}"
    if signed.objection is not None:
        yield style.bad(clean(signed.objection))


def _detail(base: Base, version_count: int, style: Style) -> Iterator[str]:
    yield from facts(
        [
            ("name", base.name),
            ("type", str(base.config.get("model_type", ""))),
            ("path", str(base.path)),
            ("source", base.source),
            ("licence", base.licence or "not stated"),
            ("digest", base.digest),
            ("files", f"{base.file_count}, {size_text(base.size_bytes)}"),
            ("added", f"{when(base.added_at)} by {base.added_by}"),
            ("adapters", count_text(version_count, "version")),
        ],
        style,
    )
