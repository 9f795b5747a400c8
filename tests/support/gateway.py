"""A registry in memory, and a gateway over the fake engine that tests talk to without or with a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from loractl.engine.fake import FakeEngine, FakeServer
from loractl.fairness import AdmissionController, Capacity, Limits, Policy
from loractl.gateway import Gateway, GatewaySettings, Reconciler, ReconcilerTimes, ServedRegistry
from loractl.gateway.asgi import ASGIApp, Message
from loractl.gateway.callers import Door
from loractl.gateway.controls import Controls
from loractl.gateway.exchange import Journal, RecordSink
from loractl.gateway.keeping import Keeping
from loractl.gateway.live import LiveState
from loractl.gateway.table import RefusalOf
from loractl.observability.metrics import Metrics
from loractl.observability.record import RequestRecord
from loractl.observability.snapshot import Snapshot
from loractl.serving.connections import BoundedProtocol
from loractl_registry import (
    AdapterFacts,
    AdapterVersion,
    Base,
    ExpertLayout,
    NotFoundError,
    Provenance,
    ServingSnapshot,
    ServingTerms,
    Stage,
    VersionRef,
)
from loractl_registry.tenancy import ApiKey, Pepper, TenancySnapshot, Tenant, create_key

ADDED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TERMS = ServingTerms(("*",), (), "sha256:" + "5" * 64)
FAST = ReconcilerTimes(poll_s=0.005, look_s=0.02, grace_s=0.2, drain_s=0.05, retry_s=0.05)


def ref_of(text: str) -> VersionRef:
    """Parse ``name@3``."""
    name, _, number = text.partition("@")
    return VersionRef(name, int(number))


def make_base(name: str = "base") -> Base:
    """Return a base that needs no files."""
    return Base(name, "sha256:" + "b" * 64, Path("/nowhere"), "/nowhere", None, 1, 1, ADDED_AT, "ann", {})


def make_version(ref: str, stage: Stage, *, root: Path = Path("/nowhere"), rank: int = 8) -> AdapterVersion:
    """Return a version whose folder would be below `root`."""
    facts = AdapterFacts(rank, 16.0, ("experts",), ExpertLayout.FUSED, 2, "bfloat16", "base")
    digest = f"sha256:{abs(hash(ref)):064x}"
    return AdapterVersion(
        ref_of(ref), stage, digest, root / ref, 4, "base", None, facts, Provenance("test"), ADDED_AT, "ann"
    )


def make_snapshot(
    *versions: AdapterVersion, previously: Mapping[str, tuple[int, ...]] | None = None, sequence: int = 1
) -> ServingSnapshot:
    """Return a snapshot with the servable ones of `versions`, as a registry would."""
    servable = sorted((version for version in versions if version.stage.is_servable), key=lambda version: version.ref)
    terms = {version.ref: TERMS for version in servable}
    return ServingSnapshot(sequence, make_base(), tuple(servable), previously or {}, terms=terms)


class MemoryTenancy:
    """Obeys `TenancySource`.

    Attributes:
        failure: Raised by every call while it is set.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.failure: Exception | None = None
        self._changed = changed
        self._pepper = Pepper(b"p" * 32)
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[str, ApiKey] = {}
        self._refused: dict[str, str] = {}

    def add(self, name: str, *adapters: str, **said: object) -> dict[str, str]:
        """Add a tenant, or change it, and return the header with a new key of it."""
        self._tenants[name] = Tenant(name, ADDED_AT, "ann", adapters or ("*",), ("*",), **said)  # type: ignore[arg-type]
        shown, key = create_key(name, pepper=self._pepper, actor="ann", at=ADDED_AT)
        self._keys[key.prefix] = key
        self._changed()
        return {"authorization": f"Bearer {shown.reveal()}"}

    def remove(self, name: str) -> None:
        """Take a tenant away, and its keys."""
        del self._tenants[name]
        self._keys = {prefix: key for prefix, key in self._keys.items() if key.tenant != name}
        self._changed()

    def refuse(self, name: str, reason: str) -> None:
        """Let a tenant be one whose row was edited."""
        self._refused[name] = reason
        self.remove(name)

    def snapshot(self) -> TenancySnapshot:
        """Return them as they are."""
        if self.failure is not None:
            raise self.failure
        return TenancySnapshot(dict(self._tenants), tuple(self._keys.values()), dict(self._refused))

    def pepper(self) -> Pepper:
        """Return the one that it was made with."""
        if self.failure is not None:
            raise self.failure
        return self._pepper


class MemoryRegistry:
    """Obeys `RegistrySource` for any number of threads; its versions have real files, and its database is a real file.

    Attributes:
        database: Must exist for it to be read.
        refusals: What was written with `record_refusal`: ref and reason.
        tenancy: Its tenants.
        failure: Raised by every reading call while it is set.
        hold: Every reading call waits while this is locked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "registry.db"
        self.database.touch()
        self.refusals: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self.audit_failure: Exception | None = None
        self.hold = threading.Lock()
        self.opened = 0
        self._lock = threading.Lock()
        self._sequence = 1
        self._stages: dict[str, Stage] = {}
        self._ranks: dict[str, int] = {}
        self._was_live: dict[str, list[int]] = {}
        self.tenancy = MemoryTenancy(self._commit)

    def open(self) -> MemoryRegistry:
        """Return itself, as one more connection."""
        self.opened += 1
        return self

    def close(self) -> None:
        """Nothing is held."""

    def set(self, ref: str, stage: Stage, *, rank: int = 8) -> AdapterVersion:
        """Put a version into a stage, writing its files if it is new; a live one replaces the live one."""
        parsed = ref_of(ref)
        with self._lock:
            folder = self.root / ref
            if ref not in self._stages:
                folder.mkdir()
                (folder / "adapter_model.safetensors").write_bytes(ref.encode())
            if stage is Stage.LIVE:
                for other, held in self._stages.items():
                    if held is Stage.LIVE and ref_of(other).name == parsed.name and other != ref:
                        self._stages[other] = Stage.APPROVED
                        self._was_live.setdefault(parsed.name, []).insert(0, ref_of(other).number)
            self._stages[ref] = stage
            self._ranks[ref] = rank
            self._commit()
        return make_version(ref, stage, root=self.root, rank=rank)

    def file(self, ref: str) -> Path:
        """Return the one file of a version."""
        return self.root / ref / "adapter_model.safetensors"

    def verify(self, version: AdapterVersion) -> str | None:
        """Say whether the file of `version` is what was written."""
        found = self.file(str(version.ref)).read_bytes()
        return None if found == str(version.ref).encode() else "adapter_model.safetensors: expected other bytes"

    def changes(self) -> int:
        """Return a number that grows with every change."""
        with self.hold:
            if self.failure is not None:
                raise self.failure
            return self._sequence

    def snapshot(self, base: str) -> ServingSnapshot:
        """Return what may answer."""
        with self.hold, self._lock:
            if self.failure is not None:
                raise self.failure
            if base != "base":
                raise NotFoundError(f"no base {base}")
            versions = [
                make_version(ref, stage, root=self.root, rank=self._ranks[ref]) for ref, stage in self._stages.items()
            ]
            previously = {
                name: tuple(number for number in numbers if self._stages[f"{name}@{number}"] is Stage.APPROVED)
                for name, numbers in self._was_live.items()
            }
            return make_snapshot(*versions, previously=previously, sequence=self._sequence)

    def record_refusal(self, ref: VersionRef, *, actor: str, reason: str, detail: Mapping[str, object]) -> None:
        """Remember it, as one more change."""
        if self.audit_failure is not None:
            raise self.audit_failure
        with self._lock:
            self.refusals.append((str(ref), reason))
            self._commit()

    def _commit(self) -> None:
        self._sequence += 1
        with self.database.open("ab") as file:
            file.write(b".")


def no_refusal(_: AdapterVersion) -> str | None:
    """Take everything."""
    return None


def rank_limit(limit: int) -> RefusalOf:
    """Return a plan that takes ranks up to `limit`."""

    def refusal_of(version: AdapterVersion) -> str | None:
        if version.facts.rank <= limit:
            return None
        return (
            f"its rank {version.facts.rank} is above the {limit} that the engine was planned for; a restart would plan"
        )

    return refusal_of


@dataclass
class Answer:
    """One whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        """Parse the body."""
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, object]]:
        """The events of a stream, without the closing mark."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        return [json.loads(line) for line in lines if line != "[DONE]"]


@dataclass
class Call:
    """One request that is under way.

    Attributes:
        messages: What was sent to the client so far.
        gone: Set to make the client disconnect.
    """

    messages: list[Message] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def answer(self) -> Answer:
        """Wait for the end and return all of it."""
        assert self.task is not None
        await asyncio.wait_for(self.task, 10)
        start = next(message for message in self.messages if message["type"] == "http.response.start")
        body = b"".join(message.get("body", b"") for message in self.messages)  # type: ignore[misc]
        pairs = {name.decode(): value.decode() for name, value in start["headers"]}  # type: ignore[attr-defined]
        return Answer(start["status"], pairs, body)  # type: ignore[arg-type]

    async def begun(self, num_messages: int = 2) -> None:
        """Wait until so many messages have come."""
        async with asyncio.timeout(10):
            while len(self.messages) < num_messages:
                await asyncio.sleep(0.001)


@dataclass
class Client:
    """Speaks ASGI to an app, with every byte of the request in the test's hand."""

    app: ASGIApp
    extra: list[tuple[bytes, bytes]] = field(default_factory=list)

    def begin(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        *,
        headers: list[tuple[bytes, bytes]] | None = None,
        raw_path: bytes | None = None,
        **scope: object,
    ) -> Call:
        """Send one request and return it under way."""
        call = Call()
        if headers is None:
            headers = [(b"content-type", b"application/json")] if method == "POST" else []
        whole: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode() if raw_path is None else raw_path,
            "root_path": "",
            "query_string": b"",
            "headers": [*headers, *self.extra],
            **scope,
        }
        chunks = [body] if isinstance(body, bytes) else list(body)
        pending = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]

        async def receive() -> Message:
            if pending:
                return pending.pop(0)
            await call.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            call.messages.append(message)

        call.task = asyncio.create_task(self.app(whole, receive, send))  # type: ignore[arg-type]
        return call

    async def get(self, path: str, **options: object) -> Answer:
        """GET `path`."""
        return await self.begin("GET", path, **options).answer()  # type: ignore[arg-type]

    async def post(self, path: str, body: object, **options: object) -> Answer:
        """POST `body` as JSON, or as it is if it is bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.begin("POST", path, raw, **options).answer()  # type: ignore[arg-type]

    async def ask(self, model: str, **fields: object) -> Answer:
        """POST a completion for `model`."""
        return await self.post("/v1/completions", {"model": model, "prompt": "hello", **fields})

    def begin_stream(self, model: str, **fields: object) -> Call:
        """Begin a streamed completion."""
        body = {"model": model, "prompt": "hello", "stream": True, **fields}
        return self.begin("POST", "/v1/completions", json.dumps(body).encode())

    def with_key(self, authorization: Mapping[str, str]) -> Client:
        """Return a client that sends a key with every request."""
        return replace(self, extra=[(name.encode(), value.encode()) for name, value in authorization.items()])

    async def models(self) -> list[str]:
        """Return the ids of ``/v1/models``."""
        listed = (await self.get("/v1/models")).json()
        return [entry["id"] for entry in listed["data"]]  # type: ignore[index]


@dataclass
class MemoryRecords:
    """Obeys `RecordSink`."""

    kept: list[RequestRecord] = field(default_factory=list)

    def put(self, record: RequestRecord) -> bool:
        """Keep it."""
        self.kept.append(record)
        return True


@dataclass
class House:
    """A gateway that runs, and everything around it."""

    registry: MemoryRegistry
    engine: FakeEngine
    server: FakeServer
    reconciler: Reconciler
    controls: Controls
    records: MemoryRecords
    gateway: Gateway
    client: Client

    @property
    def numbers(self) -> Snapshot:
        """What was counted so far."""
        return self.controls.numbers()


def make_controls(
    engine: FakeEngine,
    *,
    keeping: Keeping | None = None,
    records: RecordSink | None = None,
    metrics: Metrics | None = None,
    limits: Limits | None = None,
    policy: Policy = Policy.VTC,
    **door: object,
) -> Controls:
    """Return what requests pass, without quotas that outlive it."""
    keeping, doorman = keeping or Keeping(), Door(**door)  # type: ignore[arg-type]
    admission = AdmissionController(
        capacity=lambda: Capacity(engine.max_num_seqs), weight_of=doorman.weight_of, limits=limits, policy=policy
    )
    return Controls(doorman, keeping.quotas, admission, Journal(metrics or Metrics(), records))


def make_house(
    root: Path,
    *,
    engine: FakeEngine | None = None,
    refusal_of: RefusalOf = no_refusal,
    times: ReconcilerTimes = FAST,
    settings: GatewaySettings | None = None,
    registry: MemoryRegistry | None = None,
    keeping: Keeping | None = None,
    records: RecordSink | None = None,
    **options: object,
) -> House:
    """Put a gateway together that does not run yet; `options` are those of `make_controls`."""
    registry = registry or MemoryRegistry(root)
    engine, memory, keeping = engine or FakeEngine(), MemoryRecords(), keeping or Keeping()
    controls = make_controls(engine, keeping=keeping, records=records or memory, **options)  # type: ignore[arg-type]
    reconciler = Reconciler(
        engine=engine,
        registry=ServedRegistry(registry.open, registry.database, "base", "loractl serve"),
        refusal_of=refusal_of,
        verify=registry.verify,
        controls=controls,
        times=times,
    )
    server = FakeServer(engine)
    live = LiveState(controls, slots=8, fairness="vtc")
    gateway = Gateway(server, reconciler=reconciler, controls=controls, live=live, keeping=keeping, settings=settings)
    return House(registry, engine, server, reconciler, controls, memory, gateway, Client(gateway))


def in_front_of(
    engine: FakeEngine,
    registry: ServedRegistry,
    verify: Callable[[AdapterVersion], str | None],
    *,
    times: ReconcilerTimes | None = None,
    settings: GatewaySettings | None = None,
    **options: object,
) -> tuple[Gateway, Reconciler, FakeServer]:
    """Put a gateway over a real registry together; `options` are those of `make_controls`."""
    controls, server = make_controls(engine, **options), FakeServer(engine)  # type: ignore[arg-type]
    reconciler = Reconciler(
        engine=engine,
        registry=registry,
        refusal_of=no_refusal,
        verify=verify,
        controls=controls,
        times=times or ReconcilerTimes(grace_s=0.3),
    )
    live = LiveState(controls, slots=8, fairness="vtc")
    gateway = Gateway(server, reconciler=reconciler, controls=controls, live=live, settings=settings)
    return gateway, reconciler, server


@contextlib.asynccontextmanager
async def running(house: House) -> AsyncGenerator[House]:
    """Carry `house` through its lifespan."""
    async with lifespan(house.gateway):
        yield house


@contextlib.asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncGenerator[None]:
    """Start and stop an ASGI app as a server would."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, inbox.get, outbox.put))  # type: ignore[arg-type]
    await inbox.put({"type": "lifespan.startup"})
    started = await asyncio.wait_for(outbox.get(), 10)
    try:
        if started["type"] != "lifespan.startup.complete":
            raise RuntimeError(str(started.get("message")))
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], bool], *, within_s: float = 5.0) -> float:
    """Wait until `condition` holds; return how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"still not so after {within_s} s")
        await asyncio.sleep(0.002)
    return time.monotonic() - began


@contextlib.contextmanager
def on_loopback(app: object) -> Generator[str]:
    """Serve `app` with uvicorn on a free port of this machine; yield its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=BoundedProtocol, log_level="warning", lifespan="on", ws="none")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def restage(version: AdapterVersion, stage: Stage) -> AdapterVersion:
    """Return `version` in another stage."""
    return replace(version, stage=stage)
