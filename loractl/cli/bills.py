"""``loractl bom``: the bill of materials of a version."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from loractl import __version__
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.params import RefArgument

app = new_app("Bills of materials.")


@app.command(
    "bom", cls=Command, epilog="loractl bom support-bot@3\nloractl bom support-bot@3 --out support-bot.cdx.json"
)
def bom(
    ctx: typer.Context,
    ref: RefArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to a file.")] = None,
) -> None:
    """Write the bill of materials of a version: CycloneDX, with base, data, licences, signatures and evidence."""
    from loractl_registry.bom import BomSubject, attachments_of, check_bom, datasets_of, render_bom  # 0.2 s to import

    app = context_of(ctx)
    version = app.registry.version(ref)
    subject = BomSubject(
        version=version,
        manifest=app.registry.manifest(version.ref),
        base=None if version.base is None else app.registry.base(version.base),
        datasets=datasets_of(version.provenance.datasets, version.provenance.dataset_terms),
        attachments=attachments_of(
            app.registry.file_signatures(version.ref), app.registry.evidence.select(version.ref)
        ),
        at=datetime.now(UTC).replace(microsecond=0),
        loractl_version=__version__,
    )
    data = render_bom(subject)
    check_bom(data)
    if out is not None:
        out.write_bytes(data)
        app.out.emit(lambda: {"ref": str(version.ref), "file": str(out)}, lambda _style: [f"Wrote {out}"])
        return
    document: dict[str, object] = json.loads(data)
    app.out.emit(lambda: document, lambda _style: data.decode().splitlines())
