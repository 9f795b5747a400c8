"""The command line: parse, call one operation, render.

`main` answers completion, help and the version before anything heavy is imported: typer alone costs more than Tab may.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_HELP = frozenset({"-h", "--help"})


def main() -> int:
    """Run ``loractl`` with the arguments of this process and return its exit code."""
    try:
        return _main(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


def _main(argv: list[str]) -> int:
    if argv[:1] == ["__complete"]:
        from loractl.cli.completing import answer

        return answer(argv[1:])
    if argv == ["--version"]:
        from loractl import __version__

        return _say(f"loractl {__version__}")
    if not argv or (argv[-1] in _HELP and not any(word.startswith("-") for word in argv[:-1])):
        text = _help(argv[:-1])
        if text is not None:
            return _say(text)
    import gc

    # What a command makes lives until it ends, so the many early rounds of the collector find nothing.
    gc.set_threshold(100_000, 50, 50)
    from loractl.cli.app import run

    return run(argv)


def _help(words: list[str]) -> str | None:
    """Return the help of the command that `words` name, or None if the parser has to look at them."""
    import os

    from loractl.cli.grammar import TREE
    from loractl.cli.help import help_lines
    from loractl.cli.style import style_of

    node = TREE.get(" ".join(words))
    return None if node is None else "\n".join(help_lines(node, style_of(sys.stdout, os.environ)))


def _say(text: str) -> int:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        from loractl.cli.out import mute

        mute(sys.stdout)
    return 0
