"""``loractl identity``: whose signatures count here, and for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import CliUsageError
from loractl.cli.params import OptionalReasonOption, ReasonOption, YesOption, existing_file
from loractl.cli.style import Style
from loractl.cli.tables import Column, facts, table
from loractl_registry.refs import parse_name

if TYPE_CHECKING:
    from loractl_registry.outcomes import Identity

app = new_app("Whose signatures count here, and for what.")

ROLES = ("contributor", "reviewer", "operator", "auditor")

_COLUMNS = (
    Column("name", Style.bold),
    Column("state", priority=1),
    Column("roles", priority=2),
    Column("private key", priority=3),
    Column("key", Style.dim, priority=4),
)

NameArgument = Annotated[str, typer.Argument(parser=parse_name, metavar="NAME", help="Name of the identity.")]


def _role(text: str) -> str:
    if text not in ROLES:
        raise typer.BadParameter(f"{text!r} is no role; choose {', '.join(ROLES)}")
    return text


@app.command(
    "create", cls=Command, epilog="loractl identity create grace\nloractl identity create ci --passphrase-env CI_KEY"
)
def create(
    ctx: typer.Context,
    name: NameArgument,
    passphrase_env: Annotated[
        str | None,
        typer.Option(
            "--passphrase-env",
            metavar="VARIABLE",
            help="Variable with the passphrase; LORACTL_IDENTITY_PASSPHRASE if not given.",
        ),
    ] = None,
) -> None:
    """Create a pair of keys below the home; the first one may do everything.

    The private key is readable by you alone, encrypted if there is a passphrase. The first identity of a home signs for
    what is there. Give the public key (.pub) of any other to an operator, who trusts it.
    """
    app = context_of(ctx)
    made = app.registry.identities.create(name, actor=app.actor, passphrase=app.passphrase(passphrase_env))
    path = app.settings.home / "keys" / f"{name}.pem"
    trusted = "trusted with every role" if made.is_trusted else "not trusted yet"
    app.out.emit(
        lambda: _row(made) | {"private_key_file": str(path), "public_key_file": f"{path}.pub"},
        lambda style: [f"Created identity {style.bold(name)}, {trusted}", f"  its public key is in {path}.pub"],
        hint=None if made.is_trusted else f"loractl identity trust {name} {path}.pub --role ROLE",
    )


@app.command("list", cls=Command, epilog="loractl identity list --json")
def list_identities(ctx: typer.Context) -> None:
    """List every key that is or was trusted, and the private keys here."""
    app = context_of(ctx)
    found = app.registry.identities.select()
    app.out.emit(
        lambda: [_row(one) for one in found], lambda style: table(_COLUMNS, map(_cells, found), style) if found else ()
    )
    if not found:
        app.out.note("no identities yet; the first promotion makes one")
        app.out.hint("loractl identity create NAME")


@app.command("show", cls=Command, epilog="loractl identity show grace\nloractl identity show grace --out grace.pub")
def show(
    ctx: typer.Context,
    name: NameArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write its public key there, in PEM.")
    ] = None,
) -> None:
    """Show the keys and roles of one identity."""
    app = context_of(ctx)
    found = app.registry.identities.named(name)
    if out is not None:
        _export(found, out)
    app.out.emit(lambda: [_row(one) for one in found], lambda style: _detail(found, style))


@app.command(
    "trust",
    cls=Command,
    epilog="loractl identity trust grace grace.pem.pub --role reviewer\n"
    "loractl identity trust grace grace.pem.pub --role reviewer --role operator\n"
    "loractl identity trust ci --account ci@acme.dev --issuer https://login.acme.dev --role reviewer",
)
def trust(
    ctx: typer.Context,
    name: NameArgument,
    role: Annotated[
        list[str],
        typer.Option(
            "--role", parser=_role, metavar="ROLE", help=f"What it may sign for: {', '.join(ROLES)}; repeatable."
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(parser=existing_file, metavar="[FILE]", help="Its public key, in PEM.")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            "--account",
            metavar="SUBJECT",
            help="Instead of a key: the address or workflow URI in its certificates.",
        ),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="URL", help="OpenID provider that vouches for the account.")
    ] = None,
    trusted_root: Annotated[
        Path | None,
        typer.Option(
            "--trusted-root",
            parser=existing_file,
            metavar="FILE",
            help="trusted_root.json of the account's sigstore; sigstore's public one if not given.",
        ),
    ] = None,
    reason: OptionalReasonOption = None,
) -> None:
    """Trust a public key or an account without one, or give it other roles; signed by an operator.

    An account signs through sigstore, with LORACTL_IDENTITY set to its name here and its OpenID token in
    SIGSTORE_IDENTITY_TOKEN. The root of trust is pinned: trust the account again to pin another.
    """
    app = context_of(ctx)
    identities = app.registry.identities
    if file is not None and account is None and issuer is None and trusted_root is None:
        made = identities.trust(name, file, role, actor=app.actor, reason=reason)
    elif file is None and account is not None and issuer is not None:
        made = identities.trust_account(
            name, account, issuer, role, actor=app.actor, trusted_root=trusted_root, reason=reason
        )
    else:
        raise CliUsageError(
            "name a public key, or an account and its issuer",
            hint=f"loractl identity trust {name} FILE --role ROLE, or --account SUBJECT --issuer URL --role ROLE",
        )
    app.out.emit(
        lambda: _row(made),
        lambda style: [f"Trusted {style.bold(name)} as {', '.join(made.roles)}  {style.dim(made.key_id[:12])}"],
        hint=f"loractl identity show {name}",
    )


@app.command("revoke", cls=Command, epilog='loractl identity revoke grace --reason "left the team" --yes')
def revoke(ctx: typer.Context, name: NameArgument, *, reason: ReasonOption = None, yes: YesOption = False) -> None:
    """Stop trusting every key of an identity, for good.

    What it signed until now stays signed; whatever it signs from now on is refused.
    """
    app = context_of(ctx)
    why = app.answer(reason, f"reason for revoking {name}", "--reason")
    app.confirm(f"revoke every key of {name}, for good?", is_sure=yes)
    ended = app.registry.identities.revoke(name, actor=app.actor, reason=why)
    app.out.emit(
        lambda: [_row(one) for one in ended],
        lambda style: [f"Revoked {style.bold(one.name)}  {style.dim(one.key_id[:12])}" for one in ended],
        hint="loractl identity list",
    )


def _row(one: Identity) -> dict[str, object]:
    return {
        "name": one.name,
        "key_id": one.key_id,
        "roles": list(one.roles),
        "is_trusted": one.is_trusted,
        "is_revoked": one.is_revoked,
        "is_here": one.is_here,
        "public_key": one.public_key,
        "account": None if one.account is None else payloads.plain(one.account),
    }


def _state(one: Identity) -> str:
    if one.is_trusted:
        return "trusted"
    return "revoked" if one.is_revoked else "not trusted"


def _cells(one: Identity) -> tuple[str, ...]:
    where = "none: an account" if one.account is not None else "here" if one.is_here else ""
    return one.name, _state(one), ", ".join(one.roles), where, one.key_id[:12]


def _detail(found: Sequence[Identity], style: Style) -> Iterator[str]:
    for one in found:
        rows = [("name", one.name), ("state", _state(one)), ("roles", ", ".join(one.roles)), ("key", one.key_id)]
        if one.account is not None:
            held = one.account
            where = [("account", held.subject), ("issuer", held.issuer), ("trusted root", held.trusted_root)]
        else:
            where = [("private key", "here" if one.is_here else "elsewhere")]
        yield from facts([*rows, *where], style)
        yield from (one.public_key or "").splitlines()


def _export(found: Sequence[Identity], out: Path) -> None:
    usable = [one.public_key for one in found if not one.is_revoked and one.public_key is not None]
    if len(usable) != 1:
        name = found[0].name
        raise CliUsageError(
            f"{name} has {len(usable)} usable keys, not one", hint=f"see them: loractl identity show {name}"
        )
    out.expanduser().write_text(usable[0])
