"""The three lives of ``loractl top``: documents, one table after the other, and a screen that moves."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loractl.cli.errors import CliError
from loractl.cli.gpus import Gpus
from loractl.cli.keyboard import Keyboard
from loractl.cli.live_source import LiveSource, NoAnswerError, NoServerError, ServerEndedError
from loractl.cli.out import Out
from loractl.cli.style import Style, clean, style_of
from loractl.cli.top_controls import Controls, foot_line, press
from loractl.cli.top_rows import Sample, adapters_of, tenants_of
from loractl.cli.top_view import page_lines, payload_of
from loractl.observability.errors import ObservabilityError
from loractl.observability.rates import Trail
from loractl.observability.state_document import parse_state

if TYPE_CHECKING:
    from rich.console import RenderableType

_Look = TypeVar("_Look")

_KEY_WAIT_S = 0.1
_EMPTY_LINES = 2  # above the line that says what the keys do


@dataclass(slots=True)
class Watch:
    """Looks at one server again and again.

    Attributes:
        sleep: Waits for so many seconds.
    """

    source: LiveSource
    interval_s: float
    gpus: Gpus = field(default_factory=Gpus)
    sleep: Callable[[float], object] = time.sleep
    _trail: Trail = field(default_factory=Trail)

    def document(self) -> dict[str, object]:
        """Return what the server answers now, with the GPUs of this machine.

        Raises:
            CliError: There is no server, or it does not answer or not us.
            StateUnreadableError: It answers something else.
        """
        body = self.source.ask()
        parse_state(body)
        return payload_of(json.loads(body), self.gpus.now())

    def sample(self) -> Sample:
        """Return one look, compared with the ones before; raises what `document` raises."""
        state = parse_state(self.source.ask())
        return Sample(state, self._trail.add(state), self.gpus.now())

    def documents(self) -> Iterator[dict[str, object]]:
        """Yield a document an interval, for ever."""
        return self._every(self.document)

    def samples(self) -> Iterator[Sample]:
        """Yield a look an interval, for ever; the first of a server, which has no rates, is left out."""
        return (sample for sample in self._every(self.sample) if sample.window is not None)

    def _every(self, look: Callable[[], _Look]) -> Iterator[_Look]:
        found = look()
        while True:
            yield found
            self.sleep(self.interval_s)
            try:
                found = look()
            except NoServerError as error:
                raise ServerEndedError from error


def write_documents(watch: Watch, out: Out) -> None:
    """Write one document a line until nobody reads them."""
    for document in watch.documents():
        if not out.line(json.dumps(document, ensure_ascii=False, separators=(",", ":"))):
            return


def write_tables(watch: Watch, controls: Controls, out: Out, *, is_once: bool) -> None:
    """Write one page after the other, or one, until nobody reads them."""
    for sample in watch.samples():
        page = "\n".join(_page(sample, controls, out.style))
        if not out.line(page) or is_once or not out.line(""):
            return


def show_screen(watch: Watch, controls: Controls) -> None:
    """Show a screen that moves until the user has seen enough. A server that goes away is waited for.

    Raises:
        CliError: There was no server to begin with, or it does not tell us.
        StateUnreadableError: It answers something else.
    """
    screen = _Screen(controls, watch.sample())
    looks: queue.SimpleQueue[Sample | Exception] = queue.SimpleQueue()
    has_ended = threading.Event()
    looker = threading.Thread(target=_look, args=(watch, looks, has_ended), daemon=True)
    console = Console()
    with Keyboard(sys.stdin.fileno()) as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        looker.start()
        try:
            while not screen.controls.has_ended:
                live.update(screen.render(console.height), refresh=True)
                keys = keyboard.read(_KEY_WAIT_S)
                if keys is None:
                    return
                for key in keys:
                    screen.controls = press(screen.controls, key)
                screen.take(looks)
        finally:
            has_ended.set()


class _Screen:
    """What is on the screen: the last look that was not paused, and what became of the server."""

    def __init__(self, controls: Controls, sample: Sample) -> None:
        self.controls = controls
        self._sample = sample
        self._trouble = ""

    def take(self, looks: queue.SimpleQueue[Sample | Exception]) -> None:
        """Take in what has been seen since."""
        while not looks.empty():
            look = looks.get()
            if isinstance(look, NoAnswerError | NoServerError):
                self._trouble = f"{look}; waiting for it"
            elif isinstance(look, Exception):
                raise look
            elif not self.controls.is_paused:
                self._sample, self._trouble = look, ""

    def render(self, height: int) -> RenderableType:
        """Return everything, fitted to the terminal as it is now."""
        style = style_of(sys.stdout, os.environ)
        room = height - _EMPTY_LINES - bool(self._trouble)
        lines = list(_page(self._sample, self.controls, style, room=room))[:room]
        if self._trouble:
            lines.insert(0, style.bad(clean(self._trouble)))
        lines += ["", foot_line(self.controls, style)]
        return Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop", end="")


def _page(sample: Sample, controls: Controls, style: Style, *, room: int | None = None) -> Iterator[str]:
    adapters = adapters_of(sample, sort=controls.sort, text=controls.text)
    tenants = tenants_of(sample, sort=controls.sort, text=controls.text)
    return page_lines(sample, adapters, tenants, style, room=room)


def _look(watch: Watch, looks: queue.SimpleQueue[Sample | Exception], has_ended: threading.Event) -> None:
    while not has_ended.wait(watch.interval_s):
        try:
            looks.put(watch.sample())
        except (CliError, ObservabilityError) as error:
            looks.put(error)
        except Exception as error:  # noqa: BLE001  # a thread's end: the screen raises it where it is reported
            looks.put(error)
            return
