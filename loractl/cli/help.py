"""Help text of a command, from its node alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loractl.cli.style import Style, wrap
from loractl.cli.tree import Argument, Node, Option

_WIDEST = 100
_LEFT = 28


def help_lines(node: Node, style: Style) -> Iterator[str]:
    """Yield the lines of ``loractl COMMAND --help``."""
    width = min(style.width or _WIDEST, _WIDEST)
    yield from wrap(node.summary, width)
    yield ""
    yield from _usage(node, style, width)
    for paragraph in filter(None, node.text.split("\n\n")):
        yield ""
        yield from wrap(" ".join(paragraph.split()), width)
    for section in dict.fromkeys(section for _, section, _ in node.commands):
        rows = [(name, summary) for name, of, summary in node.commands if of == section]
        yield from _block(section or "Commands", rows, style, width)
    yield from _block("Arguments", [(a.metavar, _argument_help(a)) for a in node.arguments], style, width)
    own = [option for option in node.options if not option.is_common]
    common = [option for option in node.options if option.is_common]
    yield from _block("Options", [(spelling(o), _option_help(o)) for o in own], style, width)
    yield from _block("Everywhere", [(spelling(o), _option_help(o)) for o in common], style, width)
    if node.examples:
        yield from ("", style.bold("Examples"))
        yield from (f"  {style.command(example)}" for example in node.examples)


def usage_of(node: Node) -> str:
    """Return the usage line of `node`, without the word in front."""
    words = ["loractl", *node.path.split()]
    words += [_word(argument) for argument in node.arguments]
    words += [f"{option.flags[0]} {option.metavar}" for option in node.options if option.is_required]
    if node.commands:
        words.append("COMMAND")
    if any(not (option.is_required or option.is_common) for option in node.options):
        words.append("[OPTIONS]")
    return " ".join(words)


def spelling(option: Option) -> str:
    """Return how an option is written: ``-q, --quiet`` or ``--to STAGE``."""
    flags = ", ".join(sorted(option.flags, key=len))
    return f"{flags} {option.metavar}" if option.metavar else flags


def _usage(node: Node, style: Style, width: int) -> Iterator[str]:
    first, *rest = wrap(f"Usage: {usage_of(node)}", width, indent="  ")
    yield first.replace("Usage:", style.bold("Usage:"), 1)
    yield from rest


def _word(argument: Argument) -> str:
    word = f"{argument.metavar}..." if argument.is_many else argument.metavar
    return word if argument.is_required else f"[{word}]"


def _argument_help(argument: Argument) -> str:
    return argument.help if argument.is_required else f"{argument.help} (optional)"


def _option_help(option: Option) -> str:
    notes = [note for note, holds in (("required", option.is_required), ("repeatable", option.is_many)) if holds]
    return f"{option.help} ({', '.join(notes)})" if notes else option.help


def _block(title: str, rows: Sequence[tuple[str, str]], style: Style, width: int) -> Iterator[str]:
    if not rows:
        return
    yield from ("", style.bold(title))
    left = min(max(len(name) for name, _ in rows), _LEFT)
    is_stacked = width < left + 4 + 24
    for name, text in rows:
        if is_stacked or len(name) > left:
            yield f"  {style.command(name)}"
            indent = 6 if is_stacked else left + 4
            yield from (" " * indent + line for line in wrap(text, width - indent))
        else:
            first, *rest = wrap(text, width - left - 4)
            yield f"  {style.command(name)}{' ' * (left - len(name) + 2)}{first}"
            yield from (" " * (left + 4) + line for line in rest)
