"""What a command works with: settings, registry, who asks, the streams, and questions."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import typer

from loractl.cli.errors import CliUsageError, ConfirmationNeededError, DeclinedError
from loractl.cli.out import Out, standard_out
from loractl.cli.style import clean
from loractl.settings import PASSPHRASE_VARIABLE, TOKEN_VARIABLE, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from loractl_registry import Registry
    from loractl_registry.progress import Progress


@dataclass(slots=True)
class Flags:
    """The flags that every command takes, before or after its name."""

    json: bool = False
    quiet: bool = False
    no_input: bool = False
    home: str | None = None


@dataclass
class AppContext:
    """Everything that a command needs, made when it is first asked for.

    Attributes:
        argv: The command line as it was typed.
        overrides: Settings that the command's own flags set.
        stack: What is closed when the command ends.
    """

    flags: Flags
    stack: ExitStack
    argv: tuple[str, ...] = ()
    overrides: dict[str, object] = field(default_factory=dict[str, object])

    @cached_property
    def settings(self) -> Settings:
        """All settings; reading them fails only in commands that use them."""
        return load_settings({"home": self.flags.home, **self.overrides}, os.environ)

    @property
    def actor(self) -> str:
        """Who appears in the audit log."""
        return self.settings.actor

    @cached_property
    def registry(self) -> Registry:
        """The registry of the home, closed when the command ends."""
        from loractl_registry import Registry  # help and completion must not pay for it

        held = self.settings
        opened = Registry.open(
            held.home, identity=held.identity, passphrase=self.passphrase(), token=_token(), witness=held.witness
        )
        return self.stack.enter_context(opened)

    def passphrase(self, variable: str | None = None) -> Callable[[], str] | None:
        """Return where the passphrase of a private key comes from, or None: no variable of that name is set.

        Raises:
            CliUsageError: `variable` was named and is not set.
        """
        name = variable or PASSPHRASE_VARIABLE
        if os.environ.get(name):
            return lambda: os.environ[name]
        if variable is not None:
            raise CliUsageError(
                f"the variable {variable} is not set", hint=f"export {variable}, or leave the option out"
            )
        return None

    @cached_property
    def out(self) -> Out:
        """The streams."""
        return standard_out(is_json=self.flags.json, is_quiet=self.flags.quiet)

    @property
    def progress(self) -> Progress | None:
        """A progress bar on stderr, or None where nobody would see it."""
        if not self._can_show_progress:
            return None
        from loractl.cli.progress import Bar

        return Bar()

    def working(self, label: str) -> AbstractContextManager[object]:
        """Show that something is going on, while it does."""
        if not self._can_show_progress:
            return nullcontext()
        from loractl.cli.progress import Working

        return Working(label)

    @property
    def _can_show_progress(self) -> bool:
        return not (self.flags.quiet or self.flags.json) and sys.stderr.isatty()

    @property
    def can_ask(self) -> bool:
        """Whether there is somebody to ask."""
        return not self.flags.no_input and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str, *, is_sure: bool, flag: str = "--yes") -> None:
        """Ask before something that cannot be undone.

        Args:
            question: What is about to happen, as a question.
            is_sure: The user has said yes already.
            flag: The flag that says yes.

        Raises:
            ConfirmationNeededError: There is nobody to ask.
            DeclinedError: The answer was no.
        """
        if is_sure:
            return
        if not self.can_ask:
            raise ConfirmationNeededError(f"{question!r} needs an answer", flag)
        if _ask(f"{question} [y/N] ").lower() not in ("y", "yes"):
            raise DeclinedError

    def answer(self, given: str | None, question: str, flag: str) -> str:
        """Return the text that `flag` gave, or ask for `question`.

        Raises:
            ConfirmationNeededError: It was not given, and there is nobody to ask.
            CliUsageError: It is empty.
        """
        if given is None:
            if not self.can_ask:
                raise ConfirmationNeededError(f"the {question} is missing", f"{flag} TEXT")
            given = _ask(f"{question[:1].upper()}{question[1:]}: ")
        if not given.strip():
            raise CliUsageError(
                f"the {question} is empty", hint=f"say something behind {flag}; it is kept in the history"
            )
        return given.strip()


def _ask(prompt: str) -> str:
    """Ask on stderr, which Typer's own questions do not: they leave a space on stdout."""
    sys.stderr.write(clean(prompt))
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        sys.stderr.write("\n")
        raise typer.Abort
    return line.strip()


def _token() -> Callable[[], str] | None:
    """Return where the OpenID token of an account comes from, or None: there is none."""
    return (lambda: os.environ[TOKEN_VARIABLE]) if os.environ.get(TOKEN_VARIABLE) else None


def context_of(ctx: typer.Context, **overrides: object) -> AppContext:
    """Return what the command behind `ctx` works with; `overrides` are settings that its flags set."""
    app: AppContext = ctx.obj
    app.overrides.update(overrides)
    return app
