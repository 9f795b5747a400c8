"""``loractl sign``: one's own signature over the files of a version that is here already."""

from __future__ import annotations

import typer

from loractl.cli import payloads
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.params import RefArgument

app = new_app("Signatures over files.")


@app.command("sign", cls=Command, epilog="loractl sign support-bot@3")
def sign(ctx: typer.Context, ref: RefArgument) -> None:
    """Sign the stored files of a version, beside who added it.

    For a policy that asks for signatures of several people. The files are hashed first. Nothing moves.
    """
    app = context_of(ctx)
    signed = app.registry.sign_files(ref, actor=app.actor)
    about = f"the files of {signed.version.ref}, as {signed.identity}"
    app.out.emit(
        lambda: (
            payloads.version_row(signed.version)
            | {
                "by": signed.identity,
                "signature": signed.signature,
                "statement": signed.statement,
                "is_new": signed.is_new,
            }
        ),
        lambda style: [f"{style.bold('Signed') if signed.is_new else 'Already signed:'} {about}"],
        hint=f"loractl show {signed.version.ref}",
    )
