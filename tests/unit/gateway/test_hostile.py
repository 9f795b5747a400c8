"""Whatever is sent: an answer of a closed set, in one shape, counted once, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gateway import Answer, House, make_house, running

from loractl.observability.definitions import IN_FLIGHT, REQUESTS, WAITING
from loractl.quotas import LimitKind
from loractl_registry import Stage
from loractl_registry.tenancy import Limits

STATUSES = {200, 400, 401, 404, 413, 415, 429}
SECRET = "secret-line"
CONCURRENT = 50
ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
FIELDS = (
    *("prompt", "messages", "input", "instructions", "tools", "suffix", "stream", "stream_options", "n", "best_of"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "cache_salt", "priority", "user", "stop", "seed"),
    *("chat_template_kwargs", "documents", "previous_input_messages", "response_format", "temperature", "top_k"),
    *("request_id", "lora_request", "extra_body", "vllm_xargs", "kv_transfer_params", "__proto__", "", "x" * 300),
)
KEYS = ("acme", "other", "none", "wrong", "garbage", "twice")

numbers = st.sampled_from([0, -1, 10**4000, -(10**400), 2**63, 1e308, 5e-324]) | st.integers() | st.floats()
texts = st.text(max_size=12) | st.sampled_from(
    ["\ud800", "\u202e", "\x00", "\U0001f600" * 3, "text", "user", "function"]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            texts | st.sampled_from(["type", "role", "content", "uuid", "include_usage"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)
MODELS = [*["poet"] * 8, "poet@1", "poet@live", "base", SECRET, f"{SECRET}@1", "draft", "nobody", "", None, 1, ["poet"]]
models = st.sampled_from(MODELS)
requests = st.builds(
    lambda model, fields: {"model": model, **fields}, models, st.dictionaries(st.sampled_from(FIELDS), values)
)


def written(request: dict[str, object], *, is_ascii: bool) -> bytes:
    return json.dumps(request, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")


whole = st.builds(lambda request, is_ascii: written(request, is_ascii=is_ascii), requests, st.booleans())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b","])
        )
    return bytes(body)


@st.composite
def doubled(draw: st.DrawFn) -> bytes:
    names = draw(st.lists(st.sampled_from(["model", "prompt", "max_tokens"]), min_size=2, max_size=4))
    pairs = [f"{json.dumps(name)}:{json.dumps(draw(models))}" for name in names]
    return ("{" + ",".join(pairs) + "}").encode("utf-8", "surrogatepass")


@st.composite
def nested(draw: st.DrawFn) -> bytes:
    depth, (begin, end) = draw(st.integers(1, 3000)), draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
    inner = begin * depth + draw(st.sampled_from(["1", "{}" if begin == "[" else "1"])) + end * depth
    field = draw(st.sampled_from(["messages", "tools", "prompt", "input", "type"]))
    shape = draw(st.sampled_from(['{"model":"poet","%s":%s}', '{"model":"poet","%s":[{"type":%s}]}']))
    return (shape % (field, inner)).encode()


bodies = whole | whole | whole | mutated() | doubled() | nested() | st.binary(max_size=40)
header_values = st.binary(max_size=20)
JSON = [b"application/json", b"application/json; charset=utf-8"]
media_types = st.sampled_from([*JSON * 6, b"text/plain", b"multipart/form-data; boundary=x", b""])
odd_headers = st.lists(
    st.tuples(
        st.sampled_from([b"x-request-id", b"x-priority", b"traceparent", b"host", b"cookie", b"x-session-id", b"te"]),
        header_values,
    )
    | st.tuples(st.just(b"content-length"), st.sampled_from([b"0", b"-1", b"9" * 30, b"1e9", b"x"]))
    | st.tuples(st.just(b"content-encoding"), st.sampled_from([b"identity", b"gzip", b""])),
    max_size=2,
)


@dataclass(frozen=True)
class Sent:
    path: str
    body: bytes
    media_type: bytes
    headers: list[tuple[bytes, bytes]]
    key: str
    chunks: int

    def pieces(self) -> list[bytes]:
        size = max(1, len(self.body) // self.chunks)
        return [self.body[at : at + size] for at in range(0, len(self.body), size)] or [b""]


sent = st.builds(
    Sent,
    st.sampled_from(ROUTES),
    bodies,
    media_types,
    odd_headers,
    st.sampled_from([*["acme"] * 12, *KEYS]),
    st.integers(1, 4),
)


@dataclass
class World:
    house: House
    keys: dict[str, list[bytes]]
    secrets: list[bytes]


def world(root: Path) -> World:
    house = make_house(root, operator_keys=frozenset({"sesame"}))
    for ref, stage in (("poet@1", Stage.LIVE), (f"{SECRET}@1", Stage.LIVE), ("draft@1", Stage.DRAFT)):
        house.registry.set(ref, stage)
    bounds = Limits(max_output=8, max_context=4000, concurrent=CONCURRENT, requests_per_minute=10**6)
    tenancy = house.registry.tenancy
    acme = tenancy.add("acme", "poet", "base", limits=bounds)["authorization"].encode()
    other = tenancy.add("other-tenant", SECRET, limits=bounds)["authorization"].encode()
    keys = {
        "acme": [acme],
        "other": [other],
        "none": [],
        "wrong": [acme[:-1] + (b"0" if acme[-1:] != b"0" else b"1")],
        "garbage": [b"Bearer \xff\x00" + b"k" * 5000],
        "twice": [acme, acme],
    }
    secrets = [SECRET.encode(), b"other-tenant", other[7:], acme[7:], b"sesame", str(root).encode()]
    return World(house, keys, secrets)


async def send_all(world: World, all_sent: list[Sent]) -> list[Answer]:
    async with running(world.house) as house:
        answers = []
        for one in all_sent:
            keys = [(b"authorization", key) for key in world.keys[one.key]]
            headers = [(b"content-type", one.media_type), *one.headers, *keys]
            answers.append(await house.client.begin("POST", one.path, one.pieces(), headers=headers).answer())
        left = [gauge for gauge in house.controls.quotas.standing("acme", "poet") if gauge.kind is LimitKind.CONCURRENT]
        assert [gauge.remaining for gauge in left] == [CONCURRENT]
        return answers


def is_well_formed(answer: Answer) -> bool:
    if not re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-loractl-request-id"]):
        return False
    if answer.status == 200:
        return True
    error = json.loads(answer.body)["error"]
    return set(error) == {"message", "type", "param", "code"} and all(
        isinstance(error[name], str) and error[name].isprintable() for name in ("message", "type", "code")
    )


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(sent, min_size=1, max_size=8))
def test_every_request_gets_one_answer_of_a_closed_set_and_leaves_nothing_behind(all_sent: list[Sent]) -> None:
    with TemporaryDirectory() as folder:
        around = world(Path(folder))
        answers = asyncio.run(send_all(around, all_sent))
    house = around.house

    assert {answer.status for answer in answers} <= STATUSES
    assert all(map(is_well_formed, answers))
    for one, answer in zip(all_sent, answers, strict=True):
        if one.key != "other":
            assert not [secret for secret in around.secrets if secret in answer.body]
        if one.key not in ("acme", "other"):
            assert answer.status == 401
    assert len({answer.headers["x-loractl-request-id"] for answer in answers}) == len(answers)
    assert house.numbers.total(REQUESTS) == len(answers)
    assert len(house.records.kept) == sum(answer.status != 401 for answer in answers)
    assert (house.controls.admission.waiting, house.controls.admission.in_flight) == (0, 0)
    assert (house.numbers.total(WAITING), house.numbers.total(IN_FLIGHT)) == (0, 0)
    assert (house.engine.running(), house.engine.counts) == (0, {})
    assert sum(answer.status == 200 for answer in answers) == len(house.server.bodies)
    for body in house.server.bodies:
        assert body["model"] in ("poet@1", f"{SECRET}@1", "base")
        assert "mine" not in str(body["cache_salt"])


paths = st.text(max_size=30).map(lambda text: f"/{text}") | st.sampled_from(
    [
        "/v1/models/%73ecret-line",
        f"/v1/models/{SECRET}",
        "/v1//models",
        "/v1/models/../../loractl/v1/state",
        "/ui/../x",
        "/ui/state",
    ]
)


async def get_all(world: World, asked: list[tuple[str, str, str]]) -> list[Answer]:
    async with running(world.house) as house:
        answers = []
        for method, path, key in asked:
            headers = [(b"authorization", value) for value in world.keys[key]]
            raw = path.encode("utf-8", "surrogatepass")
            answers.append(await house.client.begin(method, path, headers=headers, raw_path=raw).answer())
        return answers


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["GET", "HEAD", "PUT", "\x00", "get"]), paths, st.sampled_from(KEYS)),
        min_size=1,
        max_size=10,
    )
)
def test_no_path_or_method_reaches_more_than_the_allow_list(asked: list[tuple[str, str, str]]) -> None:
    with TemporaryDirectory() as folder:
        around = world(Path(folder))
        answers = asyncio.run(get_all(around, asked))

    assert {answer.status for answer in answers} <= {200, 401, 404}
    assert all(map(is_well_formed, answers))
    assert around.house.server.reached == []
    for (_, _, key), answer in zip(asked, answers, strict=True):
        assert key == "other" or answer.status != 200 or SECRET.encode() not in answer.body


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.anyio
async def test_body_that_holds_a_duplicate_among_many_keys_costs_no_more_than_its_size(
    tmp_path: Path, route: str
) -> None:
    around = world(tmp_path)
    many = ",".join(f'"a{index}":0' for index in range(300_000))
    body = ('{"model":"poet",' + many + ',"a0":0}').encode()
    async with running(around.house) as house:
        acme = house.client.with_key({"authorization": around.keys["acme"][0].decode()})
        answer = await asyncio.wait_for(acme.post(route, body), 10)

    assert answer.status == 400
    assert "duplicate key 'a0'" in answer.body.decode()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b'{"model":"poet","prompt":[' + b"[]," * 700_000 + b"[]]}", 413, "request_too_large", id="values"),
        pytest.param(
            b'{"model":"poet","prompt":"' + b"a, b " * 200_000 + b'"}', 400, "context_length_exceeded", id="text"
        ),
        pytest.param(b'{"model":"poet","x":' + b"[" * 100 + b"]" * 100 + b"}", 400, "invalid_json", id="depth"),
        pytest.param(b'{"model":"poet","prompt":[' + b'"a",' * 128 + b'"a"]}', 400, "field_refused", id="batch"),
        pytest.param(b'{"model":"poet","prompt":["a","b"],"n":65}', 400, "field_refused", id="batch-of-choices"),
    ],
)
@pytest.mark.anyio
async def test_body_that_would_cost_out_of_proportion_is_refused(
    tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    around = world(tmp_path)
    async with running(around.house) as house:
        acme = house.client.with_key({"authorization": around.keys["acme"][0].decode()})
        answer = await acme.post("/v1/completions", body)
        deep = await acme.post("/v1/completions", b'{"model":"poet","x":' + b"[" * 99 + b"]" * 99 + b"}")

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, code)
    assert deep.status == 200


LONG = "word " * 4500


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        pytest.param("/v1/chat/completions", {"tools": [{"type": "function", "function": {LONG: 1}}]}, id="keys"),
        pytest.param("/v1/chat/completions", {"documents": [{"text": LONG}]}, id="documents"),
        pytest.param("/v1/chat/completions", {"chat_template_kwargs": {"system": LONG}}, id="template-arguments"),
        pytest.param("/v1/responses", {"previous_input_messages": [{"role": "user", "content": LONG}]}, id="previous"),
    ],
)
@pytest.mark.anyio
async def test_context_of_a_tenant_counts_everything_that_gets_into_a_prompt(
    tmp_path: Path, route: str, fields: dict[str, object]
) -> None:
    around = world(tmp_path)
    async with running(around.house) as house:
        acme = house.client.with_key({"authorization": around.keys["acme"][0].decode()})
        body = {"model": "poet", "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
        short, long = await acme.post(route, body), await acme.post(route, {**body, **fields})

    assert short.status == 200
    assert (long.status, json.loads(long.body)["error"]["code"]) == (400, "context_length_exceeded")
