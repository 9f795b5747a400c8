"""``loractl tenant``: who may use what, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from loractl.cli import tenancy_view as view
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import CliUsageError
from loractl.cli.limits import LimitSetting, gather, parse_limit
from loractl.cli.params import ReasonOption, YesOption
from loractl.cli.style import Style, count_text
from loractl_registry.priority_classes import PriorityClass
from loractl_registry.refs import parse_name

app = new_app("Who may use what, and how much of it.")

NameArgument = Annotated[str, typer.Argument(parser=parse_name, metavar="TENANT", help="Name of the tenant.")]
AdaptersOption = Annotated[
    list[str],
    typer.Option(
        "--adapter",
        metavar="PATTERN",
        help="What it may use: an adapter or base, 'support-*', or one version as NAME@3.",
    ),
]
ClassesOption = Annotated[
    list[str],
    typer.Option("--data-class", metavar="CLASS", help="Class of data that versions for it may be of, '*' for all."),
]
WeightOption = Annotated[
    float | None, typer.Option("--weight", metavar="NUMBER", help="Share of the engine while it is short; 1 at first.")
]
PriorityOption = Annotated[
    PriorityClass | None,
    typer.Option("--priority", help="Class in which its requests wait while the engine is short; standard at first."),
]
LimitsOption = Annotated[
    list[LimitSetting],
    typer.Option(
        "--limit",
        parser=parse_limit,
        metavar="[ADAPTER:]LIMIT=NUMBER",
        help="requests-per-minute, tokens-per-minute, tokens-per-day, concurrent, max-context or max-output;"
        " none takes it away.",
    ),
]


@app.command(
    "add",
    cls=Command,
    epilog="loractl tenant add acme --adapter 'support-*' --limit tokens-per-minute=100000\n"
    "loractl tenant add batch --adapter '*' --weight 0.5 --limit concurrent=4 --limit poet:concurrent=1",
)
def add(
    ctx: typer.Context,
    name: NameArgument,
    *,
    adapters: AdaptersOption = [],  # noqa: B006  # Typer copies it
    data_classes: ClassesOption = [],  # noqa: B006
    weight: WeightOption = None,
    priority: PriorityOption = None,
    limits: LimitsOption = [],  # noqa: B006
) -> None:
    """Add a tenant. Without --adapter it may use nothing yet."""
    from loractl_registry.tenancy import Limits  # pydantic and cryptography, which help does without

    app, said = context_of(ctx), gather(limits)
    added = app.registry.tenancy.add(
        name,
        actor=app.actor,
        adapters=adapters,
        data_classes=data_classes,
        weight=1.0 if weight is None else weight,
        priority=priority or PriorityClass.STANDARD,
        limits=Limits(**said.in_all),
        adapter_limits={adapter: Limits(**held) for adapter, held in said.by_adapter.items()},
    )
    verb = "Added" if added.is_new else "Already there:"
    app.out.emit(
        lambda: view.tenant_row(added.tenant) | {"is_new": added.is_new},
        lambda style: [f"{verb} tenant {style.bold(name)}, {view.access_text(added.tenant)}"],
        hint=f"loractl key create {name}" if added.tenant.adapters else f"loractl tenant set {name} --adapter PATTERN",
    )


@app.command("list", cls=Command, epilog="loractl tenant list\nloractl tenant list --json")
def list_tenants(ctx: typer.Context) -> None:
    """List every tenant with what it may use and how many keys it has."""
    app = context_of(ctx)
    tenancy = app.registry.tenancy
    found, objections, active = tenancy.tenants(), tenancy.objections(), view.active_by_tenant(tenancy.keys())
    app.out.emit(
        lambda: [view.listed_row(each, objections, active) for each in found],
        lambda style: view.tenant_table(found, objections, active, style) if found else (),
    )
    for name in sorted(objections):
        app.out.warn(f"tenant {name} is refused: {objections[name]}")
    if not found:
        app.out.note("no tenants; whoever reaches the server may use every approved adapter")
        app.out.hint("loractl tenant add NAME --adapter PATTERN")


@app.command("show", cls=Command, epilog="loractl tenant show acme\nloractl tenant show acme --json")
def show(ctx: typer.Context, name: NameArgument) -> None:
    """Show one tenant: access, weight, limits and keys."""
    app = context_of(ctx)
    tenancy = app.registry.tenancy
    tenant, keys, objection = tenancy.tenant(name), tenancy.keys(name), tenancy.objections().get(name)
    app.out.emit(
        lambda: view.tenant_row(tenant) | {"objection": objection, "keys": [view.key_row(key) for key in keys]},
        lambda style: view.tenant_lines(tenant, keys, objection, style),
    )


@app.command(
    "set",
    cls=Command,
    epilog="loractl tenant set acme --limit tokens-per-day=2000000 --limit concurrent=none\n"
    "loractl tenant set acme --adapter 'support-*' --adapter poet --weight 2\n"
    "loractl tenant set nightly --priority batch",
)
def change(
    ctx: typer.Context,
    name: NameArgument,
    *,
    adapters: AdaptersOption = [],  # noqa: B006
    no_adapters: Annotated[
        bool, typer.Option("--no-adapters", help="It may use nothing, until --adapter says otherwise.")
    ] = False,
    data_classes: ClassesOption = [],  # noqa: B006
    no_data_classes: Annotated[bool, typer.Option("--no-data-classes", help="No class of data.")] = False,
    weight: WeightOption = None,
    priority: PriorityOption = None,
    limits: LimitsOption = [],  # noqa: B006
) -> None:
    """Change a tenant: what is given replaces what was, limits one by one; the rest stays."""
    patterns = _replaced(adapters, "--adapter", "--no-adapters", is_none=no_adapters)
    classes = _replaced(data_classes, "--data-class", "--no-data-classes", is_none=no_data_classes)
    if patterns is None and classes is None and weight is None and priority is None and not limits:
        hint = "give --adapter, --data-class, --weight, --priority or --limit"
        raise CliUsageError(f"nothing to change about {name}", hint=hint)
    app, said = context_of(ctx), gather(limits)
    made = app.registry.tenancy.change(
        name,
        actor=app.actor,
        adapters=patterns,
        data_classes=classes,
        weight=weight,
        priority=priority,
        limits=said.in_all,
        adapter_limits=said.by_adapter,
    )
    app.out.emit(
        lambda: view.tenant_row(made.tenant) | {"was": dict(made.was)}, lambda style: _changed(name, made.was, style)
    )


@app.command("remove", cls=Command, epilog='loractl tenant remove acme --reason "left" --yes')
def remove(ctx: typer.Context, name: NameArgument, *, reason: ReasonOption = None, yes: YesOption = False) -> None:
    """Remove a tenant and revoke its keys, for good."""
    app = context_of(ctx)
    why = app.answer(reason, f"reason for removing tenant {name}", "--reason")
    app.confirm(f"remove tenant {name} and revoke its keys, for good?", is_sure=yes)
    removed = app.registry.tenancy.remove(name, actor=app.actor, reason=why)
    app.out.emit(
        lambda: {"name": removed.name, "revoked_keys": list(removed.keys)},
        lambda style: [f"Removed tenant {style.bold(name)}, {count_text(len(removed.keys), 'key')} revoked"],
        hint="loractl tenant list",
    )


def _replaced(given: list[str], flag: str, no_flag: str, *, is_none: bool) -> list[str] | None:
    """Return what replaces a list, which may be nothing, or None where nobody said anything."""
    if given and is_none:
        raise CliUsageError(f"{flag} and {no_flag} exclude each other", hint="give one of them")
    return given if given or is_none else None


def _changed(name: str, was: Mapping[str, object], style: Style) -> Iterator[str]:
    yield f"Changed tenant {style.bold(name)}" if was else f"Tenant {style.bold(name)} was so already"
