"""``loractl dashboard``: what Grafana and Prometheus import."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import FileExistsCliError
from loractl.cli.params import expanded

app = new_app("What Grafana and Prometheus import.")


class Kind(StrEnum):
    """What is exported."""

    GRAFANA = "grafana"
    PROMETHEUS = "prometheus"


def _grafana() -> str:
    from loractl.observability.dashboards import grafana_json

    return grafana_json()


def _prometheus() -> str:
    from loractl.observability.alerts import alert_rules_yaml  # YAML, which nothing else here needs

    return alert_rules_yaml()


_FILES: Mapping[Kind, tuple[str, Callable[[], str]]] = {
    Kind.GRAFANA: ("loractl-dashboard.json", _grafana),
    Kind.PROMETHEUS: ("loractl-alerts.yml", _prometheus),
}


@app.command(
    "export",
    cls=Command,
    epilog="loractl dashboard export grafana --to grafana/dashboards\nloractl dashboard export prometheus --force",
)
def export(
    ctx: typer.Context,
    kind: Annotated[
        Kind,
        typer.Argument(metavar="grafana|prometheus", help="A dashboard for Grafana, or alert rules for Prometheus."),
    ],
    *,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="Folder to write it to, created if needed; default this one.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a dashboard or alert rules, made from the metrics that servers have; always the same bytes."""
    app, (name, make) = context_of(ctx), _FILES[kind]
    file, text = expanded(to) / name, make()
    is_new = _write(file, text, force=force)
    app.out.emit(
        lambda: {"kind": kind.value, "file": str(file), "is_new": is_new},
        lambda style: [f"{'Wrote' if is_new else 'Already there, and the same:'} {style.bold(str(file))}"],
    )


def _write(file: Path, text: str, *, force: bool) -> bool:
    """Write `text` to `file`, whole or not at all; return False if the very same is there.

    Raises:
        FileExistsCliError: Something else is there.
        OSError: The operating system refused.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file() and file.read_bytes() == text.encode():
        return False
    if not force and os.path.lexists(file):
        raise FileExistsCliError(file)
    with NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False) as part:
        part.write(text)
    _put(Path(part.name), file, force=force)
    return True


def _put(part: Path, file: Path, *, force: bool) -> None:
    part.chmod(0o644)
    try:
        if force:
            part.replace(file)
        else:
            # A link is never made over something that came meanwhile.
            os.link(part, file)
    except FileExistsError as error:
        raise FileExistsCliError(file) from error
    finally:
        part.unlink(missing_ok=True)
