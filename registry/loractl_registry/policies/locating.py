"""Where each key of a TOML text stands, which tomllib does not tell."""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from loractl_registry.policies.errors import Problem

KeyPath = tuple[str | int, ...]
"""Keys and, within arrays, indices: ``("adapter", "approved", "evidence", 0, "type")``."""

MAX_DEPTH = 12
"""Levels of keys and arrays; tomllib needs quadratic time for more, and recurses for each array."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED_KEY = re.compile(r"""("(?:[^"\\\n]|\\[^\n])*+")|'[^'\n]*'""")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*+")
_END_OF_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_SCALAR = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\[^\n])*+"'
    r"|'[^'\n]*'"
    r"""|[^\s,\[\]{}#"'=][^,\]}\n#]*""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Located:
    """What a walk over a text found.

    Attributes:
        lines: Line of every key, table and array element, from 1. Of a text that is not TOML, up to where it breaks.
        problem: A key that is given twice, or too many levels.
        unclosed: Line of the innermost bracket that was open at the end of the walk.
    """

    lines: Mapping[KeyPath, int]
    problem: Problem | None = None
    unclosed: int | None = None


def locate(text: str) -> Located:
    """Return where the keys of `text` stand, whose lines end in a line feed alone.

    Whether it is TOML is for tomllib to say.
    """
    scanner, problem = _Scanner(text), None
    try:
        scanner.document()
    except _RefusedError as error:
        problem = error.problem
    except _NotTomlError:
        pass
    return Located({**scanner.implied, **scanner.named}, problem, scanner.brackets[-1] if scanner.brackets else None)


def dotted(path: KeyPath) -> str:
    """Write `path` as a user would: ``adapter.approved.evidence[0].metrics."acc,none"``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if _BARE_KEY.fullmatch(part) else json.dumps(part)
            text += f".{shown}" if text else shown
    return text


class _NotTomlError(Exception):
    """The walk cannot go on; tomllib says why."""


class _RefusedError(Exception):
    """The text may be TOML, and is refused all the same."""

    def __init__(self, line: int, text: str, way_out: str) -> None:
        super().__init__(text)
        self.problem = Problem(line, text, way_out)


class _Scanner:
    """One walk; it stops at what is surely not TOML and takes a little more than what is."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._lengths: dict[KeyPath, int] = {}  # of arrays of tables
        self.named: dict[KeyPath, int] = {}
        self.implied: dict[KeyPath, int] = {}
        self.brackets: list[int] = []

    def document(self) -> None:
        """Walk to the end."""
        table: KeyPath = ()
        self._take(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)
            self._expect(_END_OF_LINE)
            self._take(_BLANK)

    def _header(self) -> KeyPath:
        line, is_array = self._line(), self._text.startswith("[[", self._at)
        brackets = 2 if is_array else 1
        self._at += brackets
        *above, last = self._key()
        path: KeyPath = ()
        for part in above:
            path = (*path, part)
            self.implied.setdefault(path, line)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        path = (*path, last)
        if is_array:
            count = self._lengths.get(path, 0)
            self._lengths[path] = count + 1
            self.implied.setdefault(path, line)
            path = (*path, count)
        self._name(path, line)
        self._expect_text("]" * brackets)
        return path

    def _assignment(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for part in self._key():
            if path != table:
                self.implied.setdefault(path, line)
            path = (*path, part)
        self._name(path, line)
        self._expect_text("=")
        self._value(path)

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._take(_SPACE)
            parts.append(self._key_part())
            if len(parts) > MAX_DEPTH:
                raise self._too_deep()
            self._take(_SPACE)
            if not self._take_text("."):
                return parts

    def _key_part(self) -> str:
        if (bare := self._take(_BARE_KEY)) is not None:
            return bare
        quoted = self._expect(_QUOTED_KEY)
        if "\\" not in quoted or quoted[0] == "'":
            return quoted[1:-1]
        try:
            return str(tomllib.loads(f"text = {quoted}")["text"])
        except tomllib.TOMLDecodeError as error:
            raise _NotTomlError from error

    def _value(self, path: KeyPath) -> None:
        if len(path) > MAX_DEPTH:
            raise self._too_deep()
        self._take(_SPACE)
        line = self._line()
        if self._take_text("["):
            self.brackets.append(line)
            self._array(path)
            self.brackets.pop()
        elif self._take_text("{"):
            self.brackets.append(line)
            self._inline_table(path)
            self.brackets.pop()
        else:
            self._expect(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        index = 0
        self._take(_BLANK)
        while not self._take_text("]"):
            self._name((*path, index), self._line())
            self._value((*path, index))
            index += 1
            self._separator("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._take(_BLANK)
        while not self._take_text("}"):
            self._assignment(path)
            self._separator("}")

    def _separator(self, closing: str) -> None:
        self._take(_BLANK)
        if not self._take_text(",") and not self._text.startswith(closing, self._at):
            raise _NotTomlError
        self._take(_BLANK)

    def _name(self, path: KeyPath, line: int) -> None:
        if len(path) > MAX_DEPTH:
            raise self._too_deep()
        if path in self.named:
            text = f"{dotted(path)[:120]} is given twice, first in line {self.named[path]}"
            raise _RefusedError(line, text, "keep one of the two")
        self.named[path] = line

    def _too_deep(self) -> _RefusedError:
        return _RefusedError(self._line(), f"more than {MAX_DEPTH} levels of keys and brackets", "a policy needs six")

    def _line(self) -> int:
        return bisect_left(self._newlines, self._at) + 1

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found.group()

    def _expect(self, pattern: re.Pattern[str]) -> str:
        found = self._take(pattern)
        if found is None:
            raise _NotTomlError
        return found

    def _take_text(self, text: str) -> bool:
        is_there = self._text.startswith(text, self._at)
        if is_there:
            self._at += len(text)
        return is_there

    def _expect_text(self, text: str) -> None:
        if not self._take_text(text):
            raise _NotTomlError
