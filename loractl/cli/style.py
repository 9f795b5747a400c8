"""How text looks: colour on a terminal, none elsewhere, and no control characters from outside."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

_STAGE_COLOURS = {
    "draft": "2",
    "candidate": "33",
    "approved": "36",
    "live": "1;32",
    "retired": "2",
    "rejected": "31",
    "revoked": "1;31",
}
# C0 and C1 controls move the cursor; the others reorder or hide what stands beside them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Style:
    """What the stream that text goes to can show.

    Attributes:
        width: Columns of the terminal, or None where nobody looks: then nothing is cut or hidden.
    """

    has_colour: bool
    width: int | None

    def paint(self, text: str, codes: str) -> str:
        """Wrap `text` in the SGR `codes`, if there is colour."""
        return f"\x1b[{codes}m{text}\x1b[0m" if self.has_colour and codes and text else text

    def bold(self, text: str) -> str:
        """Make `text` stand out."""
        return self.paint(text, "1")

    def dim(self, text: str) -> str:
        """Make `text` step back."""
        return self.paint(text, "2")

    def good(self, text: str) -> str:
        """Colour `text` as all right."""
        return self.paint(text, "32")

    def warn(self, text: str) -> str:
        """Colour `text` as worth a look."""
        return self.paint(text, "33")

    def bad(self, text: str) -> str:
        """Colour `text` as wrong."""
        return self.paint(text, "1;31")

    def command(self, text: str) -> str:
        """Colour `text` as something to type."""
        return self.paint(text, "36")

    def stage(self, text: str) -> str:
        """Colour the name of a stage, padded or not."""
        return self.paint(text, _STAGE_COLOURS.get(text.strip(), ""))


def style_of(stream: TextIO, environ: Mapping[str, str]) -> Style:
    """Return how `stream` can be written to: NO_COLOR, TERM=dumb, FORCE_COLOR and COLUMNS are honoured."""
    is_terminal = stream.isatty()
    forced = bool(environ.get("FORCE_COLOR"))
    has_colour = (is_terminal or forced) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Style(has_colour=has_colour, width=_width(stream, environ) if is_terminal else None)


def _width(stream: TextIO, environ: Mapping[str, str]) -> int:
    columns = environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns[:6]) > 0:
        return int(columns[:6])
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return shutil.get_terminal_size().columns


def clean(text: str) -> str:
    """Return `text` with control and bidirectional characters spelt out, so that it cannot act on the terminal."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def display_width(text: str) -> int:
    """Return how many columns the terminal needs for `text`, which must be clean."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(letter) for letter in text)


def _columns_of(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """Cut `text` to `width` columns, the last of which says that something is missing."""
    if display_width(text) <= width:
        return text
    kept: list[str] = []
    used = 0
    for letter in text:
        used += _columns_of(letter)
        if used > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def wrap(text: str, width: int | None, *, indent: str = "") -> list[str]:
    """Break `text` at spaces into lines of `width` columns; lines after the first start with `indent`."""
    if width is None:
        return [text]
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line.strip() and display_width(line) + 1 + display_width(word) > width:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def size_text(size_bytes: int) -> str:
    """Return a size as people read it: ``512 B``, ``7.3 MB``."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value, units = size_bytes / 1000, ["kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    unit = units[0]
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def count_text(number: int, noun: str, plural: str = "") -> str:
    """Return ``1 version``, ``2 versions``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}".replace(",", " ")
