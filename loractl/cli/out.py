"""The two streams of a command: data on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TextIO, TypeAlias, cast

from loractl.cli.style import Style, clean, style_of, wrap

Json: TypeAlias = Mapping[str, object] | Sequence[object]


class Out:
    """Renders results: JSON where it was asked for, else text that fits the stream.

    A reader that goes away, such as ``head``, is no failure: the rest is thrown away, the exit code stays what it is.
    """

    def __init__(
        self, *, is_json: bool, is_quiet: bool, environ: Mapping[str, str], stdout: TextIO, stderr: TextIO
    ) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet
        self._stdout, self._stderr = stdout, stderr
        self.style = style_of(stdout, environ)
        self.talk_style = style_of(stderr, environ)

    def emit(
        self,
        payload: Callable[[], Json],
        lines: Callable[[Style], Iterable[str]],
        *,
        hint: str | None = None,
    ) -> None:
        """Write the result of a command: `payload` as JSON or `lines` as text, and what to type next on stderr."""
        if self.is_json:
            self._write(self._stdout, dump(payload()))
        else:
            self._write(self._stdout, "\n".join(lines(self.style)))
            if hint:
                self.hint(hint)

    def line(self, text: str) -> bool:
        """Write `text`, one of many results, at once; return whether anybody still reads."""
        try:
            self._stdout.write(text + "\n")
            self._stdout.flush()
        except BrokenPipeError:
            mute(self._stdout)
            return False
        return True

    def note(self, text: str) -> None:
        """Say something that is no data."""
        if not self.is_quiet and not self.is_json:
            self._write(self._stderr, "\n".join(wrap(clean(text), self.talk_style.width)))

    def say(self, text: str) -> None:
        """Write `text`, which is laid out already, beside the data."""
        if not self.is_quiet and not self.is_json:
            self._write(self._stderr, text)

    def hint(self, command: str) -> None:
        """Say what to type next."""
        if not self.is_quiet and not self.is_json:
            style = self.talk_style
            self._write(self._stderr, f"{style.dim('next:')} {style.command(clean(command))}")

    def warn(self, text: str) -> None:
        """Say something that the user should look at; JSON carries it in the payload instead."""
        if not self.is_json:
            style = self.talk_style
            first, *rest = wrap(f"warning: {clean(text)}", style.width, indent="  ")
            self._write(self._stderr, "\n".join([first.replace("warning:", style.warn("warning:"), 1), *rest]))

    def _write(self, stream: TextIO, text: str) -> None:
        if not text:
            return
        try:
            stream.write(text + "\n")
            stream.flush()
        except OSError as error:
            # What is still buffered would fail once more when the interpreter ends.
            mute(stream)
            if not isinstance(error, BrokenPipeError):
                raise


def dump(payload: object) -> str:
    """Return `payload` as JSON text: one line a top-level array element, so that it diffs and greps well."""
    if isinstance(payload, list) and payload:
        rows = cast("list[object]", payload)
        return "[\n" + ",\n".join(map(_dump_one, rows)) + "\n]"
    return json.dumps(payload, ensure_ascii=False, indent=2, default=str)


_dump_one = json.JSONEncoder(ensure_ascii=False, default=str).encode


def mute(stream: TextIO) -> None:
    """Send what is still buffered in `stream`, whose reader has gone, nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        # Not a real file: a test's buffer.
        return


def standard_out(*, is_json: bool, is_quiet: bool) -> Out:
    """Return the `Out` of this process."""
    return Out(is_json=is_json, is_quiet=is_quiet, environ=os.environ, stdout=sys.stdout, stderr=sys.stderr)
