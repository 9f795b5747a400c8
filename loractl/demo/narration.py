"""Tell the demo on a terminal, or plainly where there is none."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loractl.demo.chat import Question
from loractl.demo.claims import Observation

_INDENT = 4


def console_for(*, is_json: bool, is_quiet: bool) -> Console:
    """Return the console that the story is told on: stdout, or stderr where stdout is kept for JSON."""
    return Console(stderr=is_json, quiet=is_quiet, highlight=False)


class Narrator:
    """Writes the story to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = 0
        is_ascii = console.options.ascii_only
        self._seen, self._not_seen = ("ok", "NOT OBSERVED:") if is_ascii else ("✓", "✗")

    @property
    def columns(self) -> int | None:
        """Width that is left for a command's output, or None where there is no terminal."""
        return max(40, self._console.width - _INDENT) if self._console.is_terminal else None

    def say(self, text: str) -> None:
        """Write one line of plain text."""
        self._line(Text(text))

    def step(self, title: str, why: str) -> None:
        """Open the next step."""
        self._step += 1
        self._console.print()
        self._line(Text(f"{self._step}. {title}", style="bold"))
        self._line(Text(why, style="dim"))

    def command(self, line: str, *, by: str = "") -> None:
        """Show a command as it is typed, and who types it where there are several."""
        self._line(Text(f"  {f'{by} ' if by else ''}$ {line}", style="cyan"))

    def output(self, text: str) -> None:
        """Show what a command wrote, as it wrote it."""
        for line in text.splitlines():
            self._line(Text.assemble(" " * _INDENT, Text.from_ansi(line)))

    def observed(self, observation: Observation) -> None:
        """Show whether a claim held, and what was found."""
        mark, style = (self._seen, "green") if observation.is_seen else (self._not_seen, "bold red")
        self._line(Text.assemble((f"  {mark} {observation.claim.text}", style), (f"  ({observation.found})", "dim")))

    @contextmanager
    def waiting(self, text: str) -> Generator[None, None, None]:
        """Show that something is going on until it is over."""
        if not self._console.is_terminal:
            self.output(text)
            yield
            return
        with self._console.status(escape(text)):
            yield

    @contextmanager
    def streaming(self, questions: Sequence[Question]) -> Generator[dict[Question, str], None, None]:
        """Show answers side by side: put the text so far into what this yields, and it appears."""
        texts = dict.fromkeys(questions, "")
        if not self._console.is_terminal:
            yield texts
            self._console.print(Padding(_side_by_side(texts), (0, 0, 0, _INDENT)))
            return
        with Live(console=self._console, refresh_per_second=12, get_renderable=lambda: _side_by_side(texts)):
            yield texts

    def verdict(self, missing: Sequence[Observation], total: int, seconds: float) -> None:
        """Say how it went."""
        self._console.print()
        if not missing:
            self._console.print(f"[bold green]All {total} claims were observed[/bold green], in {seconds:.0f} s.")
            return
        self._console.print(f"[bold red]{len(missing)} of {total} claims were not observed:[/bold red]")
        for observation in missing:
            self._line(Text(f"  {self._not_seen} {observation.claim.text}  ({observation.found})"))

    def _line(self, text: Text) -> None:
        """Write one line whole: a terminal wraps it, a file keeps it."""
        self._console.print(text, soft_wrap=True)


def _side_by_side(texts: dict[Question, str]) -> Table:
    models = list(dict.fromkeys(question.model for question in texts))
    table = Table(show_lines=True, expand=True)
    table.add_column("asked", ratio=1)
    for model in models:
        table.add_column(model, ratio=1)
    for asked in dict.fromkeys(question.text for question in texts):
        table.add_row(Text(asked), *(Text(texts.get(Question(model, asked), "")) for model in models))
    return table
