"""The gateway as a client sees it, over the fake engine."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from support.gateway import House, make_house, on_loopback, rank_limit, running

from loractl.engine.fake import FakeEngine
from loractl.gateway import BodyLimits, GatewaySettings
from loractl_registry import Stage

pytestmark = pytest.mark.anyio


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = make_house(tmp_path, refusal_of=rank_limit(16))
    house.registry.set("poet@1", Stage.LIVE)
    house.registry.set("poet@2", Stage.LIVE)
    house.registry.set("clerk@1", Stage.APPROVED)
    return house


@pytest.mark.parametrize(
    ("asked", "answers"),
    [("poet", "poet@2"), ("poet@live", "poet@2"), ("poet@1", "poet@1"), ("clerk@1", "clerk@1"), ("base", "base")],
)
async def test_answer_names_the_exact_version(house: House, asked: str, answers: str) -> None:
    async with running(house):
        answer = await house.client.ask(asked)

    assert answer.status == 200
    assert answer.json()["model"] == answers
    assert house.server.bodies[-1]["model"] == answers


async def test_every_name_that_is_not_served_gets_one_and_the_same_body(house: House) -> None:
    for ref, stage in [
        ("a@1", Stage.DRAFT),
        ("b@1", Stage.CANDIDATE),
        ("c@1", Stage.RETIRED),
        ("d@1", Stage.REVOKED),
        ("e@1", Stage.REJECTED),
    ]:
        house.registry.set(ref, stage)
    house.registry.set("big@1", Stage.LIVE, rank=64)
    house.registry.set("damaged@1", Stage.LIVE)
    house.registry.file("damaged@1").write_bytes(b"other")
    house.engine.refuses[house.registry.set("odd@1", Stage.LIVE).ref] = "no such module"

    async with running(house):
        asked = [
            *("a@1", "a", "b@1", "c@1", "d@1", "e@1", "big", "big@1", "damaged", "damaged@1", "odd", "odd@1"),
            *("nobody", "poet@3", "poet@", "poet@02", "clerk", "clerk@live", "", "POET", "poet ", "base@1", "x" * 9000),
        ]
        answers = [await house.client.ask(model) for model in asked]

    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
    shapes = {tuple(sorted((k, v) for k, v in a.headers.items() if k != "x-loractl-request-id")) for a in answers}
    assert len(shapes) == 1
    assert answers[0].json()["error"]["code"] == "model_not_found"
    assert house.server.reached == []


async def test_models_lists_the_base_live_names_and_servable_versions_only(house: House) -> None:
    house.registry.set("draft@1", Stage.DRAFT)
    house.registry.set("big@1", Stage.LIVE, rank=64)

    async with running(house):
        listed = (await house.client.get("/v1/models")).json()
        one = (await house.client.get("/v1/models/poet")).json()
        encoded = await house.client.get("/v1/models/poet@1", raw_path=b"/v1/models/poet%401")
        missing = await house.client.get("/v1/models/draft@1")

    assert [entry["id"] for entry in listed["data"]] == ["base", "clerk@1", "poet", "poet@1", "poet@2"]
    assert listed["object"] == "list"
    assert one == {
        "id": "poet",
        "object": "model",
        "created": 1767323045,
        "owned_by": "loractl",
        "root": "poet@2",
        "parent": "base",
    }
    assert encoded.json()["id"] == "poet@1"
    assert (missing.status, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_every_answer_carries_a_request_id_that_the_engine_gets_too(house: House) -> None:
    async with running(house):
        answers = [
            await house.client.ask("nobody"),
            await house.client.get("/nowhere"),
            await house.client.get("/health"),
            await house.client.get("/metrics"),
            await house.client.ask("poet"),
        ]

    ids = [answer.headers["x-loractl-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert house.server.headers["x-request-id"] == ids[-1]


async def test_headers_that_steer_vllm_do_not_pass(house: House) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer k"),
        (b"x-vllm-priority", b"-5"),
        (b"x-data-parallel-rank", b"1"),
        (b"x-session-id", b"s"),
        (b"x-request-id", b"mine"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"x-vllm-priority"),
        (b"content-length", b"7"),
    ]
    async with running(house):
        answer = await house.client.post("/v1/completions", {"model": "poet", "prompt": "é"}, headers=headers)

    assert answer.status == 200
    passed = house.server.headers
    assert set(passed) == {"x-request-id", "content-type", "content-length"}
    assert passed["x-request-id"] != "mine"
    assert int(passed["content-length"]) == len('{"model":"poet@2","prompt":"é"}'.encode())


async def test_fields_pass_unchanged_but_for_the_model(house: House) -> None:
    fields = {"prompt": "ünï \u2028 \x00", "temperature": 0.1, "seed": 2**62, "logit_bias": {"5": -1e-9}, "stop": None}
    async with running(house):
        answer = await house.client.ask("poet", **fields)

    assert answer.status == 200
    assert house.server.bodies[-1] == {**fields, "model": "poet@2"}


async def test_stream_passes_chunk_by_chunk(house: House) -> None:
    async with running(house):
        call = house.client.begin_stream("poet", max_tokens=5)
        answer = await call.answer()

    bodies = [message["body"] for message in call.messages if message["type"] == "http.response.body"]
    assert len(bodies) == 6
    assert [event["model"] for event in answer.events] == ["poet@2"] * 5
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_client_that_leaves_ends_the_request_in_the_engine(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(token_s=0.01))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        call = house.client.begin_stream("poet", max_tokens=10_000)
        await call.begun(3)
        call.gone.set()
        assert call.task is not None
        await call.task

        assert house.engine.running() == 0


async def test_client_that_leaves_before_its_body_is_complete_gets_no_answer(house: House) -> None:
    async with running(house):
        call = house.client.begin("POST", "/v1/completions", [])
        call.gone.set()
        assert call.task is not None
        await call.task

    assert call.messages == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'"poet"', 400, "invalid_json"),
        (b'{"model":"poet","model":"base"}', 400, "invalid_json"),
        (b'{"model":"poet","mod\\u0065l":"base"}', 400, "invalid_json"),
        (b'{"model":"poet","x":{"a":1,"a":2}}', 400, "invalid_json"),
        (b'{"model":"poet","x":NaN}', 400, "invalid_json"),
        (b'{"model":"poet","x":-Infinity}', 400, "invalid_json"),
        (b'{"model":"poet","x":1e999}', 400, "invalid_json"),
        (b'{"model":"poet","x":' + b"9" * 5000 + b"}", 400, "invalid_json"),
        (b'{"model":"poet","x":"\\ud800"}', 400, "invalid_json"),
        (b'{"model":"poet","x":"\xff"}', 400, "invalid_json"),
        (b"\xef\xbb\xbf" + b'{"model":"poet"}', 400, "invalid_json"),
        ('{"model":"poet"}'.encode("utf-16"), 400, "invalid_json"),
        (b'{"model":"poet"} x', 400, "invalid_json"),
        (b'{"model":"poet",}', 400, "invalid_json"),
        (b'{"model":"poet","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json"),
        (b"{}", 400, "field_refused"),
        (b'{"model":null}', 400, "field_refused"),
        (b'{"model":["poet"]}', 400, "field_refused"),
        (b'{"model":3}', 400, "field_refused"),
        (b'{"model":"\\ud800"}', 404, "model_not_found"),
    ],
)
async def test_body_that_is_not_one_strict_object_is_refused(house: House, body: bytes, status: int, code: str) -> None:
    async with running(house):
        answer = await house.client.post("/v1/completions", body)

    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert house.server.reached == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/jsonx")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"content-type", b"application/json"), (b"content-type", b"application/json")],
        [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")],
    ],
)
async def test_body_that_is_not_declared_as_plain_json_is_refused(house: House, headers: list) -> None:
    async with running(house):
        answer = await house.client.post("/v1/completions", {"model": "poet"}, headers=headers)

    assert answer.status == 415
    assert house.server.reached == []


@pytest.mark.parametrize("content_type", [b"application/json; charset=utf-8", b'Application/JSON; charset="UTF-8"'])
async def test_usual_spellings_of_json_are_taken(house: House, content_type: bytes) -> None:
    async with running(house):
        answer = await house.client.post(
            "/v1/completions", {"model": "poet"}, headers=[(b"content-type", content_type)]
        )

    assert answer.status == 200


@pytest.mark.parametrize("is_declared", [True, False])
async def test_body_beyond_the_limit_is_refused(tmp_path: Path, is_declared: bool) -> None:
    house = make_house(tmp_path, settings=GatewaySettings(body=BodyLimits(max_bytes=100)))
    headers = [(b"content-type", b"application/json")] + [(b"content-length", b"200")] * is_declared
    async with running(house):
        call = house.client.begin("POST", "/v1/completions", [b"x" * 60, b"x" * 60, b"x" * 80], headers=headers)
        answer = await call.answer()

    assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_body_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    body = b'{"model":"base"}'
    house = make_house(tmp_path, settings=GatewaySettings(body=BodyLimits(max_bytes=len(body))))
    async with running(house):
        answer = await house.client.begin("POST", "/v1/completions", [body[:5], body[5:]]).answer()

    assert answer.status == 200


async def test_large_body_passes(house: House) -> None:
    async with running(house):
        answer = await house.client.ask("poet", prompt="long " * 400_000)

    assert answer.status == 200


async def test_body_that_does_not_arrive_in_time_is_refused(tmp_path: Path) -> None:
    house = make_house(tmp_path, settings=GatewaySettings(body=BodyLimits(timeout_s=0.05)))
    async with running(house):
        call = house.client.begin("POST", "/v1/completions", [])
        answer = await call.answer()

    assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_key_is_wanted_on_v1_where_the_server_has_one(tmp_path: Path) -> None:
    house = make_house(tmp_path, operator_keys=frozenset({"sesame", "mellon"}), is_guarded=True)
    json_type = (b"content-type", b"application/json")
    async with running(house):
        refused = [
            await house.client.get("/v1/models"),
            await house.client.get("/v1/models/nobody"),
            await house.client.ask("nobody"),
            await house.client.get("/v1/models", headers=[(b"authorization", b"Bearer wrong")]),
            await house.client.get("/v1/models", headers=[(b"authorization", b"Basic sesame")]),
            await house.client.get("/v1/models", headers=[(b"authorization", b"Bearer sesame")] * 2),
        ]
        taken = await house.client.post(
            "/v1/completions", {"model": "base"}, headers=[json_type, (b"authorization", b"bearer mellon")]
        )
        health = await house.client.get("/health")
        elsewhere = await house.client.get("/v1/load_lora_adapter")

    assert [answer.status for answer in refused] == [401] * 6
    assert refused[0].headers["www-authenticate"] == "Bearer"
    assert (taken.status, health.status, elsewhere.status) == (200, 200, 404)


async def test_health_says_when_the_engine_is_down(house: House) -> None:
    async with running(house):
        before = await house.client.get("/health")
        house.engine.is_up = False
        after = await house.client.get("/health")

    assert (before.status, before.json()) == (200, {"status": "ok"})
    assert (after.status, after.json()["status"]) == (503, "degraded")


async def test_engine_that_breaks_gives_our_error_and_a_traceback_for_the_operator(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(house):
        house.engine.generate = None  # type: ignore[method-assign,assignment]
        answer = await house.client.ask("poet", prompt="secret prompt")

    assert (answer.status, answer.json()["error"]["code"]) == (500, "engine_failed")
    assert answer.headers["x-loractl-request-id"] in caplog.text
    assert "secret" not in caplog.text


async def test_no_body_is_ever_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="loractl")
    async with running(house):
        await house.client.ask("poet", prompt="secret prompt")
        await house.client.ask("nobody", prompt="secret prompt")
        await house.client.post("/v1/completions", b'{"secret prompt')

    assert "secret" not in caplog.text


async def test_lifespan_fails_in_one_sentence_if_the_registry_cannot_be_read(house: House) -> None:
    house.registry.database.unlink()

    with pytest.raises(RuntimeError, match="cannot follow the registry"):
        async with running(house):
            pass


async def test_unknown_kind_of_connection_goes_nowhere(house: House) -> None:
    async with running(house):
        await house.gateway({"type": "carrier.pigeon"}, None, None)  # type: ignore[arg-type]

    assert house.server.reached == []


def test_official_client_works_unchanged(tmp_path: Path) -> None:
    import openai

    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    with on_loopback(house.gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        models = [model.id for model in client.models.list()]
        model = client.models.retrieve("poet@1")
        whole = client.chat.completions.create(model="poet", messages=[{"role": "user", "content": "hi"}], max_tokens=3)
        stream = client.chat.completions.create(
            model="poet@1", messages=[{"role": "user", "content": "hi"}], max_tokens=3, stream=True
        )
        chunks = list(stream)
        with pytest.raises(openai.NotFoundError) as missing:
            client.completions.create(model="nobody", prompt="hi")

    assert models == ["base", "poet", "poet@1"]
    assert model.parent == "base"  # type: ignore[attr-defined]
    assert (whole.model, whole.choices[0].message.content) == ("poet@1", "poet@1:0 poet@1:1 poet@1:2 ")
    assert [chunk.model for chunk in chunks] == ["poet@1"] * 3
    assert missing.value.code == "model_not_found"


def test_error_body_is_openai_shaped() -> None:
    from loractl.gateway.errors import ModelNotFoundError

    assert json.loads(ModelNotFoundError().body()) == {
        "error": {
            "message": "the model does not exist or is not served here; GET /v1/models lists what is",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


async def test_answer_that_breaks_in_the_middle_is_broken_off(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def breaking(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async with running(house):
        house.gateway._app = breaking
        call = house.client.begin_stream("base")
        assert call.task is not None
        with pytest.raises(ZeroDivisionError):
            await call.task
        house.gateway._app = house.server

    assert [message["type"] for message in call.messages] == ["http.response.start"]
    assert "failed" in caplog.text


async def test_files_that_never_come_to_rest_are_not_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(house):
        monkeypatch.setattr(house.reconciler, "is_unchanged", lambda _: False)
        answer = await house.client.ask("poet")

    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
