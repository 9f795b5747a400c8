"""An engine in memory, with an OpenAI server in front of it: the contract of a real one, without weights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from loractl.engine.errors import EngineRefusedError
from loractl.engine.ports import EngineAdapter, EngineRoom, TokenCounts
from loractl_registry import VersionRef

Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_DEFAULT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer; the last one has a finish reason: ``length`` or ``abort``."""

    text: str
    finish_reason: str | None


@dataclass(eq=False, slots=True)
class _Running:
    ref: VersionRef
    is_aborted: bool = False


@dataclass(eq=False)
class FakeEngine:
    """Obeys `EnginePort`, and fails or takes its time where it is told to.

    Like vLLM, it looks a name up when a request arrives, works on the prompt for `arrival_s`, and loads the adapter
    again if it was taken out in between.

    Attributes:
        base: Name of the base.
        admit_s, evict_s, arrival_s, token_s: How long each takes.
        refuses: Refs that it will not load, with what it says.
        clings_to: Refs that it will not let go of.
        is_up: Whether it can answer.
        max_num_seqs: Requests that it says it can work on at once.
        calls: Every ``admit`` and ``evict`` in order, as it began.
        counts: What it has done for each request that it is working on.
    """

    base: str = "base"
    admit_s: float = 0.0
    evict_s: float = 0.0
    arrival_s: float = 0.0
    token_s: float = 0.0
    refuses: dict[VersionRef, str] = field(default_factory=dict[VersionRef, str])
    clings_to: set[VersionRef] = field(default_factory=set[VersionRef])
    is_up: bool = True
    max_num_seqs: int = 256
    calls: list[tuple[str, VersionRef]] = field(default_factory=list[tuple[str, VersionRef]])
    counts: dict[str, TokenCounts] = field(default_factory=dict[str, TokenCounts])
    _names: dict[str, EngineAdapter] = field(default_factory=dict[str, EngineAdapter])
    _loaded: set[VersionRef] = field(default_factory=set[VersionRef])
    _running: set[_Running] = field(default_factory=set[_Running])

    async def admit(self, adapter: EngineAdapter) -> None:
        """Load `adapter`, unless told to refuse it or its folder is not there."""
        self.calls.append(("admit", adapter.ref))
        if self._names.get(str(adapter.ref)) == adapter:
            return
        await asyncio.sleep(self.admit_s)
        if adapter.ref in self.refuses:
            raise EngineRefusedError(f"cannot load {adapter.ref}: {self.refuses[adapter.ref]}")
        if not (adapter.path / "adapter_model.safetensors").is_file():
            raise EngineRefusedError(f"cannot load {adapter.ref}: no adapter_model.safetensors in {adapter.path}")
        self._loaded.add(adapter.ref)
        self._names[str(adapter.ref)] = adapter

    async def evict(self, ref: VersionRef) -> None:
        """Refuse the name, abort its requests, unload it."""
        self.calls.append(("evict", ref))
        self._names.pop(str(ref), None)
        for running in self._running:
            if running.ref == ref:
                running.is_aborted = True
        await asyncio.sleep(self.evict_s)
        if ref in self.clings_to:
            raise EngineRefusedError(f"the engine still lists {ref}")
        self._loaded.discard(ref)

    def admitted(self) -> frozenset[VersionRef]:
        """Return the refs that a request may name now."""
        return frozenset(adapter.ref for adapter in self._names.values())

    async def is_healthy(self) -> bool:
        """Whether it is up."""
        return self.is_up

    def room(self) -> EngineRoom:
        """Return what it was told to say."""
        return EngineRoom(self.max_num_seqs)

    def counts_of(self, request_id: str) -> TokenCounts | None:
        """Return what it has written for a request so far; a prompt of a fake has as many tokens as words."""
        return self.counts.get(request_id)

    def loaded(self) -> frozenset[VersionRef]:
        """Return the refs whose weights are in memory, named or not."""
        return frozenset(self._loaded)

    def running(self) -> int:
        """Return how many requests for adapters it is working on."""
        return len(self._running)

    def knows(self, model: str) -> bool:
        """Whether a request may name `model` now."""
        return model == self.base or model in self._names

    async def generate(self, model: str, *, num_tokens: int) -> AsyncGenerator[Token]:
        """Yield `num_tokens` tokens that name `model`, or fewer if it is aborted. `model` must be known."""
        adapter = self._names.get(model)
        await asyncio.sleep(self.arrival_s)
        running = _Running(adapter.ref) if adapter else None
        if running:
            self._loaded.add(running.ref)
            self._running.add(running)
        try:
            for index in range(num_tokens):
                await asyncio.sleep(self.token_s)
                if running and running.is_aborted:
                    yield Token("", "abort")
                    return
                yield Token(f"{model}:{index} ", "length" if index == num_tokens - 1 else None)
        finally:
            if running:
                self._running.discard(running)


@dataclass(slots=True)
class Asked:
    """One request as the fake server works on it."""

    path: str
    model: str
    request_id: str
    input_tokens: int
    num_tokens: int
    says_usage: bool
    output_tokens: int = 0

    @property
    def usage(self) -> dict[str, int]:
        """What an answer says of its tokens."""
        total = self.input_tokens + self.output_tokens
        return {
            "prompt_tokens": self.input_tokens,
            "total_tokens": total,
            "completion_tokens": self.output_tokens,
        }


@dataclass(eq=False)
class FakeServer:
    """An ASGI app that speaks as much of OpenAI's protocol as tests and benchmarks of a gateway need.

    Unknown routes answer 200 with ``reached the engine``, so that whatever gets past a gateway shows.

    Attributes:
        engine: Where the tokens come from.
        is_recording: Whether what arrives is remembered; benchmarks turn it off.
        reached: Method and path of every request that arrived.
        bodies: The parsed body of each of them that had one.
        headers: The headers of the last one.
    """

    engine: FakeEngine
    is_recording: bool = True
    reached: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    bodies: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    headers: dict[str, str] = field(default_factory=dict[str, str])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        method, path = str(scope.get("method", scope["type"])), str(scope["path"])
        if self.is_recording:
            self.reached.append((method, path))
            pairs = cast("list[tuple[bytes, bytes]]", scope["headers"])
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        if method == "POST" and path in ("/v1/completions", "/v1/chat/completions", "/v1/responses"):
            await self._generate(scope, await _read(receive), receive, send)
        elif (method, path) == ("POST", "/tokenize"):
            asked = cast("dict[str, object]", json.loads(await _read(receive)))
            count = len(json.dumps({name: value for name, value in asked.items() if name != "model"}).split())
            await _send_whole(send, 200, json.dumps({"count": count}).encode())
        else:
            await _send_whole(send, 200, b'"reached the engine"')

    async def _generate(self, scope: Message, raw: bytes, receive: Receive, send: Send) -> None:
        path, headers = str(scope["path"]), dict(cast("list[tuple[bytes, bytes]]", scope["headers"]))
        request_id = headers.get(b"x-request-id", b"").decode()
        body = cast("dict[str, object]", json.loads(raw))
        if self.is_recording:
            self.bodies.append(body)
        model = str(body["model"])
        if not self.engine.knows(model):
            await _send_whole(send, 404, b'{"error":{"message":"the engine does not know the model"}}')
            return
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        asked = Asked(
            path=path,
            model=model,
            request_id=request_id,
            input_tokens=len(str(body.get("prompt") or body.get("messages") or "").split()),
            num_tokens=limit if isinstance(limit, int) else _DEFAULT_TOKENS,
            says_usage=bool(_mapping(body.get("stream_options")).get("include_usage")),
        )
        answer = self._stream if body.get("stream") else self._whole
        work = asyncio.ensure_future(answer(asked, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, gone):
            task.cancel()
        results = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _stream(self, asked: Asked, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._tokens(asked)) as tokens:
            async for token in tokens:
                event = b"data: " + _chunk(asked, token, is_delta=True) + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
        if asked.says_usage:
            usage: dict[str, object] = {"id": "fake-1", "model": asked.model, "choices": [], "usage": asked.usage}
            event = b"data: " + json.dumps(usage, separators=(",", ":")).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _whole(self, asked: Asked, send: Send) -> None:
        async with aclosing(self._tokens(asked)) as stream:
            tokens = [token async for token in stream]
        whole = Token("".join(token.text for token in tokens), tokens[-1].finish_reason)
        await _send_whole(send, 200, _chunk(asked, whole, is_delta=False))

    async def _tokens(self, asked: Asked) -> AsyncGenerator[Token]:
        counts = self.engine.counts
        counts[asked.request_id] = TokenCounts(asked.input_tokens, 0)
        try:
            async with aclosing(self.engine.generate(asked.model, num_tokens=asked.num_tokens)) as tokens:
                async for token in tokens:
                    asked.output_tokens += bool(token.text)
                    counts[asked.request_id] = TokenCounts(asked.input_tokens, asked.output_tokens)
                    yield token
        finally:
            del counts[asked.request_id]


def _chunk(asked: Asked, token: Token, *, is_delta: bool) -> bytes:
    choice: dict[str, object] = {"index": 0, "finish_reason": token.finish_reason}
    kind = "text_completion"
    if asked.path == "/v1/chat/completions":
        choice["delta" if is_delta else "message"] = {"role": "assistant", "content": token.text}
        kind = "chat.completion.chunk" if is_delta else "chat.completion"
    else:
        choice["text"] = token.text
    answer: dict[str, object] = {
        "id": "fake-1",
        "object": kind,
        "created": 0,
        "model": asked.model,
        "choices": [choice],
    }
    if not is_delta:
        answer["usage"] = asked.usage
    return json.dumps(answer, separators=(",", ":")).encode()


async def _live(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(cast("bytes", message.get("body", b"")))
        if not message.get("more_body"):
            return b"".join(chunks)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_whole(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _mapping(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
