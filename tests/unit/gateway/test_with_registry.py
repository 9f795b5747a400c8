"""The gateway over a real registry that another connection changes while it serves."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.gateway import Client, in_front_of, lifespan, until
from support.registry import write_adapter, write_base
from support.tampering import (
    CUT,
    FLIP,
    RENAME,
    REORDER,
    REPLAY,
    SWAP,
    UNREVOKE,
    WIPE,
    copied,
    made_older,
    restored,
    run_sql,
)

from loractl.engine.fake import FakeEngine
from loractl.gateway import Gateway, Reconciler, ServedRegistry
from loractl.gateway.watch import RegistryWatch
from loractl_registry import AdapterVersion, ProvenanceInput, Ref, Registry, Stage
from loractl_registry.provenance import DataSetTerms

pytestmark = pytest.mark.anyio

EXPIRING = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["anyone"]
expires_days = 1
[adapter.live]
by = ["anyone"]
"""


@dataclass
class Shop:
    registry: Registry
    engine: FakeEngine
    reconciler: Reconciler
    gateway: Gateway
    client: Client

    def fill(self, tmp_path: Path) -> None:
        """Two live versions, a candidate and one that was revoked."""
        for seed, name in enumerate(("bot", "other", "gone"), 1):
            self.live(name, write_adapter(tmp_path / str(seed), seed=seed))
        self.registry.revoke(Ref("gone", 1), actor="ada", reason="test")
        self.registry.add("sly", str(write_adapter(tmp_path / "sly", seed=9)), actor="ada")
        self.registry.promote(Ref("sly", 1), actor="ada", to=Stage.CANDIDATE)

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
        served = ServedRegistry(
            lambda: Registry.open(home, must_exist=True), home / "registry.db", "base", "loractl serve"
        )
        gateway, reconciler, _ = in_front_of(engine, served, verify)
        yield Shop(registry, engine, reconciler, gateway, Client(gateway))


def forged_promotion(tmp_path: Path, backup: Path, name: str, identity: str) -> tuple[str, ...]:
    """Return SQL that appends what a thief of a key signs in a copy of the home, moved to the end of the real chain."""
    copy = tmp_path / "thief"
    shutil.copytree(tmp_path / "home", copy)
    restored(copy, backup)
    (copy / "checkpoint.json").unlink()
    with Registry.open(copy, identity=identity) as thief:
        thief.identities.checkpoint(actor=identity, reason="forged")
        thief.promote(Ref(name, 1), actor=identity, to=Stage.LIVE)
    with sqlite3.connect(copy / "registry.db") as connection:
        row = connection.execute("SELECT envelope FROM statement ORDER BY sequence DESC LIMIT 1").fetchone()
    connection.close()
    return (
        "INSERT INTO statement SELECT max(sequence) + 1, 'sha256:' || printf('%064d', 3), 'promotion',"
        f" '{name}@1', '{row[0]}' FROM statement",
        f"UPDATE version SET stage = 'live' WHERE name = '{name}'",
    )


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


@pytest.mark.parametrize(
    ("attack", "refused", "said"),
    [
        pytest.param(FLIP, "sly@1", "the signed statements say candidate", id="stage-flipped"),
        pytest.param(SWAP, "bot@1", "the database says content", id="digest-swapped"),
        pytest.param(RENAME, "evil@1", "no signed statement is about it", id="renamed"),
        pytest.param(UNREVOKE, "gone@1", "the signed statements say revoked", id="revoked-raised"),
    ],
)
async def test_row_that_was_edited_is_refused_named_and_written_down(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: tuple[str, ...], refused: str, said: str
) -> None:
    shop.fill(tmp_path)
    async with lifespan(shop.gateway):
        assert (await shop.client.ask("bot")).status == 200

        run_sql(tmp_path / "home", *attack)
        await until(lambda: f"refusing {refused}" in caplog.text)
        answers = [(await shop.client.ask(name)).status for name in (refused, refused.partition("@")[0], "other")]
        await until(lambda: any(event.action == "adapter.refused" for event in shop.registry.history()))

    assert answers == [404, 404, 200]
    assert said in caplog.text
    event = next(event for event in shop.registry.history() if event.action == "adapter.refused")
    assert (event.subject, event.actor) == (refused, "loractl serve")
    assert said in str(event.detail["objection"])


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        pytest.param(REPLAY, "stands where sequence", id="statement-replayed"),
        pytest.param(REORDER, "the database tells another story|saw|stands where", id="reordered"),
        pytest.param(CUT, "a signed checkpoint has seen", id="cut"),
        pytest.param(WIPE, "a signed checkpoint has seen", id="wiped"),
    ],
)
async def test_chain_that_was_edited_leaves_the_base_alone_at_start(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: tuple[str, ...], said: str
) -> None:
    shop.fill(tmp_path)
    run_sql(tmp_path / "home", *attack)

    async with lifespan(shop.gateway):
        answers = [(await shop.client.ask(name)).status for name in ("bot", "bot@1", "other", "base")]
        trouble = shop.reconciler.trouble()

    assert answers == [404, 404, 404, 200]
    assert any(word in caplog.text for word in said.split("|"))
    assert trouble is not None
    assert "cannot be trusted" in trouble


async def test_statement_by_a_key_that_was_revoked_lets_nothing_answer(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    shop.fill(tmp_path)
    shop.registry.identities.create("eve", actor="ada")
    with Registry.open(home, identity="ada") as ada:
        ada.identities.trust("eve", home / "keys/eve.pem.pub", ["reviewer", "operator"], actor="ada")
        backup = copied(home, tmp_path / "backup.db")
        ada.identities.revoke("eve", actor="ada", reason="stolen")
    async with lifespan(shop.gateway):
        assert (await shop.client.ask("bot")).status == 200

        forged = forged_promotion(tmp_path, backup, "sly", "eve")
        run_sql(home, *forged)
        await until(lambda: "the registry cannot be trusted" in caplog.text)
        answers = [(await shop.client.ask(name)).status for name in ("sly", "sly@1", "bot")]

    assert answers == [404, 404, 404]


async def test_database_that_was_put_back_from_a_backup_is_refused_until_it_was_meant(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop.live("bot", write_adapter(tmp_path / "1", seed=1))
    backup = shop.registry.backup(tmp_path / "backup.db")
    shop.live("bot", write_adapter(tmp_path / "2", seed=2))
    shop.registry.close()
    async with lifespan(shop.gateway):
        assert meaning(shop, "bot") == "bot@2"

        restored(tmp_path / "home", backup)
        await until(lambda: meaning(shop, "bot") is None and meaning(shop, "bot@2") is None)
        with Registry.open(tmp_path / "home") as registry:
            registry.identities.checkpoint(actor="ada", reason="restored on purpose")

        await until(lambda: meaning(shop, "bot") == "bot@1" and meaning(shop, "bot@2") is None)

    assert "a signed checkpoint has seen" in caplog.text


async def test_home_in_which_nothing_was_signed_lets_no_adapter_answer(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop.registry.add("bot", str(write_adapter(tmp_path / "1", seed=1)), actor="ada")
    base = "base_id = (SELECT id FROM base)"
    run_sql(tmp_path / "home", f"UPDATE version SET stage = 'live', {base}")
    made_older(tmp_path / "home")
    async with lifespan(shop.gateway):
        refused = await shop.client.ask("bot")
        shop.registry.identities.create("ada", actor="ada")
        await until(lambda: meaning(shop, "bot") == "bot@1")

    assert refused.status == 404
    assert "loractl identity create" in caplog.text


async def test_approval_that_expires_takes_the_name_away_without_a_commit(shop: Shop, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "policy.toml").write_text(EXPIRING)
    shop.live("bot", write_adapter(tmp_path / "1", seed=1))
    watch = RegistryWatch(lambda: Registry.open(home, clock=lambda: now), home / "registry.db", "base", lambda: now)
    now = datetime.now(UTC)
    first = watch.poll().snapshot
    assert first is not None
    assert first.until is not None

    same = watch.poll()
    now = first.until
    last = watch.poll().snapshot
    watch.close()

    assert same.snapshot is None
    assert last is not None
    assert (last.versions, len(last.refused)) == ((), 1)


async def test_broken_glass_is_over_by_itself_while_serving(tmp_path: Path) -> None:
    home, now = tmp_path / "home", datetime.now(UTC)
    (tmp_path / "home").mkdir(mode=0o700)
    with Registry.open(home, clock=lambda: now) as registry:
        registry.add_base("base", str(write_base(tmp_path / "base")), actor="ada")
        (home / "policy.toml").write_text(f'{EXPIRING}[adapter.break_glass]\nby = ["anyone"]\nhours = 1\n')
        registry.add("bot", str(write_adapter(tmp_path / "1", seed=1)), actor="ada")
        registry.break_glass(Ref("bot", 1), actor="ada", reason="night", to=Stage.LIVE)
        engine = FakeEngine()
        served = ServedRegistry(
            lambda: Registry.open(home, clock=lambda: now), home / "registry.db", "base", "serve", lambda: now
        )
        gateway, reconciler, _ = in_front_of(engine, served, lambda _: None)
        async with lifespan(gateway):
            before, loud = await Client(gateway).ask("bot"), await Client(gateway).get("/metrics")
            now += timedelta(hours=1)
            await until(lambda: reconciler.table.resolve("bot") is None and not engine.admitted())
            after, quiet = await Client(gateway).ask("bot@1"), await Client(gateway).get("/metrics")

    assert (before.status, after.status) == (200, 404)
    assert 'loractl_adapter_unreviewed{adapter="bot",version="1"} 1' in loud.body.decode()
    assert "loractl_adapter_unreviewed{" not in quiet.body.decode()


async def test_tenant_uses_what_was_signed_for_it_and_its_classes_of_data(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "home" / "policy.toml").write_text(
        EXPIRING + '[adapter.data.tenants]\npublic = ["*"]\ninternal = ["acme*"]\n'
    )
    for seed, (name, kind) in enumerate((("open", "public"), ("inner", "internal")), 1):
        said = ProvenanceInput(datasets=(DataSetTerms("set", data_class=kind),))
        folder = str(write_adapter(tmp_path / name, seed=seed))
        ref = shop.registry.add(name, folder, actor="ada", provenance=said).version.ref
        shop.registry.promote(Ref(ref.name, ref.number), actor="ada", to=Stage.LIVE)
    may = {"acme-1": ["*"], "acme-2": ["public"], "other": ["*"]}
    keys = {}
    for tenant, classes in may.items():
        shop.registry.tenancy.add(tenant, actor="ada", adapters=["*"], data_classes=classes)
        keys[tenant] = {"authorization": f"Bearer {shop.registry.tenancy.create_key(tenant, actor='ada')[1].reveal()}"}

    async with lifespan(shop.gateway):
        listed = {tenant: await shop.client.with_key(key).models() for tenant, key in keys.items()}
        refused = await shop.client.with_key(keys["other"]).ask("inner")

    assert listed == {
        "acme-1": ["base", "inner", "inner@1", "open", "open@1"],
        "acme-2": ["base", "open", "open@1"],
        "other": ["base", "open", "open@1"],
    }
    assert refused.status == 404
