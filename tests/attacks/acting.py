"""What is done to a scene: a command, a request, a look at what the engine saw, or SQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shlex
import socket
import sqlite3
import time
from collections.abc import Generator
from dataclasses import dataclass
from unittest import mock
from urllib.parse import urlsplit

from attacks.declaring import DONE, Outcome
from attacks.scene import BASE, Request, Scene
from huggingface_hub import constants
from support.files import FakeRepository, files_of, running_hub
from support.gateway import Client, in_front_of, lifespan, on_loopback
from support.tampering import DATABASE

from loractl.engine.fake import FakeEngine, FakeServer
from loractl.gateway import BodyLimits, Gateway, GatewaySettings, ReconcilerTimes, ServedRegistry
from loractl_registry import AdapterVersion, Ref, Registry

MAX_BODY_BYTES = 64 * 2**10
_PATIENCE_S = 5.0
_OK = 200


@dataclass(frozen=True)
class Run:
    """Commands, each after the one before has succeeded.

    Attributes:
        lines: Without ``loractl``; ``{folder}``, ``{name}``, ``{key}``, ``{archive}``, ``{base}``, ``{file}`` are its.
        by: Who runs them, unless the deed made it somebody else.
    """

    lines: tuple[str, ...]
    by: str = "ada"

    @property
    def shown(self) -> str:
        return ", ".join(f"`loractl {re.sub('{.*?}', _placeholder, line)}`" for line in self.lines)

    def __call__(self, scene: Scene) -> Outcome:
        places = {
            "{folder}": str(scene.folder),
            "{name}": scene.name,
            "{key}": str(scene.key_file),
            "{archive}": str(scene.archive),
            "{base}": str(scene.base),
            "{file}": str(scene.file),
        }
        told = ""
        for line in self.lines:
            words = [places.get(word, word) for word in shlex.split(line)]
            end = words.index("--") if "--" in words else len(words)
            result = scene.run([*words[:end], "--json", *words[end:]], self.by)
            told = f"{result.out}\n{result.err}"
            if result.code:
                error = result.error
                return Outcome(error["code"], f"{error['message']}\n{error['hint']}\n{result.out}")
        return Outcome(DONE, told)


def _placeholder(found: re.Match[str]) -> str:
    return found[0].strip("{}").upper()


def run(*lines: str, by: str = "ada") -> Run:
    """Return commands that `by` runs."""
    return Run(lines, by)


@dataclass(frozen=True)
class AddFromHub:
    """``loractl add`` of the scene's folder as a Hub repository holds it."""

    shown: str = "`loractl add novel hf:acme/novel`"

    def __call__(self, scene: Scene) -> Outcome:
        with (
            running_hub() as hub,
            mock.patch.object(constants, "HF_HUB_CACHE", str(scene.root / "hub-cache")),
            mock.patch.object(constants, "HF_TOKEN_PATH", str(scene.root / "no-token")),
        ):
            hub.repositories["acme/novel"] = FakeRepository(files_of(scene.folder))
            scene.environ["HF_ENDPOINT"] = hub.url
            return run("add novel hf:acme/novel")(scene)


@dataclass(frozen=True)
class Sql:
    """SQL on the database, with its triggers in place."""

    shown: str = "`sqlite3 registry.db`"

    def __call__(self, scene: Scene) -> Outcome:
        with contextlib.closing(sqlite3.connect(scene.home / DATABASE)) as connection, connection:
            try:
                connection.execute(scene.sql)
            except sqlite3.IntegrityError as error:
                return Outcome("sqlite3.IntegrityError", str(error))
        return Outcome(DONE, "")


@dataclass(frozen=True)
class Send:
    """The scene's request, to a gateway over the home and a fake engine that takes everything.

    Attributes:
        model: Which model it names, None for the request as it is.
    """

    model: str | None = None

    @property
    def shown(self) -> str:
        return f"`POST /v1/completions` for `{self.model or 'bot'}`"

    def __call__(self, scene: Scene) -> Outcome:
        if self.model is not None:
            scene.request.body = {"model": self.model, "prompt": "hello"}
        with _logged() as log:
            outcome = asyncio.run(_sent(scene))
        return Outcome(outcome.code, f"{outcome.said}\n" + "\n".join(log))


@dataclass(frozen=True)
class SeeHeader:
    """A request with the header that the scene wants passed on, and whether the engine gets it."""

    shown: str = "`POST /v1/completions` with the header"

    def __call__(self, scene: Scene) -> Outcome:
        return asyncio.run(_passed(scene))


@dataclass(frozen=True)
class SeeField:
    """A request with a field that a client may not choose, and whether the engine gets what it says."""

    name: str

    @property
    def shown(self) -> str:
        return f"`POST /v1/completions` with `{self.name}`"

    def __call__(self, scene: Scene) -> Outcome:
        return asyncio.run(_got(scene, self.name))


@dataclass(frozen=True)
class Wire:
    """The scene's bytes over a socket to a real HTTP server; what counts is which requests reach the engine."""

    shown: str = "the bytes, over a socket"

    def __call__(self, scene: Scene) -> Outcome:
        gateway, server = _gateway(scene)
        with on_loopback(gateway) as url:
            address = urlsplit(url)
            with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as client:
                client.sendall(scene.wire)
                said = b"".join(iter(lambda: client.recv(65536), b"")).decode(errors="replace")
        statuses = re.findall(r"HTTP/1\.1 ([0-9]{3}) ", said)
        strangers = [path for _, path in server.reached if path != "/v1/completions"]
        if strangers:
            return Outcome(DONE, f"the engine was asked for {strangers}")
        return Outcome(DONE if set(statuses) == {str(_OK)} else " then ".join(statuses), said)


def _gateway(scene: Scene) -> tuple[Gateway, FakeServer]:
    def open_home() -> Registry:
        return Registry.open(scene.home, must_exist=True, clock=scene.clock)

    def verify(version: AdapterVersion) -> str | None:
        with open_home() as registry:
            found = registry.verify([Ref(version.ref.name, version.ref.number)])[0]
        return None if found.is_intact else ", ".join(damage.path for damage in found.damaged)

    gateway, _, server = in_front_of(
        FakeEngine(base=BASE),
        ServedRegistry(open_home, scene.home / DATABASE, BASE, "loractl serve"),
        verify,
        times=ReconcilerTimes(poll_s=0.01, look_s=0.05),
        settings=GatewaySettings(body=BodyLimits(max_bytes=MAX_BODY_BYTES)),
        operator_keys=frozenset(() if scene.api_key is None else (scene.api_key,)),
        is_guarded=scene.api_key is not None,
        clock=scene.clock,
    )
    return gateway, server


async def _sent(scene: Scene) -> Outcome:
    gateway, server = _gateway(scene)
    client = Client(gateway)
    async with lifespan(gateway):
        if scene.during is not None:
            first = await _once(client, scene.request)
            assert first.code == DONE, first
            scene.during()
            server.reached.clear()
            return await _until_stopped(client, scene)
        outcome = await _once(client, scene.request)
    generated = [path for _, path in server.reached if path != "/tokenize"]  # counting a prompt is not answering it
    if outcome.code != DONE and generated:
        return Outcome(DONE, f"refused, and the engine got it: {generated}")
    return outcome


async def _until_stopped(client: Client, scene: Scene) -> Outcome:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        outcome = await _once(client, scene.request)
        if outcome.code != DONE or time.monotonic() > deadline:
            return outcome
        await asyncio.sleep(0.01)


async def _once(client: Client, request: Request) -> Outcome:
    if request.kind == "websocket":
        return await _websocket(client, request)
    body = request.body if isinstance(request.body, bytes) else json.dumps(request.body).encode()
    raw = body if request.method == "POST" else b""
    call = client.begin(request.method, request.path, raw, headers=request.headers, raw_path=request.raw_path)
    answer = await call.answer()
    said = answer.body.decode(errors="replace")
    if answer.status == _OK:
        return Outcome(DONE, said)
    return Outcome(f"{answer.status} {json.loads(said)['error']['code']}", said)


async def _websocket(client: Client, request: Request) -> Outcome:
    sent: list[dict[str, object]] = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    extensions = {"websocket.http.response": {}}
    scope = {"type": "websocket", "path": request.path, "headers": [], "extensions": extensions}
    await client.app(scope, receive, send)
    if [message["type"] for message in sent][:1] != ["websocket.http.response.start"]:
        return Outcome(DONE, str(sent))
    said = sent[1]["body"].decode()
    return Outcome(f"{sent[0]['status']} {json.loads(said)['error']['code']}", said)


async def _passed(scene: Scene) -> Outcome:
    gateway, server = _gateway(scene)
    name, value = scene.passes
    headers = [(b"content-type", b"application/json"), scene.passes]
    async with lifespan(gateway):
        answer = await Client(gateway).post("/v1/completions", scene.request.body, headers=headers)
    assert answer.status == _OK, answer
    got = server.headers.get(name.decode())
    return Outcome(DONE if got == value.decode() else "dropped", f"the engine got {name.decode()}: {got}")


async def _got(scene: Scene, name: str) -> Outcome:
    gateway, server = _gateway(scene)
    async with lifespan(gateway):
        answer = await Client(gateway).post("/v1/completions", scene.request.body, headers=scene.request.headers)
    assert answer.status == _OK, answer
    asked, got = scene.request.body.get(name), server.bodies[-1].get(name)
    return Outcome(DONE if asked in (None, got) else "replaced", f"the engine got {name}: {got}")


@contextlib.contextmanager
def _logged() -> Generator[list[str]]:
    """Collect what the server logs."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Collect(), logging.getLogger("loractl")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
