"""TOML text from outside: bounded, strictly UTF-8, and every key with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from loractl_registry.policies.errors import PolicyFileError, Problem
from loractl_registry.policies.locating import KeyPath, locate

MAX_BYTES = 64 * 1024
_MAX_DIGITS = 300
_BOM = b"\xef\xbb\xbf"
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class TomlText:
    """What a text says and where.

    Attributes:
        name: What the file is called in messages.
        values: Arrays are tuples, so that frozen values can hold them.
    """

    name: str
    values: Mapping[str, object]
    lines: Mapping[KeyPath, int]

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of `path`, else of the nearest table around it, None if not even that is written."""
        for end in range(len(path), 0, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return line
        return None


def read_toml(data: bytes, name: str) -> TomlText:
    """Parse `data`.

    Raises:
        PolicyFileError: It is too large, not UTF-8, or not TOML; the message names the line.
    """
    text = _decoded(data, name).replace("\r\n", "\n")
    located = locate(text)
    problem = located.problem or _endless_number(text)
    if problem is not None:
        raise PolicyFileError(name, [problem])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyFileError(name, [_syntax(str(error), text, located.unclosed)]) from error
    return TomlText(name, {key: _frozen(value) for key, value in values.items()}, located.lines)


def _decoded(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        text = f"it is larger than {MAX_BYTES} bytes"
        raise PolicyFileError(name, [Problem(None, text, "write shorter rules; a policy is for people to read")])
    if data.startswith(_BOM):
        raise PolicyFileError(name, [Problem(1, "it begins with a byte order mark", "save it as UTF-8 without one")])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(line, f"byte 0x{data[error.start]:02x} is not UTF-8", "save it as UTF-8")
        raise PolicyFileError(name, [problem]) from error


def _endless_number(text: str) -> Problem | None:
    # Python refuses to convert it, without a place, and would need quadratic time.
    found = re.search(rf"[0-9][0-9_]{{{_MAX_DIGITS - 1}}}", text)
    if found is None:
        return None
    line = text.count("\n", 0, found.start()) + 1
    return Problem(line, f"a number of {_MAX_DIGITS} digits or more", "no rule needs one that large")


def _syntax(message: str, text: str, unclosed: int | None) -> Problem:
    place = _PLACE.search(message)
    line = int(place[1]) if place and place[1] else unclosed or text.rstrip("\n").count("\n") + 1
    said = _PLACE.sub("", message)
    return Problem(line, f"it is not TOML: {said[:1].lower()}{said[1:200]}", "mend the line; see https://toml.io")


def _frozen(value: object) -> object:
    if isinstance(value, dict):
        return {key: _frozen(held) for key, held in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return tuple(_frozen(held) for held in cast("list[object]", value))
    return value
