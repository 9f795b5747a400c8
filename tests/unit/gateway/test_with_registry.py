"""The gateway over a real registry that another connection changes while it serves."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.gateway import Client, lifespan, until
from support.registry import write_adapter, write_base

from loractl.engine.fake import FakeEngine, FakeServer
from loractl.gateway import Gateway, Reconciler, ReconcilerTimes, ServedRegistry
from loractl_registry import AdapterVersion, Ref, Registry, Stage

pytestmark = pytest.mark.anyio


@dataclass
class Shop:
    registry: Registry
    engine: FakeEngine
    reconciler: Reconciler
    gateway: Gateway
    client: Client

    def live(self, name: str, folder: Path) -> AdapterVersion:
        """Add a version and climb with it to live."""
        version = self.registry.add(name, str(folder), actor="ada").version
        ref = Ref(version.ref.name, version.ref.number)
        return self.registry.promote(ref, actor="ada", to=Stage.LIVE, reason="test").version


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    home = tmp_path / "home"

    def verify(version: AdapterVersion) -> str | None:
        with Registry.open(home, must_exist=True) as registry:
            found = registry.verify([Ref(version.ref.name, version.ref.number)])[0]
        return None if found.is_intact else ", ".join(damage.path for damage in found.damaged)

    with Registry.open(home) as registry:
        registry.add_base("base", str(write_base(tmp_path / "base")), actor="ada")
        engine = FakeEngine()
        reconciler = Reconciler(
            engine=engine,
            registry=ServedRegistry(
                lambda: Registry.open(home, must_exist=True), home / "registry.db", "base", "loractl serve"
            ),
            refusal_of=lambda _: None,
            verify=verify,
            times=ReconcilerTimes(grace_s=0.3),
        )
        gateway = Gateway(FakeServer(engine), reconciler=reconciler)
        yield Shop(registry, engine, reconciler, gateway, Client(gateway))


def meaning(shop: Shop, name: str) -> str | None:
    target = shop.reconciler.table.resolve(name)
    return None if target is None else target.model


async def test_verbs_reach_the_server_within_a_second(shop: Shop, tmp_path: Path) -> None:
    shop.live("bot", write_adapter(tmp_path / "1", seed=1))
    took = []
    async with lifespan(shop.gateway):
        assert meaning(shop, "bot") == "bot@1"

        shop.live("bot", write_adapter(tmp_path / "2", seed=2))
        took.append(await until(lambda: meaning(shop, "bot") == "bot@2"))
        shop.registry.revoke(Ref("bot", 2), actor="ada", reason="test")
        took.append(await until(lambda: meaning(shop, "bot@2") is None))
        assert meaning(shop, "bot") is None
        shop.registry.rollback("bot", actor="ada")
        took.append(await until(lambda: meaning(shop, "bot") == "bot@1"))
        shop.registry.retire(Ref("bot", 1), actor="ada", reason="test")
        took.append(await until(lambda: meaning(shop, "bot@1") is None))
        await until(lambda: not shop.engine.loaded())

    assert max(took) < 1


async def test_flipped_byte_is_refused_and_stands_in_the_audit_log(shop: Shop, tmp_path: Path) -> None:
    version = shop.live("bot", write_adapter(tmp_path / "1", seed=1))
    shop.live("other", write_adapter(tmp_path / "2", seed=2))
    file = version.path / "adapter_model.safetensors"
    async with lifespan(shop.gateway):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.chmod(0o644)
        file.write_bytes(data)
        refused, other = await shop.client.ask("bot"), await shop.client.ask("other")
        await until(lambda: shop.registry.history("bot")[-1].action == "adapter.refused")

    event = shop.registry.history("bot")[-1]
    assert (refused.status, other.status) == (404, 200)
    assert (event.subject, event.actor, event.to_stage) == ("bot@1", "loractl serve", None)
    assert "adapter_model.safetensors" in str(event.detail)


async def test_writer_that_holds_the_lock_keeps_nobody_waiting(shop: Shop, tmp_path: Path) -> None:
    shop.live("bot", write_adapter(tmp_path / "1", seed=1))
    async with lifespan(shop.gateway):
        with sqlite3.connect(tmp_path / "home" / "registry.db", isolation_level=None) as writer:
            writer.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            while time.monotonic() - began < 0.5:
                assert (await shop.client.ask("bot")).status == 200
                assert shop.reconciler.trouble() is None
            writer.execute("ROLLBACK")
        writer.close()


async def test_database_that_was_put_back_from_a_backup_is_followed(shop: Shop, tmp_path: Path) -> None:
    shop.live("bot", write_adapter(tmp_path / "1", seed=1))
    backup = shop.registry.backup(tmp_path / "backup.db")
    shop.live("bot", write_adapter(tmp_path / "2", seed=2))
    shop.registry.close()
    async with lifespan(shop.gateway):
        assert meaning(shop, "bot") == "bot@2"
        for name in ("registry.db-wal", "registry.db-shm"):
            (tmp_path / "home" / name).unlink(missing_ok=True)
        backup.replace(tmp_path / "home" / "registry.db")

        await until(lambda: meaning(shop, "bot") == "bot@1" and meaning(shop, "bot@2") is None)
