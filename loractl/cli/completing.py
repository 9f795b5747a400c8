"""Answer the shell's Tab: which words can follow, without building a single command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from loractl.cli.tree import Argument, Node, Option, Tree

Candidate = tuple[str, str]
_PATH_KINDS = frozenset({"file", "folder"})


class _Line:
    """How far the words before the cursor have led; no dataclass, whose import alone takes a tenth of what Tab may.

    Attributes:
        given: Values of the arguments and options so far, by name.
        used: Names of the options so far.
        waiting: The option whose value comes next.
        is_lost: A word names no command, so nothing can be said about what follows.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.given: dict[str, str] = {}
        self.used: set[str] = set()
        self.positional: list[str] = []
        self.waiting: Option | None = None
        self.is_past_options = False
        self.is_lost = False


class Completion(NamedTuple):
    """What the shell may offer.

    Attributes:
        paths: ``file`` or ``folder`` if the shell shall complete paths by itself, else empty.
    """

    candidates: list[Candidate]
    paths: str = ""


def answer(argv: Sequence[str]) -> int:
    """Answer ``loractl __complete words WORD...`` or ``loractl __complete line LINE``; never fails.

    The first line written is ``words``, ``file`` or ``folder``; then one candidate a line, a tab, and its description.
    """
    from loractl.cli.grammar import TREE

    mode, rest = (argv[0], list(argv[1:])) if argv else ("words", [])
    words = split_line(rest[0] if rest else "")[1:] if mode == "line" else rest
    try:
        found = complete(TREE, words or [""], os.environ)
        lines = [found.paths or "words", *(f"{value}\t{about}" for value, about in found.candidates)]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except Exception:  # a shell must never show a traceback because somebody pressed Tab
        if os.environ.get("LORACTL_DEBUG") == "1":
            raise
    return 0


def complete(tree: Tree, words: Sequence[str], environ: Mapping[str, str]) -> Completion:
    """Return what can stand in place of the last of `words`, which may be empty."""
    *before, incomplete = words
    line = _Line(tree[""])
    for word in before:
        _advance(line, word, tree)
    if line.is_lost:
        return Completion([])
    if line.waiting is not None:
        return _values(line.waiting, incomplete, line, environ)
    if incomplete.startswith("-") and not line.is_past_options:
        return _options(incomplete, line, environ)
    if line.node.commands:
        return Completion([(name, about) for name, _, about in line.node.commands if name.startswith(incomplete)])
    argument = _next_argument(line)
    return Completion([]) if argument is None else _values(argument, incomplete, line, environ)


def split_line(line: str) -> list[str]:
    """Split what was typed up to the cursor as a POSIX shell does; the last word is the unfinished one, maybe empty."""
    words, word, quote, is_open = list[str](), "", "", False
    letters = iter(line)
    for letter in letters:
        if quote:
            if letter == quote:
                quote = ""
            else:
                word += next(letters, "") if letter == "\\" and quote == '"' else letter
        elif letter in "'\"":
            quote, is_open = letter, True
        elif letter == "\\":
            word, is_open = word + next(letters, ""), True
        elif letter.isspace():
            words, word, is_open = ([*words, word], "", False) if word or is_open else (words, "", False)
        else:
            word += letter
    return [*words, word]


def _advance(line: _Line, word: str, tree: Tree) -> None:
    if line.waiting is not None:
        line.given[line.waiting.name], line.waiting = word, None
    elif line.is_past_options or not word.startswith("-") or word == "-":
        _take_positional(line, word, tree)
    elif word == "--":
        line.is_past_options = True
    else:
        flag, has_value, value = word.partition("=")
        option = _option_called(line.node, flag)
        if option is not None:
            line.used.add(option.name)
            if option.metavar and has_value:
                line.given[option.name] = value
            elif option.metavar:
                line.waiting = option


def _take_positional(line: _Line, word: str, tree: Tree) -> None:
    if not line.node.commands:
        argument = _next_argument(line)
        if argument is not None and not line.is_past_options:
            line.given[argument.name] = word
        line.positional.append(word)
        return
    child = tree.get(f"{line.node.path} {word}".strip())
    line.is_lost = line.is_lost or child is None
    line.node = child or line.node


def _next_argument(line: _Line) -> Argument | None:
    arguments = line.node.arguments
    if len(line.positional) < len(arguments):
        return arguments[len(line.positional)]
    return arguments[-1] if arguments and arguments[-1].is_many else None


def _option_called(node: Node, flag: str) -> Option | None:
    return next((option for option in node.options if flag in option.flags), None)


def _options(incomplete: str, line: _Line, environ: Mapping[str, str]) -> Completion:
    flag, has_value, value = incomplete.partition("=")
    if has_value:
        option = _option_called(line.node, flag)
        found = _values(option, value, line, environ) if option and option.metavar else Completion([])
        return Completion([(f"{flag}={text}", about) for text, about in found.candidates])
    offered = [option for option in line.node.options if option.is_many or option.name not in line.used]
    return Completion(
        [(one, option.help) for option in offered for one in option.flags[:1] if one.startswith(incomplete)]
    )


def _values(param: Argument | Option, incomplete: str, line: _Line, environ: Mapping[str, str]) -> Completion:
    if isinstance(param, Option) and param.choices and not param.kind:
        return Completion([(choice, "") for choice in param.choices if choice.startswith(incomplete)])
    if param.kind in _PATH_KINDS:
        return Completion([], param.kind)
    if not param.kind:
        return Completion([])
    # Only what needs the registry pays for sqlite3.
    from loractl.cli.candidates import candidates

    found = candidates(param.kind, _home(line, environ), incomplete, line.given)
    return Completion([one for one in found if one[0] not in line.positional])


def _home(line: _Line, environ: Mapping[str, str]) -> Path:
    from loractl.settings import home_of

    return home_of(environ, line.given.get("home"))
