"""The arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loractl.cli.errors import NoSuchFileError
from loractl_registry.refs import Ref, parse_name, parse_ref
from loractl_registry.stages import LADDER, Stage


def expanded(path: Path) -> Path:
    """Return `path` with a leading ``~`` resolved, or as it is where nobody has that name, as a shell does."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def existing_file(text: str) -> Path:
    """Return `text` as a path to a file.

    Raises:
        NoSuchFileError: There is none.
    """
    path = expanded(Path(text))
    if not path.is_file():
        raise NoSuchFileError(path)
    return path


def rung(text: str) -> Stage:
    """Return the stage that a promotion can enter.

    Raises:
        typer.BadParameter: It is none.
    """
    if text not in LADDER[1:]:
        raise typer.BadParameter(f"{text!r} is no rung; choose {', '.join(LADDER[1:])}")
    return Stage(text)


RefArgument = Annotated[
    Ref, typer.Argument(parser=parse_ref, metavar="REF", help="NAME@3, or NAME for the version that is live.")
]
AdapterArgument = Annotated[str, typer.Argument(parser=parse_name, metavar="NAME", help="Name of the adapter.")]
BaseArgument = Annotated[str, typer.Argument(parser=parse_name, metavar="NAME", help="Name of the base.")]

ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history. Asked for on a terminal.")
]
OptionalReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")]
AsOption = Annotated[
    str | None,
    typer.Option("--as", parser=parse_name, metavar="IDENTITY", help="Ask for this identity; for yours if not given."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NameFilter = Annotated[str | None, typer.Option("--name", parser=parse_name, metavar="NAME", help="Only this adapter.")]
StageFilter = Annotated[Stage | None, typer.Option("--stage", help="Only versions in this stage.")]
BaseFilter = Annotated[
    str | None, typer.Option("--base", parser=parse_name, metavar="BASE", help="Only adapters of this base.")
]
