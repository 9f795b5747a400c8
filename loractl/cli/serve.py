"""``loractl serve``: answer from a base and its approved adapters."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.params import OptionalReasonOption
from loractl.cli.serving_view import TerminalUi, plan_lines, plan_payload
from loractl.cli.style import clean
from loractl.settings import DeviceChoice, Fairness
from loractl_registry.refs import parse_name

if TYPE_CHECKING:
    from loractl.serving.request import ServeRequest

app = new_app("Answer from a base and its approved adapters.")


@app.command(
    "serve",
    cls=Command,
    epilog="loractl serve qwen3\nloractl serve qwen3 --dry-run\n"
    "loractl serve qwen3 --port 9000 -- --max-model-len 8192",
)
def serve(
    ctx: typer.Context,
    base: Annotated[str, typer.Argument(parser=parse_name, metavar="BASE", help="Admitted base to serve.")],
    engine_args: Annotated[
        list[str] | None, typer.Argument(metavar="-- VLLM-FLAG", help="Flags for vLLM, behind a --.")
    ] = None,
    *,
    device: Annotated[DeviceChoice | None, typer.Option(help="What to run on.")] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address to listen on; 127.0.0.1 if not set.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port to listen on; 8000 if not set, 0 picks a free one.")
    ] = None,
    max_adapters: Annotated[
        int | None, typer.Option("--max-adapters", metavar="COUNT", help="Adapters that the engine holds at once.")
    ] = None,
    max_rank: Annotated[
        int | None, typer.Option("--max-rank", metavar="RANK", help="Largest adapter rank that it takes.")
    ] = None,
    fairness: Annotated[Fairness | None, typer.Option(help="Who goes next while the engine is short.")] = None,
    queue_timeout_s: Annotated[
        int | None, typer.Option("--queue-timeout", metavar="SECONDS", help="Longest wait of a request for its turn.")
    ] = None,
    records: Annotated[
        bool | None, typer.Option("--records/--no-records", help="Keep a record of every request, without its content.")
    ] = None,
    override_advisory: Annotated[
        list[str] | None,
        typer.Option(
            "--override-advisory",
            metavar="ID",
            help="Serve although this advisory refuses; needs a reason; repeatable.",
        ),
    ] = None,
    reason: OptionalReasonOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the vLLM command, start nothing.")
    ] = False,
) -> None:
    """Serve a base with its approved adapters over the OpenAI API.

    The engine is planned for what the registry holds. Promotions and revocations reach the running server within a
    second. Ctrl-C finishes the running requests and stops everything.
    """
    engine = {"device": device, "host": host, "port": port, "max_adapters": max_adapters, "max_rank": max_rank}
    app = context_of(ctx, **engine, fairness=fairness, queue_timeout_s=queue_timeout_s, records=records)
    request = _request(app, base, engine_args or [])
    if override_advisory:
        why = app.answer(reason, "reason for serving all the same", "--reason")
        request = replace(request, override_advisories=tuple(override_advisory), override_reason=why)
    if dry_run:
        _show_plan(app, request)
    else:
        _run(app, request)


def _request(app: AppContext, base: str, engine_args: list[str]) -> ServeRequest:
    from loractl.serving.request import ServeRequest  # other commands of this process must not pay for it
    from loractl.serving.traffic import TrafficSettings  # as above

    if engine_args and "--" not in app.argv:
        raise typer.BadParameter(f"unexpected {engine_args[0]!r}; flags for vLLM go behind a --")
    settings = app.settings
    return ServeRequest(
        home=settings.home,
        base=base,
        actor=settings.actor,
        device=settings.device,
        host=settings.host,
        port=settings.port,
        max_adapters=settings.max_adapters,
        max_rank=settings.max_rank,
        engine_args=tuple(engine_args),
        witness=settings.witness,
        traffic=TrafficSettings(settings.fairness, settings.queue_timeout_s, settings.records, settings.trace_endpoint),
        log_level=settings.log_level,
    )


def _show_plan(app: AppContext, request: ServeRequest) -> None:
    from loractl.serving.launch import prepare  # the engine's plan, as above

    server = prepare(request, registry=app.registry, ui=TerminalUi(app))
    app.out.emit(
        lambda: plan_payload(server),
        lambda style: [*plan_lines(server.plan, style), "", clean(server.shell)],
        hint=f"loractl serve {request.base}",
    )


def _run(app: AppContext, request: ServeRequest) -> None:
    from loractl.serving.launch import serve as serve_until_stopped  # the engine's plan, as above

    with closing(TerminalUi(app)) as ui:
        code = serve_until_stopped(request, registry=app.registry, ui=ui)
    raise typer.Exit(code)
