"""``loractl top``: what a running server does, as it does it."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.top_controls import Controls
from loractl.cli.top_rows import SortBy
from loractl_registry.refs import parse_name

app = new_app("What a running server does.")

_INTERVAL = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(ms|s|m|)", re.ASCII)
_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0}
_SHORTEST_S, _USUAL_S, _LONGEST_S = 0.1, 2.0, 3600.0


def parse_interval(text: str) -> float:
    """Read ``2s``, ``500ms``, ``1m`` or a number of seconds.

    Raises:
        typer.BadParameter: It is none of these, or out of range.
    """
    found = _INTERVAL.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise typer.BadParameter(f"{text!r} is no interval; write 500ms, 2s or 1m, from 100ms to 60m")
    return seconds


@app.command(
    "top",
    cls=Command,
    epilog="loractl top\nloractl top qwen3 --sort latency --filter support\nloractl top --json --once",
)
def top(
    ctx: typer.Context,
    base: Annotated[
        str | None, typer.Argument(parser=parse_name, metavar="BASE", help="Whose server, where several run.")
    ] = None,
    *,
    interval: Annotated[
        float | None,
        typer.Option(parser=parse_interval, metavar="TIME", help="How often to look: 500ms, 1m; 2s if not set."),
    ] = None,
    sort: Annotated[SortBy, typer.Option(help="What comes first.")] = SortBy.TOKENS,
    text: Annotated[str, typer.Option("--filter", metavar="TEXT", help="Only names that hold this.")] = "",
    plain: Annotated[bool, typer.Option("--plain", help="One table after the other, also on a terminal.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One table or document, then stop.")] = False,
) -> None:
    """Watch what a running server does: adapters, tenants, latencies, queues, GPUs.

    Rates and latencies are those of the last 15 seconds. On a terminal: s sorts, / filters, p pauses, q quits. Without
    one, a table an interval; with --json, a document a line.
    """
    _watch(context_of(ctx), base, interval or _USUAL_S, Controls(sort=sort, text=text), is_plain=plain, is_once=once)


def _watch(
    app: AppContext, base: str | None, interval_s: float, controls: Controls, *, is_plain: bool, is_once: bool
) -> None:
    from loractl.cli.live_source import LiveSource  # help and completion must not pay for rich, pydantic and the rest
    from loractl.cli.top_loop import Watch, show_screen, write_documents, write_tables

    watch = Watch(LiveSource(app.settings.home, base, os.environ), interval_s)
    if app.flags.json and is_once:
        app.out.emit(watch.document, lambda _: ())
    elif app.flags.json:
        write_documents(watch, app.out)
    elif is_plain or is_once or app.flags.no_input or not _has_screen():
        write_tables(watch, controls, app.out, is_once=is_once)
    else:
        show_screen(watch, controls)


def _has_screen() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
