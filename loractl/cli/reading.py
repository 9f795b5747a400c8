"""Read the commands that Typer built into plain data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from loractl.cli.app import COMMON_NAMES, root_command
from loractl.cli.catalogue import COMMANDS, COMMON_WORDS, WORDS
from loractl.cli.tree import Argument, Node, Option


def read_tree() -> dict[str, Node]:
    """Return every command, by what is typed behind ``loractl``; imports all of them."""
    return {node.path: node for node in _walk(root_command(), "")}


def node_of(command: Any, command_path: str) -> Node:
    """Return `command` as plain data; `command_path` starts with the word ``loractl``.

    The classes of commands and parameters are Typer's own and untyped for us, so they arrive as Any.
    """
    path = command_path.partition(" ")[2]
    summary, _, text = inspect.cleandoc(command.help or "").partition("\n\n")
    return Node(
        path=path,
        summary=" ".join(summary.split()),
        text=text,
        examples=tuple((command.epilog or "").splitlines()),
        arguments=tuple(_argument(p, path) for p in command.params if p.param_type_name == "argument"),
        options=tuple(_option(p, path) for p in command.params if p.param_type_name == "option"),
        commands=tuple(_children(command, path)),
    )


def _walk(command: Any, path: str) -> Iterator[Node]:
    yield node_of(command, f"loractl {path}".strip())
    for name in _names(command):
        yield from _walk(command.get_command(None, name), f"{path} {name}".strip())


def _names(command: Any) -> list[str]:
    return list(command.list_commands(None)) if hasattr(command, "list_commands") else []


def _children(command: Any, path: str) -> Iterator[tuple[str, str, str]]:
    for name in _names(command):
        child = command.get_command(None, name)
        yield name, "" if path else COMMANDS[name].section, _summary(child)


def _summary(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())


def _argument(param: Any, path: str) -> Argument:
    return Argument(
        name=param.name,
        metavar=param.metavar or param.name.upper(),
        help=param.help or "",
        kind=WORDS.get(path, {}).get(param.name, ""),
        is_required=param.required,
        is_many=param.nargs == -1,
    )


def _option(param: Any, path: str) -> Option:
    choices = tuple(str(choice.value) for choice in param.type_descriptor.choices or ())
    return Option(
        name=param.name,
        flags=tuple(sorted(param.opts, key=len, reverse=True)),
        metavar="" if param.is_flag else param.metavar or ("|".join(choices) or param.name.upper()),
        help=param.help or "",
        kind=WORDS.get(path, {}).get(param.name, COMMON_WORDS.get(param.name, "")),
        choices=choices,
        is_required=param.required,
        is_many=param.multiple,
        is_common=param.name in COMMON_NAMES,
    )
