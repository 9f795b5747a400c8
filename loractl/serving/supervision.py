"""One engine from its start to its end: wait until it answers, watch it, drain it, and never leave it behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from enum import StrEnum
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Protocol

from loractl.serving.errors import EngineCrashedError
from loractl.serving.request import ServeUi
from loractl.serving.steps import STARTING, own_line, step_of

_POLL_S = 0.25
_LAST_LINES = 20
# How long the engine may take to end by itself after it was told to, before it is killed.
_END_PATIENCE_S = 15.0
_STOPPED, _INTERRUPTED = 0, 130


class SupervisedProcess(Protocol):
    """What supervision needs of an engine's process."""

    def poll(self) -> int | None:
        """Return its exit code once all of it has ended."""
        ...

    def drain(self) -> None:
        """Ask it to finish running requests and end."""
        ...

    def terminate(self) -> None:
        """Ask it to end now."""
        ...

    def kill(self) -> None:
        """End it without asking."""
        ...

    def tail(self, count: int) -> tuple[str, ...]:
        """Return its last lines."""
        ...


class Inbox:
    """What reaches the supervising thread: lines of the engine and signals of the user."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self.interrupts = 0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def add_line(self, line: str) -> None:
        """Queue one line of the engine; called from any thread."""
        self._queue.put(line)

    def lines(self, timeout_s: float) -> list[str]:
        """Return what has arrived; if nothing has, wait up to `timeout_s` for it, or for a signal."""
        found: list[str] = []
        try:
            item = self._queue.get(timeout=timeout_s)
            while True:
                if item is not None:
                    found.append(item)
                item = self._queue.get_nowait()
        except Empty:
            return found

    def __enter__(self) -> Inbox:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        # SimpleQueue.put is reentrant, so a handler may call it whatever it interrupted.
        self.interrupts += 1
        self._queue.put(None)


class _Phase(StrEnum):
    STARTING = "while it started"
    SERVING = "while it served"
    DRAINING = "while it drained"
    ENDING = "while it stopped"


class Supervision:
    """Follows one engine process through its phases.

    Args:
        answers: Whether the engine answers requests now.
        on_ready: Called once, when it does, with the seconds that the start took.
        crash: Makes the error for an engine that ended by itself, from when and its exit code.
    """

    def __init__(
        self,
        process: SupervisedProcess,
        inbox: Inbox,
        ui: ServeUi,
        *,
        answers: Callable[[], bool],
        on_ready: Callable[[float], None],
        crash: Callable[[str, int], EngineCrashedError],
        drain_s: float,
    ) -> None:
        self._process, self._inbox, self._ui = process, inbox, ui
        self._answers, self._on_ready, self._crash = answers, on_ready, crash
        self._drain_s = drain_s
        self._phase = _Phase.STARTING
        self._began = time.monotonic()
        self._deadline = float("inf")
        self._step = STARTING
        self._exit_code = _STOPPED

    def run(self) -> int:
        """Follow the engine to its end and return the exit code of `loractl serve`.

        0 after it was asked to stop a server that answered, 130 if it was interrupted before that or told twice.

        Raises:
            EngineCrashedError: The engine ended by itself.
        """
        while (code := self._process.poll()) is None:
            for line in self._inbox.lines(_POLL_S):
                self._take(line)
            self._advance()
        for line in self._inbox.lines(0):
            self._take(line)
        if self._phase in (_Phase.STARTING, _Phase.SERVING) and not self._inbox.interrupts:
            self._ui.last_lines(self._process.tail(_LAST_LINES))
            raise self._crash(self._phase.value, code)
        return self._exit_code

    def _take(self, line: str) -> None:
        if own := own_line(line):
            self._ui.notice(own.level, own.message)
        elif self._phase is _Phase.STARTING and (step := step_of(line)):
            self._step = step

    def _advance(self) -> None:
        match self._phase:
            case _Phase.STARTING:
                self._advance_start()
            case _Phase.SERVING:
                if self._inbox.interrupts:
                    self._drain()
            case _Phase.DRAINING:
                if self._inbox.interrupts > 1:
                    self._end(_INTERRUPTED, kill=True)
                elif time.monotonic() > self._deadline:
                    self._ui.notice("WARNING", f"requests still running after {self._drain_s:g} s are cut off")
                    self._end(_STOPPED, kill=False)
            case _Phase.ENDING:
                if self._inbox.interrupts > 1 or time.monotonic() > self._deadline:
                    self._process.kill()

    def _advance_start(self) -> None:
        elapsed = time.monotonic() - self._began
        if self._inbox.interrupts:
            # Nothing that a request could lose is there yet.
            self._end(_INTERRUPTED, kill=True)
        elif self._answers():
            self._phase = _Phase.SERVING
            self._on_ready(elapsed)
        else:
            self._ui.step(self._step, elapsed)

    def _drain(self) -> None:
        self._ui.notice("INFO", f"stopping: running requests may finish within {self._drain_s:g} s, Ctrl-C ends now")
        self._phase, self._deadline = _Phase.DRAINING, time.monotonic() + self._drain_s
        self._process.drain()

    def _end(self, exit_code: int, *, kill: bool) -> None:
        self._phase, self._deadline = _Phase.ENDING, time.monotonic() + _END_PATIENCE_S
        self._exit_code = exit_code
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
