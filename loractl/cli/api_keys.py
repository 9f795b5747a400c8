"""``loractl key``: what clients of a tenant authenticate with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from loractl.cli import tenancy_view as view
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.moments import parse_expiry
from loractl.cli.params import ReasonOption, YesOption
from loractl_registry.refs import parse_name

app = new_app("What clients of a tenant authenticate with.")


@app.command("create", cls=Command, epilog="loractl key create acme --expires 90d\nKEY=$(loractl key create acme)")
def create(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Argument(parser=parse_name, metavar="TENANT", help="Whose key it is.")],
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires",
            parser=parse_expiry,
            metavar="90d|DATE",
            help="When it ends: a span, the end of a day, or a time.",
        ),
    ] = None,
) -> None:
    """Create an API key and write it to stdout, this once.

    What is kept is a keyed hash: nobody can show it again. Clients send it as a bearer token.
    """
    app = context_of(ctx)
    key, presented = app.registry.tenancy.create_key(tenant, actor=app.actor, expires_at=expires)
    app.out.emit(lambda: view.key_row(key) | {"key": presented.reveal()}, lambda _style: [presented.reveal()])
    app.out.note(f"key {key.prefix} of {tenant}, expires {view.expiry_text(key)}; it is shown this once")


@app.command("list", cls=Command, epilog="loractl key list\nloractl key list --tenant acme --json")
def list_keys(
    ctx: typer.Context,
    tenant: Annotated[
        str | None, typer.Option("--tenant", parser=parse_name, metavar="TENANT", help="Only keys of this tenant.")
    ] = None,
) -> None:
    """List keys by their prefix; expired and revoked ones too."""
    app = context_of(ctx)
    found = app.registry.tenancy.keys(tenant)
    app.out.emit(
        lambda: [view.key_row(key) for key in found], lambda style: view.key_table(found, style) if found else ()
    )
    if not found:
        app.out.note("no API keys yet")
        app.out.hint(f"loractl key create {tenant or 'TENANT'}")


@app.command("revoke", cls=Command, epilog='loractl key revoke 0123456789ab --reason "leaked" --yes')
def revoke(
    ctx: typer.Context,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Its 12 hexadecimal digits, with or without lora_ before them.")
    ],
    *,
    reason: ReasonOption = None,
    yes: YesOption = False,
) -> None:
    """Revoke a key, for good; a running server refuses it within a second."""
    from loractl_registry.tenancy import parse_prefix  # pydantic and cryptography, which help does without

    # Before the first question, which must not repeat a whole key.
    prefix, app = parse_prefix(prefix), context_of(ctx)
    why = app.answer(reason, f"reason for revoking key {prefix}", "--reason")
    app.confirm(f"revoke key {prefix}, for good?", is_sure=yes)
    made = app.registry.tenancy.revoke_key(prefix, actor=app.actor, reason=why)
    verb = "Revoked" if made.is_new else "Already revoked:"
    app.out.emit(
        lambda: view.key_row(made.key) | {"is_new": made.is_new},
        lambda style: [f"{verb} key {style.bold(prefix)} of {made.key.tenant}"],
        hint="loractl key list",
    )
