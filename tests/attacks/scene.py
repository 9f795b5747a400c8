"""Where attacks take place: a real home with a small team in it, copied for each of them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from unittest import mock

from support.cli import Result, clean_environment
from support.registry import write_adapter, write_base
from support.tampering import DATABASE

from loractl.cli import main
from loractl_registry import Ref, Registry, Stage
from loractl_registry.clock import utc_now

BASE = "tiny-moe"
REVIEWED = """\
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["role:reviewer"]
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[adapter.live]
by = ["role:operator"]
"""
ROLES = {"rita": ("reviewer",), "oscar": ("operator",), "carl": ("contributor",), "olga": ("auditor",)}
"""Who is trusted beside ada, the first identity, who added everything. eve has a key that nobody trusts."""


@dataclass
class Request:
    """What a client sends."""

    method: str = "POST"
    path: str = "/v1/completions"
    body: object = field(default_factory=lambda: {"model": "bot", "prompt": "hello"})
    headers: list[tuple[bytes, bytes]] | None = None
    raw_path: bytes | None = None
    kind: str = "http"


@dataclass
class Scene:
    """One copy of the world, and everything that a deed can change about what is done in it.

    Attributes:
        folder: A good adapter that nobody has added yet.
        base: The files of the base.
        archive: What ``loractl export`` wrote elsewhere.
        file: Evidence that somebody gives.
        outsider: Another home, with a chain of its own and versions of the same names.
        identity: Who acts, None for whoever the act says.
        name: The name that something new gets.
        sql: What is run with sqlite3, and the triggers in place.
        during: Done while the server is up.
        wire: The bytes that a client writes to the socket.
        passes: A header that is to reach the engine.
        clock: What time it is.
        environ: More variables of the commands.
    """

    root: Path
    identity: str | None = None
    name: str = "novel"
    key_file: Path | None = None
    sql: str = "UPDATE base SET path = path"
    request: Request = field(default_factory=Request)
    during: Callable[[], object] | None = None
    wire: bytes = b""
    passes: tuple[bytes, bytes] = (b"user-agent", b"curl")
    api_key: str | None = None
    clock: Callable[[], datetime] = utc_now
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def folder(self) -> Path:
        return self.root / "adapters" / "novel"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def archive(self) -> Path:
        return self.root / "extra.tar"

    @property
    def outsider(self) -> Path:
        return self.root / "outsider"

    @property
    def file(self) -> Path:
        return self.root / "results.json"

    @property
    def policy(self) -> Path:
        return self.home / "policy.toml"

    def key(self, name: str) -> Path:
        """Return where the private key of an identity lies."""
        return self.home / "keys" / f"{name}.pem"

    def public_key(self, name: str) -> Path:
        """Return where the public key of an identity lies."""
        return self.home / "keys" / f"{name}.pem.pub"

    def opened(self, identity: str = "ada") -> Registry:
        """Open the home as an identity."""
        return Registry.open(self.home, identity=identity, clock=self.clock)

    def stored(self, name: str) -> Path:
        """Return the stored folder of version 1 of `name`, made writable."""
        with self.opened() as registry:
            path = registry.version(Ref(name, 1)).path
        for each in (path, *path.iterdir()):
            each.chmod(0o755 if each.is_dir() else 0o644)
        return path

    def go_live(self, name: str, *, number: int = 1, until: Stage = Stage.LIVE) -> None:
        """Take a version of `name` up as the policy asks for."""
        climb(self.home, Ref(name, number), until, self.clock)

    def run(self, argv: list[str], by: str) -> Result:
        """Run ``loractl`` in this process, without a terminal, as the one who acts or else as `by`."""
        out, err = io.StringIO(), io.StringIO()
        who = self.identity or by
        environment = clean_environment(self.home, LORACTL_IDENTITY=who, LORACTL_ACTOR=who)
        with (
            mock.patch.dict(os.environ, environment | self.environ, clear=True),
            mock.patch.object(sys, "argv", ["loractl", *argv]),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main()
        return Result(int(code), out.getvalue(), err.getvalue())

    def contents(self) -> Mapping[str, list[dict[str, object]]]:
        """Return every row of the database, less what is a cache of stat calls."""
        with contextlib.closing(sqlite3.connect(self.home / DATABASE)) as connection:
            connection.row_factory = sqlite3.Row
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            rows = {table: map(dict, connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables}
        return {
            table: [{key: value for key, value in row.items() if key != "signatures"} for row in found]
            for table, found in rows.items()
        }


def climb(home: Path, ref: Ref, until: Stage, clock: Callable[[], datetime] = utc_now) -> None:
    """Take a version up: ada to candidate, rita to approved, oscar to live."""
    with (
        Registry.open(home, identity="ada", clock=clock) as ada,
        Registry.open(home, identity="rita", clock=clock) as rita,
        Registry.open(home, identity="oscar", clock=clock) as oscar,
    ):
        ada.promote(ref, actor="ada", to=Stage.CANDIDATE)
        if until.is_servable:
            rita.approve(ref, actor="rita", reason="read its answers")
            rita.promote(ref, actor="rita")
        if until is Stage.LIVE:
            oscar.promote(ref, actor="oscar")


def revoking(name: str) -> Callable[[Scene], None]:
    """Have ada revoke the keys of an identity."""

    def do(scene: Scene) -> None:
        with scene.opened() as ada:
            ada.identities.revoke(name, actor="ada", reason="left")

    return do


def build_world(root: Path) -> Path:
    """Make the world that every scene is a copy of."""
    write_base(root / "base")
    for seed, name in enumerate(("bot", "sly", "gone", "other", "raw", "extra", "novel"), 1):
        write_adapter(root / "adapters" / name, seed=seed, on_experts=True)
    _build_home(root)
    with Registry.open(root / "outsider") as outsider:
        outsider.add_base(BASE, str(root / "base"), actor="eve")
        for name in ("bot", "sly"):
            outsider.add(name, str(root / "adapters" / name), actor="eve")
            outsider.promote(Ref(name, 1), actor="eve", to=Stage.LIVE)
        outsider.add("extra", str(root / "adapters" / "extra"), actor="eve")
        outsider.export([Ref("extra", 1)], root / "extra.tar")
    return root


def _build_home(root: Path) -> None:
    home = root / "home"
    with Registry.open(home, identity="ada") as ada:
        for name in ("ada", *ROLES, "eve"):
            ada.identities.create(name, actor="ada")
        for name, roles in ROLES.items():
            ada.identities.trust(name, home / f"keys/{name}.pem.pub", roles, actor="ada")
        ada.add_base(BASE, str(root / "base"), actor="ada", licence="Apache-2.0")
        (home / "policy.toml").write_text(REVIEWED)
        for name in ("bot", "sly", "gone", "other", "raw"):
            ada.add(name, str(root / "adapters" / name), actor="ada")
        for name, until in (("bot", Stage.LIVE), ("sly", Stage.CANDIDATE), ("gone", Stage.LIVE), ("other", Stage.LIVE)):
            climb(home, Ref(name, 1), until)
        ada.revoke(Ref("gone", 1), actor="ada", reason="leaks names")


def copy_of(world: Path, root: Path) -> Scene:
    """Return a scene on a copy of `world` below `root`."""
    shutil.copytree(world, root, symlinks=True)
    for home in (root / "home", root / "outsider"):
        with contextlib.closing(sqlite3.connect(home / DATABASE)) as connection, connection:
            connection.execute("UPDATE base SET path = ?", (str(root / "base"),))
    return Scene(root)
