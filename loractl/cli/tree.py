"""The commands as plain data: what help, the reference, and tab completion are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Argument(NamedTuple):
    """A positional word.

    Attributes:
        kind: What completes it; empty if nothing can.
    """

    name: str
    metavar: str
    help: str
    kind: str
    is_required: bool
    is_many: bool


class Option(NamedTuple):
    """An option.

    Attributes:
        flags: Every spelling, long ones first.
        metavar: Name of its value, or empty if it takes none.
        choices: The values that it takes, if they are a fixed set.
        is_common: Every command takes it.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    help: str
    kind: str
    choices: tuple[str, ...]
    is_required: bool
    is_many: bool
    is_common: bool


class Node(NamedTuple):
    """A command, or a group of them.

    Attributes:
        path: What is typed behind ``loractl``; empty for ``loractl`` itself.
        summary: The first line of the help.
        text: The rest of it.
        examples: Lines that a user could type.
        commands: Names of the commands below it, with their section and summary.
    """

    path: str
    summary: str
    text: str
    examples: tuple[str, ...]
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    commands: tuple[tuple[str, str, str], ...]


Tree = Mapping[str, Node]
