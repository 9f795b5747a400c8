"""Names of adapters and bases, and refs to versions of an adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loractl_registry.errors import InvalidNameError, InvalidRefError

MAX_NAME_LENGTH = 63
MAX_VERSION_NUMBER = 2**31 - 1
LIVE = "live"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class VersionRef:
    """One immutable version of an adapter, written ``name@3``."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class Ref:
    """What a user typed for a version: ``name@3``, ``name@live`` or bare ``name``, which means live."""

    name: str
    number: int | None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}@{self.number}"


def parse_name(text: str) -> str:
    """Return `text` if it is a valid adapter or base name.

    Lower-case ASCII letters, digits, ``-``, ``_``, ``.``; 1 to 63 characters, starting with a letter or digit.

    Raises:
        InvalidNameError: `text` is anything else; the message says which rule it breaks.
    """
    if not _NAME.fullmatch(text):
        raise InvalidNameError(text)
    return text


def parse_ref(text: str) -> Ref:
    """Parse ``name``, ``name@live`` or ``name@NUMBER``.

    Raises:
        InvalidRefError: The part behind ``@`` is neither ``live`` nor a number from 1 to 2147483647.
        InvalidNameError: The part before ``@`` is not a name.
    """
    name, at, selector = text.partition("@")
    parse_name(name)
    if not at or selector == LIVE:
        return Ref(name, None)
    if not _NUMBER.fullmatch(selector) or int(selector) > MAX_VERSION_NUMBER:
        raise InvalidRefError(text)
    return Ref(name, int(selector))
