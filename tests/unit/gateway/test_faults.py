"""What breaks around the gateway: clients, the engine, the registry, disks and clocks; traffic and truth go on."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.gateway import Call, Client, House, MemoryRegistry, MemoryTenancy, make_house, running, until

import loractl
from loractl.engine.fake import FakeEngine
from loractl.gateway import GatewaySettings
from loractl.gateway.asgi import Message, Receive, Scope, Send
from loractl.gateway.keeping import Keeping
from loractl.observability.definitions import IN_FLIGHT, RECORDS_DROPPED, RECORDS_WRITTEN, REQUESTS, WAITING
from loractl.observability.metrics import Metrics
from loractl.observability.outcomes import DropReason, Outcome
from loractl.observability.records import RecordLimits, RecordWriter
from loractl.quotas import CounterFile, CounterSaving, Quotas
from loractl_registry import Stage
from loractl_registry.tenancy import Limits, create_key

pytestmark = pytest.mark.anyio

LIMITS = Limits(concurrent=5, requests_per_minute=100_000)


def furnished(root: Path, **options: object) -> House:
    house = make_house(root, operator_keys=frozenset({"sesame"}), **options)  # type: ignore[arg-type]
    for ref in ("poet@1", "clerk@1"):
        house.registry.set(ref, Stage.LIVE)
    return house


def with_tenant(house: House, name: str = "acme", *adapters: str) -> Client:
    return house.client.with_key(house.registry.tenancy.add(name, *adapters, limits=LIMITS))


def is_all_free(house: House) -> bool:
    admission, numbers = house.controls.admission, house.numbers
    free = [gauge.remaining for gauge in house.controls.quotas.standing("acme", "poet") if gauge.kind == "concurrent"]
    held = admission.waiting, admission.in_flight, numbers.total(WAITING), numbers.total(IN_FLIGHT)
    return held == (0, 0, 0, 0) and free in ([], [5]) and house.engine.running() == 0 and house.engine.counts == {}


async def ended(call: Call) -> None:
    assert call.task is not None
    await asyncio.wait_for(asyncio.shield(call.task), 5)


class Reader:
    """A client that takes `room` messages and then leaves no room for more."""

    def __init__(self, house: House, client: Client, *, room: int, stream: bool = True) -> None:
        self.taken: list[Message] = []
        self.gone, self._is_full, self._room = asyncio.Event(), asyncio.Event(), room
        self._body = json.dumps({"model": "poet", "prompt": "x", "max_tokens": 1000, "stream": stream}).encode()
        headers = [(b"content-type", b"application/json"), *client.extra]
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "raw_path": b"/v1/completions",
            "headers": headers,
        }
        self.task = asyncio.create_task(house.gateway(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.taken.append(message)
        if len(self.taken) > self._room:
            self._is_full.set()
            await self.gone.wait()

    async def is_full(self) -> None:
        await asyncio.wait_for(self._is_full.wait(), 5)


async def test_client_that_stops_reading_gets_no_more_and_frees_its_place_when_it_goes(tmp_path: Path) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    async with running(house):
        reader = Reader(house, acme, room=5)
        await reader.is_full()
        await asyncio.sleep(0.05)
        taken, held = len(reader.taken), house.controls.admission.in_flight
        reader.gone.set()
        await asyncio.wait_for(reader.task, 5)

        assert (taken, held) == (6, 1)
        assert is_all_free(house)
    assert [one.outcome for one in house.records.kept] == [Outcome.DISCONNECTED]


@pytest.mark.parametrize("room", [0, 5])
async def test_client_that_never_reads_again_counts_as_gone(tmp_path: Path, room: int) -> None:
    engine = FakeEngine(max_num_seqs=1)
    house = furnished(tmp_path, engine=engine, settings=GatewaySettings(stall_timeout_s=0.1))
    acme = with_tenant(house)
    async with running(house):
        reader = Reader(house, acme, room=room)
        await reader.is_full()
        waiting = acme.begin("POST", "/v1/completions", b'{"model":"poet","prompt":"y"}')
        await asyncio.wait_for(reader.task, 5)
        answer = await waiting.answer()

        assert is_all_free(house)
    assert answer.status == 200
    assert sorted(one.outcome.value for one in house.records.kept) == ["disconnected", "ok"]


async def test_client_that_reads_slowly_is_waited_for(tmp_path: Path) -> None:
    house = furnished(tmp_path, settings=GatewaySettings(stall_timeout_s=2.0))
    taken: list[Message] = []

    async def slow(message: Message) -> None:
        await asyncio.sleep(0.2)
        taken.append(message)

    async with running(house):
        bodies = [{"type": "http.request", "body": b'{"model":"poet","prompt":"x","max_tokens":12,"stream":true}'}]

        async def receive() -> Message:
            if bodies:
                return bodies.pop()
            await asyncio.sleep(60)
            raise AssertionError

        headers = [(b"content-type", b"application/json")]
        path = {"path": "/v1/completions", "raw_path": b"/v1/completions"}
        await house.gateway({"type": "http", "method": "POST", "headers": headers, **path}, receive, slow)

    assert taken[-1]["body"] == b"data: [DONE]\n\n"
    assert [one.outcome for one in house.records.kept] == [Outcome.OK]


async def test_body_of_a_hundred_megabytes_is_read_up_to_the_limit(tmp_path: Path) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    async with running(house):
        answer = await acme.begin("POST", "/v1/completions", [b"a" * 2**20] * 100).answer()
        assert is_all_free(house)

    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert [one.outcome for one in house.records.kept] == [Outcome.INVALID]


def dying(house: House, *, after: int, starts: bool = True, is_stream: bool = True) -> Callable[..., object]:
    """Return an engine's server that breaks after so many messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sent = 0

        async def send_some(message: Message) -> None:
            nonlocal sent
            if sent == after:
                raise ConnectionResetError("EngineDeadError: the engine core died, see /secret/path")
            sent += 1
            await send(message)

        await house.server(scope, receive, send_some)

    return app


async def test_engine_that_dies_before_its_answer_is_a_500_of_our_shape(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    async with running(house):
        house.gateway._app = dying(house, after=0)  # type: ignore[assignment]
        answers = [await acme.ask("poet"), await acme.ask("base"), await acme.ask("poet", stream=True)]
        assert is_all_free(house)
        house.gateway._app = house.server

    assert {(one.status, one.json()["error"]["code"]) for one in answers} == {(500, "engine_failed")}  # type: ignore[index]
    assert not any("secret" in one.body.decode() for one in answers)
    assert all(one.headers["x-loractl-request-id"] in caplog.text for one in answers)
    assert [one.outcome for one in house.records.kept] == [Outcome.ENGINE] * 3


@pytest.mark.parametrize("model", ["poet", "base"])
async def test_engine_that_dies_in_a_stream_ends_it_with_an_error(tmp_path: Path, model: str) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    async with running(house):
        house.gateway._app = dying(house, after=4)  # type: ignore[assignment]
        answer = await acme.ask(model, stream=True, max_tokens=50)
        assert is_all_free(house)
        house.gateway._app = house.server

    assert answer.status == 200
    assert answer.events[-1]["error"]["code"] == "engine_failed"  # type: ignore[index]
    assert "secret" not in answer.body.decode()
    assert [(one.outcome, one.output_tokens) for one in house.records.kept] == [(Outcome.ENGINE, 3)]


async def test_error_event_of_the_engine_is_passed_on_and_counted(tmp_path: Path) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    events = [b'data: {"choices":[{"text":"a"}]}\n\n', b'data: {"error":{"message":"EngineCore died","code":500}}\n\n']

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in (*events, b"data: [DONE]\n\n"):
            await send({"type": "http.response.body", "body": event, "more_body": not event.startswith(b"data: [")})

    async with running(house):
        house.gateway._app = failing
        answer = await acme.ask("poet", stream=True)
        assert is_all_free(house)
        house.engine.is_up = False
        health = await house.client.get("/health")
        house.gateway._app = house.server

    assert answer.body.startswith(b"".join(events))
    assert [one.outcome for one in house.records.kept] == [Outcome.ENGINE]
    assert (health.status, health.json()) == (503, {"status": "degraded", "reason": "the engine cannot answer"})


async def test_clients_that_leave_anywhere_leave_nothing(tmp_path: Path) -> None:
    house = furnished(tmp_path, engine=FakeEngine(token_s=0.003, arrival_s=0.003, max_num_seqs=2))
    acme = with_tenant(house)
    async with running(house):
        for delay in range(12):
            calls = [acme.begin_stream("poet", max_tokens=200) for _ in range(4)]
            await asyncio.sleep(delay * 0.002)
            for call in calls:
                call.gone.set()
            for call in calls:
                await ended(call)
            assert is_all_free(house)
        assert house.numbers.total(REQUESTS) == len(house.records.kept) == 48

    assert {one.outcome for one in house.records.kept} == {Outcome.DISCONNECTED}


def locked(registry: MemoryRegistry) -> None:
    registry.failure = sqlite3.OperationalError("database is locked")


def deleted(registry: MemoryRegistry) -> None:
    registry.database.unlink()


def truncated(registry: MemoryRegistry) -> None:
    registry.database.write_bytes(b"")
    registry.failure = sqlite3.DatabaseError("file is not a database")


@pytest.mark.parametrize("harm", [locked, deleted, truncated])
async def test_registry_that_is_lost_closes_no_key_and_opens_no_door(
    tmp_path: Path, harm: Callable[[MemoryRegistry], None]
) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house, "acme", "poet")
    both = with_tenant(house, "both", "poet", "base")
    async with running(house):
        harm(house.registry)
        await asyncio.sleep(0.05)
        within = [(await client.ask("poet")).status for client in (acme, both, house.client)]
        is_told = (await house.client.get("/health")).status
        await until(lambda: house.reconciler.trouble() is not None)
        after = [
            (await client.ask(model)).status for client in (acme, both, house.client) for model in ("poet", "base")
        ]
        health = await house.client.get("/health")

    assert (within, is_told) == ([200, 200, 401], 200)
    assert after == [404, 404, 404, 200, 401, 401]
    assert health.json() == {"status": "degraded", "reason": "the registry cannot be read, so only the base answers"}


async def test_registry_of_nobody_in_its_place_opens_no_door(tmp_path: Path) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    async with running(house):
        registry = house.registry
        registry.tenancy = MemoryTenancy(registry._commit)
        registry.database.rename(tmp_path / "old.db")
        shutil.copy(tmp_path / "old.db", registry.database)
        registry.set("poet@2", Stage.LIVE)
        await until(lambda: not house.controls.door.callers.tenants)
        answers = [await client.ask("base") for client in (house.client, acme)]
        lists = [await house.client.get(path) for path in ("/v1/models", "/metrics", "/loractl/v1/state")]
        operator = await house.client.with_key({"authorization": "Bearer sesame"}).ask("base")

    assert [one.status for one in (*answers, *lists)] == [401] * 5
    assert operator.status == 200


async def test_key_that_has_expired_stays_so_when_the_clock_goes_back(tmp_path: Path) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    house = furnished(tmp_path, clock=lambda: now)
    tenancy = house.registry.tenancy
    with_tenant(house)
    shown, key = create_key("acme", pepper=tenancy._pepper, actor="ann", at=now, expires_at=now + timedelta(hours=1))
    tenancy._keys[key.prefix] = key
    acme = house.client.with_key({"authorization": f"Bearer {shown.reveal()}"})
    async with running(house):
        statuses = []
        for hours in (0, 2, 0, -24):
            now = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(hours=hours)
            statuses.append((await acme.ask("poet")).status)

    assert statuses == [200, 401, 401, 401]


async def test_dropped_records_are_told_to_the_operator_alone_and_health_stays_200(tmp_path: Path) -> None:
    metrics = Metrics()
    house = furnished(tmp_path, metrics=metrics)
    acme = with_tenant(house)
    operator = house.client.with_key({"authorization": "Bearer sesame"})
    async with running(house):
        before = await operator.get("/health")
        metrics.records_dropped(DropReason.DISK, 3)
        metrics.records_dropped(DropReason.LOCKED, 2)
        told, others = await operator.get("/health"), [await one.get("/health") for one in (acme, house.client)]
        state = await operator.get("/loractl/v1/state")
        house.engine.is_up = False
        down = await operator.get("/health")

    assert before.json() == {"status": "ok"}
    assert [one.status for one in (told, *others, down)] == [200, 200, 200, 503]
    assert [one.json() for one in others] == [{"status": "ok"}] * 2
    assert told.json()["status"] == state.json()["health"]["status"] == "degraded"  # type: ignore[index]
    assert "5 records of requests were dropped since the start (disk 3, locked 2)" in str(told.json())
    assert down.json() == {"status": "degraded", "reason": "the engine cannot answer"}


async def test_counters_that_cannot_be_written_stop_no_traffic_and_health_says_so(tmp_path: Path) -> None:
    path = tmp_path / "quotas.db"
    file, quotas = CounterFile.open(path), Quotas()
    file._connection.execute("PRAGMA busy_timeout = 20")
    house = furnished(tmp_path, keeping=Keeping(quotas, CounterSaving(quotas, file, interval_s=0.02)))
    acme = with_tenant(house)
    with sqlite3.connect(path, isolation_level=None) as holder:
        async with running(house):
            holder.execute("BEGIN EXCLUSIVE")
            first = await acme.ask("poet")
            await until(lambda: house.gateway._keeping.trouble() is not None)
            second, health = await acme.ask("poet"), await house.client.get("/health")
            holder.execute("ROLLBACK")
            await until(lambda: house.gateway._keeping.trouble() is None)
            healed = await house.client.get("/health")
    holder.close()

    assert (first.status, second.status) == (200, 200)
    assert (health.status, healed.status) == (503, 200)
    assert "locked" in str(health.json())
    again = CounterFile.open(path)
    saved = again.load()
    again.close()
    assert saved is not None
    assert sum(amount for one in saved.counters for _, amount in one.requests) == 2


async def test_records_without_a_disk_are_dropped_and_counted_and_traffic_goes_on(tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    metrics = Metrics()
    limits = RecordLimits(patience_s=0.0, interval_s=0.01)
    records = RecordWriter(tmp_path / "full" / "requests.db", counters=metrics, limits=limits)
    house = furnished(tmp_path, keeping=Keeping(records=records), records=records, metrics=metrics)
    acme = with_tenant(house)
    async with running(house):
        statuses = {(await acme.ask("poet")).status for _ in range(50)}
        await until(lambda: house.numbers.total(RECORDS_DROPPED) == 50)
        health = await house.client.get("/health")

    assert statuses == {200}
    assert house.numbers.total(RECORDS_WRITTEN) == 0
    assert health.status == 200


async def test_ten_thousand_unknown_keys_and_names_leave_nothing_behind(tmp_path: Path) -> None:
    house = furnished(tmp_path)
    acme = with_tenant(house)
    house.server.is_recording = False

    async def ask(begin: int, count: int) -> set[int]:
        statuses = set()
        for number in range(begin, begin + count):
            key = f"Bearer lora_{number:012x}_{number:064x}"
            statuses.add((await house.client.with_key({"authorization": key}).ask("poet")).status)
            statuses.add((await acme.ask(f"unknown-{number}")).status)
            house.records.kept.clear()
        return statuses

    async with running(house):
        await ask(0, 500)
        gc.collect()
        tracemalloc.start()
        try:
            before, sizes = _ours(), _sizes(house)
            statuses = await ask(500, 10_000)
            grown, after = _ours() - before, _sizes(house)
        finally:
            tracemalloc.stop()
        health = await house.client.get("/health")

    assert statuses == {401, 404}
    assert after == sizes
    assert grown < 64 * 1024
    assert health.status == 200


def _ours() -> int:
    gc.collect()
    folder = f"{Path(loractl.__file__).parent}/*"
    return sum(one.size for one in tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, folder)]).traces)


def _sizes(house: House) -> tuple[int, ...]:
    controls = house.controls
    return (
        len(controls.quotas),
        controls.admission.tenants_known,
        len(controls.door._names),
        len(house.numbers.series),
        len(house.reconciler.flights._by_ref),
        len(house.reconciler.table.targets),
    )
