"""Single keys from a terminal, which is left as it was however the program ends."""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import tty
from types import FrameType, TracebackType
from typing import Any

# What arrows and function keys send.
_SEQUENCE = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|O.)")
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Keyboard:
    """Reads keys as they are pressed, without echo, while it is entered.

    Signals that would end the process at once raise SystemExit instead meanwhile, so that the terminal is put back.
    Ctrl-C raises KeyboardInterrupt, as ever. Ctrl-Z does nothing: nobody would put the terminal back for the shell.

    Args:
        descriptor: A terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mode: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Keyboard:
        self._mode = termios.tcgetattr(self._descriptor)
        self._handlers = {number: signal.signal(number, _end) for number in _ENDING}
        tty.setcbreak(self._descriptor)
        mode = termios.tcgetattr(self._descriptor)
        mode[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._descriptor, termios.TCSANOW, mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Keys that nobody has read are no input for the shell.
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._mode)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def read(self, timeout_s: float) -> str | None:
        """Return the keys that were pressed, after waiting for them; None once the terminal is gone."""
        ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        if not ready:
            return ""
        try:
            pressed = os.read(self._descriptor, 256)
        except OSError:
            return None
        return keys_in(pressed) if pressed else None


def keys_in(pressed: bytes) -> str:
    """Return the keys in `pressed`; those that send a sequence, such as arrows, are left out."""
    return _SEQUENCE.sub("", pressed.decode("utf-8", "ignore"))


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
