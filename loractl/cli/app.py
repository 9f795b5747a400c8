"""The root command: finds the others when they are called, and ends every failure in one place."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from loractl import __version__
from loractl.cli.catalogue import COMMANDS
from loractl.cli.context import AppContext, Flags
from loractl.cli.errors import ExitCode, Failure, failure_of, report, usage_failure
from loractl.cli.help import help_lines
from loractl.cli.quick import quicken
from loractl.cli.style import style_of
from loractl.settings import SettingsError, home_of


def _remember(ctx: typer.Context, param: typer.CallbackParam, value: object) -> object:
    if value:
        setattr(ctx.obj.flags, str(param.name), value)
    return value


def _common(
    *,
    json: Annotated[
        bool, typer.Option("--json", callback=_remember, expose_value=False, help="Write JSON to stdout, errors too.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", callback=_remember, expose_value=False, help="Say nothing beside the result."),
    ] = False,
    no_input: Annotated[
        bool,
        typer.Option("--no-input", callback=_remember, expose_value=False, help="Never ask; fail and name the flag."),
    ] = False,
    home: Annotated[
        str | None,
        typer.Option(
            "--home",
            metavar="FOLDER",
            callback=_remember,
            expose_value=False,
            help="Folder of the registry, instead of LORACTL_HOME.",
        ),
    ] = None,
) -> None:
    """Take the flags that every command takes."""


@cache
def _common_params() -> tuple[Any, ...]:
    """Return the parsed form of `_common`, which every command shares."""
    app = typer.Typer(add_completion=False)
    app.command("common")(_common)
    return tuple(map(quicken, (param for param in get_command(app).params if param.name in _COMMON)))


_COMMON = frozenset({"json", "quiet", "no_input", "home"})
COMMON_NAMES = _COMMON | {"help"}


def _write_help(command: Any, ctx: Any, formatter: Any) -> None:
    from loractl.cli.reading import node_of  # help is rare here: `main` answers most of it without Typer

    formatter.write("\n".join(help_lines(node_of(command, ctx.command_path), style_of(sys.stdout, os.environ))))


class Command(TyperCommand):
    """A command that also takes the flags of every command, and prints our help."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **attributes: Any) -> None:
        super().__init__(name, params=[*map(quicken, params or ()), *_common_params()], **attributes)

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help``, read as quickly as the rest."""
        option = super().get_help_option(ctx)
        return option if option is None else quicken(option)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write our help."""
        _write_help(self, ctx, formatter)


class Group(TyperGroup):
    """A group that also takes the flags of every command, and prints our help."""

    def __init__(self, *, params: list[Any] | None = None, **attributes: Any) -> None:
        super().__init__(params=[*map(quicken, params or ()), *_common_params()], **attributes)

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help``, read as quickly as the rest."""
        option = super().get_help_option(ctx)
        return option if option is None else quicken(option)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write our help."""
        _write_help(self, ctx, formatter)


class LazyGroup(Group):
    """The root: imports the module of a command when the command is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # the signature is Typer's
        """Return every name, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # the signature is Typer's
        """Import and build one command, or return None if there is none of that name."""
        return load_command(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` start with; for a misspelt one, say which is meant."""
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            from difflib import get_close_matches  # only for who mistypes

            if close := get_close_matches(args[0], COMMANDS, n=1):
                error.message = f"{error.message.rstrip('.')}; did you mean {close[0]!r}"
            raise


def load_command(name: str) -> Any:
    """Return the built command called `name`, or None if there is none."""
    entry = COMMANDS.get(name)
    if entry is None:
        return None
    module = importlib.import_module(f"loractl.cli.{entry.module}")
    app = cast("typer.Typer", module.app)
    if entry.is_group:
        return get_group(app)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.registered_commands = [command for command in app.registered_commands if command.name == name]
    return get_command(single)


def new_app(help_text: str) -> typer.Typer:
    """Return an empty Typer app in the house style, for the commands of one noun."""
    app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)
    app.callback(help=help_text, invoke_without_command=True)(_help_unless_called)
    return app


def _help_unless_called(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        sys.stdout.write(ctx.get_help() + "\n")


root = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(*, value: bool) -> None:
    if value:
        sys.stdout.write(f"loractl {__version__}\n")
        raise typer.Exit


@root.callback()
def _root(
    ctx: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  # its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep, approve and serve many versioned LoRA adapters on one base model."""
    _help_unless_called(ctx)


@cache
def root_command() -> Any:
    """Return ``loractl`` itself as Typer built it."""
    return get_command(root)


def run(argv: Sequence[str]) -> int:
    """Run ``loractl`` with `argv` and return its exit code; nothing escapes as a traceback."""
    _tolerate_odd_text()
    own = argv[: argv.index("--")] if "--" in argv else argv
    app = AppContext(Flags(json="--json" in own), ExitStack(), argv=tuple(argv))
    try:
        with app.stack:
            code: object = root_command().main(args=list(argv), prog_name="loractl", standalone_mode=False, obj=app)
        return code if isinstance(code, int) else ExitCode.DONE
    except typer.TyperException as error:
        return _end(app, usage_failure(error.format_message(), _command_of(error)))
    except typer.Abort:
        return _end(app, failure_of(KeyboardInterrupt(), os.environ, None))
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001  # the border of the process: told, logged, ended
        return _end(app, failure_of(error, os.environ, _home_of(app)))


def _end(app: AppContext, failure: Failure) -> ExitCode:
    return report(failure, is_json=app.flags.json, environ=os.environ, stream=sys.stderr)


def _home_of(app: AppContext) -> Path | None:
    try:
        return home_of(os.environ, app.flags.home)
    except SettingsError:
        return None


def _command_of(error: typer.TyperException) -> str:
    return str(getattr(getattr(error, "ctx", None), "command_path", "loractl"))


def _tolerate_odd_text() -> None:
    """Let names that are no UTF-8, or a terminal that cannot show a letter, come out escaped, not as a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
