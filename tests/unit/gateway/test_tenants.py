"""Tenants on one gateway: each sees its own, is held to its limits, and leaves nothing of another's behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.gateway import Answer, House, make_house, running, until

from loractl.engine.fake import FakeEngine
from loractl.fairness import Limits as Lanes
from loractl.gateway import GatewaySettings
from loractl_registry import Stage
from loractl_registry.tenancy import Limits, PepperNotFoundError

pytestmark = pytest.mark.anyio


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = make_house(tmp_path, operator_keys=frozenset({"sesame"}))
    for ref in ("poet@1", "clerk@1", "clerk@2"):
        house.registry.set(ref, Stage.LIVE)
    return house


def refused_alike(answers: list[Answer]) -> bool:
    alike = {(one.status, one.body, tuple(sorted(set(one.headers) - {"x-loractl-request-id"}))) for one in answers}
    return len(alike) == 1 and answers[0].status == 404


async def test_tenant_sees_and_uses_what_it_may_and_nothing_else_exists(house: House) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme", "poet", "clerk@2"))
    async with running(house):
        answers = [await acme.ask(model) for model in ("poet", "poet@1", "clerk", "clerk@2", "clerk@live")]
        listed = await acme.models()
        described = [await acme.get(f"/v1/models/{name}") for name in ("poet", "base", "clerk@1", "nobody")]
        refused = [await acme.ask(model) for model in ("base", "clerk@1", "nobody", "x" * 4000)]

    assert [one.json()["model"] for one in answers] == ["poet@1", "poet@1", "clerk@2", "clerk@2", "clerk@2"]  # type: ignore[index]
    assert listed == ["clerk", "clerk@2", "poet", "poet@1"]
    assert described[0].status == 200
    assert refused_alike(described[1:])
    assert refused_alike(refused)


async def test_nobody_without_a_good_key_is_answered_once_there_is_a_tenant(house: House) -> None:
    key = house.registry.tenancy.add("acme")["authorization"]
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    async with running(house):
        clients = [house.client, *(house.client.with_key({"authorization": text}) for text in (wrong, "Bearer x", ""))]
        answers = [await client.ask("poet") for client in clients]
        answers += [
            await client.get(path) for client in clients for path in ("/v1/models", "/metrics", "/loractl/v1/state")
        ]
        open_to_all = await house.client.get("/health")

    assert {(one.status, one.body) for one in answers} == {(401, answers[0].body)}
    assert open_to_all.status == 200
    assert house.server.bodies == []


async def test_operators_key_opens_everything(house: House) -> None:
    house.registry.tenancy.add("acme", "poet")
    operator = house.client.with_key({"authorization": "Bearer sesame"})
    async with running(house):
        answers = [
            await operator.ask("clerk@1"),
            await operator.get("/metrics"),
            await operator.get("/loractl/v1/state"),
        ]

    assert [one.status for one in answers] == [200] * 3


async def test_first_tenant_closes_an_open_server_and_a_removed_one_is_out_at_once(house: House) -> None:
    async with running(house):
        before = await house.client.ask("poet")
        acme = house.client.with_key(house.registry.tenancy.add("acme"))
        house.registry.tenancy.add("other")
        await until(lambda: bool(house.controls.door.callers.tenants))
        closed, taken = await house.client.ask("poet"), await acme.ask("poet")
        house.registry.tenancy.remove("acme")
        await until(lambda: "acme" not in house.controls.door.callers.tenants)
        after = await acme.ask("poet")

    assert [one.status for one in (before, closed, taken, after)] == [200, 401, 200, 401]


async def test_tenant_whose_row_was_edited_is_nobody_and_the_server_stays_closed(house: House) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme"))
    house.registry.tenancy.refuse("acme", "its adapters are not what was sealed")
    async with running(house):
        answers = [await acme.ask("poet"), await house.client.ask("poet")]

    assert [one.status for one in answers] == [401, 401]


async def test_without_the_pepper_no_key_is_good_and_health_says_so(house: House, tmp_path: Path) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme"))
    house.registry.tenancy.failure = PepperNotFoundError(tmp_path)
    operator = house.client.with_key({"authorization": "Bearer sesame"})
    async with running(house):
        answers = [await acme.ask("poet"), await house.client.ask("poet"), await operator.ask("poet")]
        health = await house.client.get("/health")

    assert [one.status for one in answers] == [401, 401, 200]
    assert health.status == 503
    assert "no key can be checked" in str(health.json())


async def test_each_tenant_has_a_salt_of_its_own_that_no_client_can_set(house: House) -> None:
    tenants = [house.client.with_key(house.registry.tenancy.add(name)) for name in ("acme", "other")]
    async with running(house):
        for client in tenants:
            for fields in ({}, {"cache_salt": "mine"}, {"stream": True, "cache_salt": "mine"}):
                await client.ask("poet", **fields)

    salts = [body["cache_salt"] for body in house.server.bodies]
    assert len(set(salts[:3])) == len(set(salts[3:])) == 1
    assert salts[0] != salts[3]
    assert "mine" not in salts


async def test_engine_is_told_in_which_order_to_take_prompts_where_it_heeds_that(tmp_path: Path) -> None:
    asked = {}
    for heeds in (True, False):
        root = tmp_path / str(heeds)
        root.mkdir()
        house = make_house(root, settings=GatewaySettings(orders_prompts=heeds))
        house.registry.set("poet@1", Stage.LIVE)
        flood, quiet = (house.client.with_key(house.registry.tenancy.add(name)) for name in ("flood", "quiet"))
        async with running(house):
            calls = [flood.begin_stream("poet", max_tokens=50) for _ in range(3)]
            for call in calls:
                await call.begun()
            await quiet.ask("poet", max_tokens=1)
            for call in calls:
                await call.answer()
        asked[heeds] = [body.get("priority") for body in house.server.bodies]

    first, second, third, newcomer = asked[True]
    assert first <= second <= third
    assert third > 0
    assert newcomer <= third
    assert asked[False] == [None] * 4


async def test_limit_is_a_429_that_says_when_to_come_back(house: House) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=Limits(requests_per_minute=2)))
    other = house.client.with_key(house.registry.tenancy.add("other"))
    async with running(house):
        taken = [await acme.ask("poet"), await acme.ask("clerk")]
        refused, unlimited = await acme.ask("poet"), await other.ask("poet")

    assert [one.headers["x-ratelimit-remaining-requests"] for one in taken] == ["1", "0"]
    assert refused.status == 429
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert 55 <= int(refused.headers["retry-after"]) <= 61  # in whole seconds, and never too early
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"  # type: ignore[index]
    assert unlimited.status == 200
    assert not any(name.startswith("x-ratelimit") for name in unlimited.headers)


async def test_tokens_are_corrected_to_what_the_engine_counted(house: House) -> None:
    limits = Limits(tokens_per_minute=100, tokens_per_day=1000)
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=limits))
    async with running(house):
        await acme.ask("poet", prompt="one two three", max_tokens=7)
        answer = await acme.ask("poet", prompt="one two three", max_tokens=7, stream=True)
        left = {gauge.kind.value: gauge.remaining for gauge in house.controls.quotas.standing("acme", "poet")}

    assert answer.status == 200
    assert left == {"tokens_per_minute": 80, "tokens_per_day": 980}


async def test_new_limit_holds_without_a_restart_and_what_was_used_stays_used(house: House) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme"))
    async with running(house):
        assert [(await acme.ask("poet")).status for _ in range(3)] == [200] * 3
        again = house.client.with_key(house.registry.tenancy.add("acme", limits=Limits(requests_per_minute=3)))
        await until(lambda: house.controls.door.callers.tenants["acme"].tenant.limits != Limits())  # type: ignore[union-attr]
        statuses = [(await client.ask("poet")).status for client in (acme, again)]

    assert statuses == [429, 429]


async def test_concurrent_requests_are_bounded_and_a_disconnect_frees_the_place(house: House) -> None:
    house.engine.token_s = 0.01
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=Limits(concurrent=1)))
    async with running(house):
        first = acme.begin_stream("poet", max_tokens=1000)
        await first.begun()
        refused = await acme.ask("poet")
        first.gone.set()
        assert first.task is not None
        await asyncio.wait_for(first.task, 5)
        taken = await acme.ask("poet")

    assert (refused.status, taken.status) == (429, 200)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "hi"}, "max_tokens"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "max_completion_tokens"),
        ("/v1/responses", {"input": "hi"}, "max_output_tokens"),
    ],
)
async def test_answer_is_bounded_to_what_the_tenant_may_have(
    house: House, path: str, body: dict[str, object], field: str
) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=Limits(max_output=8, max_context=500)))
    async with running(house):
        bounded = await acme.post(path, {"model": "poet", **body})
        smaller = await acme.post(path, {"model": "poet", **body, field: 5})
        refused = [await acme.post(path, {"model": "poet", **body, field: value}) for value in (9, 10**6, "5", 5.0)]
        long = await acme.post(path, {"model": "poet", **dict.fromkeys(body, "word " * 1000)})

    assert [answer.status for answer in (bounded, smaller)] == [200, 200]
    assert [sent[field] for sent in house.server.bodies] == [8, 5]
    assert [answer.status for answer in (*refused, long)] == [400] * 5
    assert refused[0].json()["error"]["code"] == "context_length_exceeded"  # type: ignore[index]


async def test_context_is_what_the_engine_counts_where_an_estimate_could_be_wrong(house: House) -> None:
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=Limits(max_context=300)))
    async with running(house):
        short_in_bytes = await acme.ask("poet", prompt="a " * 400)
        short_in_tokens = await acme.ask("poet", prompt="x" * 3000, max_tokens=10)
        batch = await acme.ask("poet", prompt=["hello", "a " * 400])
        small = await acme.ask("poet", prompt="hello", max_tokens=200)

    assert [one.status for one in (short_in_bytes, batch)] == [400, 400]
    assert short_in_bytes.json()["error"]["code"] == "context_length_exceeded"  # type: ignore[index]
    assert [one.status for one in (short_in_tokens, small)] == [200, 200]
    assert house.server.reached.count(("POST", "/tokenize")) == 4


@pytest.mark.parametrize("quota", [Limits(max_context=300, concurrent=1), Limits(max_context=300, tokens_per_day=999)])
async def test_request_beyond_a_quota_costs_no_count_of_its_prompt(house: House, quota: Limits) -> None:
    house.engine.token_s = 0.005
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=quota))
    async with running(house):
        first = acme.begin_stream("poet", prompt="x" * 3000, max_tokens=60)
        await first.begun()
        refused = [await acme.ask("poet", prompt="x" * 3000, max_tokens=10) for _ in range(3)]
        await first.answer()

    assert [one.status for one in refused] == [429] * 3
    assert all("x-ratelimit-limit-" in " ".join(one.headers) for one in refused)
    assert house.server.reached.count(("POST", "/tokenize")) == 1


async def test_prompt_that_was_counted_and_is_too_long_counts_as_a_request_without_tokens(house: House) -> None:
    limits = Limits(max_context=300, requests_per_minute=2, tokens_per_minute=10_000)
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=limits))
    async with running(house):
        long = [await acme.ask("poet", prompt="a " * 400) for _ in range(3)]
        gauges = {one.kind: one.remaining for one in house.controls.quotas.standing("acme", "poet")}

    assert [one.status for one in long] == [400, 400, 429]
    assert house.server.reached.count(("POST", "/tokenize")) == 2
    assert (gauges["requests_per_minute"], gauges["tokens_per_minute"]) == (0, 10_000)


async def test_usage_is_counted_and_hidden_from_a_stream_that_did_not_ask(house: House) -> None:
    async with running(house):
        plain = await house.client.ask("poet", prompt="a b c", stream=True, max_tokens=4)
        asked = await house.client.ask("poet", prompt="a b", stream=True, stream_options={"include_usage": True})

    assert all("usage" not in event for event in plain.events)
    assert plain.body.endswith(b"data: [DONE]\n\n")
    assert asked.events[-1]["usage"] == {"prompt_tokens": 2, "total_tokens": 18, "completion_tokens": 16}
    assert [(one.input_tokens, one.output_tokens) for one in house.records.kept] == [(3, 4), (2, 16)]


async def test_every_request_is_counted_once_with_how_it_ended(house: House) -> None:
    house.engine.token_s = 0.005
    acme = house.client.with_key(house.registry.tenancy.add("acme", "poet", limits=Limits(max_output=500)))
    async with running(house):
        ids = [(await acme.ask("poet")).headers["x-loractl-request-id"], "", "", "", ""]
        ids[1] = (await acme.ask("clerk")).headers["x-loractl-request-id"]
        ids[2] = (await acme.post("/v1/completions", b"{")).headers["x-loractl-request-id"]
        ids[3] = (await house.client.ask("poet")).headers["x-loractl-request-id"]
        leaving = acme.begin_stream("poet", max_tokens=400)
        await leaving.begun(4)
        leaving.gone.set()
        assert leaving.task is not None
        await asyncio.wait_for(leaving.task, 5)
        numbers = house.numbers

    outcomes = [(one.tenant, one.adapter, one.version, one.outcome.value) for one in house.records.kept]
    assert outcomes == [
        ("acme", "poet", 1, "ok"),
        ("acme", "_unknown", None, "refused_unknown"),
        ("acme", "_unknown", None, "invalid"),
        ("acme", "poet", 1, "disconnected"),
    ]
    assert [one.id for one in house.records.kept[:3]] == ids[:3]
    assert 2 <= house.records.kept[-1].output_tokens < 400
    assert house.records.kept[0].adapter_digest
    assert {each.labels.tenant for each in numbers.series if sum(each.counters.values())} == {"acme", "_unknown"}


async def test_state_lists_everybody_and_shows_no_secret(house: House) -> None:
    key = house.registry.tenancy.add("acme", "poet", limits=Limits(requests_per_minute=10))
    operator = house.client.with_key({"authorization": "Bearer sesame"})
    async with running(house):
        await house.client.with_key(key).ask("poet")
        answer = await operator.get("/loractl/v1/state")

    state = json.loads(answer.body)
    tenant = next(one for one in state["tenants"] if one["name"] == "acme")
    assert answer.headers["cache-control"] == "no-store"
    assert [(one["name"], one["version"]) for one in state["adapters"][1:]] == [("clerk", 1), ("clerk", 2), ("poet", 1)]
    assert tenant["totals"]["requests"] == 1
    assert tenant["standing"] == [
        {"kind": "requests_per_minute", "limit": 10, "remaining": 9, "reset_s": pytest.approx(60, abs=2)}
    ]
    assert next(one for one in state["adapters"] if one["name"] == "poet")["is_resident"]
    assert key["authorization"].removeprefix("Bearer ") not in answer.body.decode()


async def test_metrics_stand_beside_the_engines(house: House) -> None:
    async with running(house):
        await house.client.ask("poet")
        scrape = await house.client.get("/metrics")

    assert scrape.headers["content-type"].startswith("text/plain")
    assert 'loractl_requests_total{adapter="poet",version="1",tenant="_operator"} 1' in scrape.body.decode()


def one_seat(root: Path, **options: object) -> House:
    house = make_house(root, engine=FakeEngine(token_s=0.01, max_num_seqs=1), **options)  # type: ignore[arg-type]
    for ref in ("poet@1", "clerk@1"):
        house.registry.set(ref, Stage.LIVE)
    return house


async def test_client_that_leaves_the_queue_frees_its_place_and_never_reaches_the_engine(tmp_path: Path) -> None:
    house = one_seat(tmp_path)
    async with running(house):
        first = house.client.begin_stream("poet", max_tokens=60)
        await first.begun()
        waiting = house.client.begin_stream("poet")
        await until(lambda: house.controls.admission.waiting == 1)
        waiting.gone.set()
        assert waiting.task is not None
        await asyncio.wait_for(waiting.task, 5)
        left = house.controls.admission.waiting
        await first.answer()

    assert left == 0
    assert waiting.messages == []
    assert len(house.server.bodies) == 1
    assert sorted(one.outcome.value for one in house.records.kept) == ["disconnected", "ok"]


async def test_tenant_of_the_foremost_class_goes_first_from_the_moment_it_is_in_it(tmp_path: Path) -> None:
    house = one_seat(tmp_path)
    tenancy = house.registry.tenancy
    keys = {name: tenancy.add(name, priority="standard") for name in ("first", "late")}
    async with running(house):
        tenancy.add("late", priority="interactive")
        await until(lambda: house.controls.door.callers.tenants["late"].tenant.priority == "interactive")
        seated = house.client.with_key(keys["first"]).begin_stream("poet", max_tokens=30)
        await seated.begun()
        calls = [house.client.with_key(keys[name]).begin_stream("poet", max_tokens=2) for name in ("first", "late")]
        await until(lambda: house.controls.admission.waiting == 2)
        for call in (seated, *calls):
            await call.answer()

    assert [one.tenant for one in house.records.kept] == ["first", "late", "first"]


async def test_revoked_while_it_waits_is_the_404_at_once(tmp_path: Path) -> None:
    house = one_seat(tmp_path)
    async with running(house):
        first = house.client.begin_stream("clerk", max_tokens=200)
        await first.begun()
        waiting = house.client.begin_stream("poet")
        await until(lambda: house.controls.admission.waiting == 1)
        house.registry.set("poet@1", Stage.REVOKED)
        refused = await waiting.answer()
        is_running = first.task is not None and not first.task.done()
        await first.answer()

    assert refused.status == 404
    assert is_running


async def test_wait_that_is_too_long_is_a_503_and_a_full_queue_a_429(tmp_path: Path) -> None:
    house = one_seat(
        tmp_path, settings=GatewaySettings(queue_timeout_s=0.05), limits=Lanes(max_waiting=2, max_waiting_per_tenant=1)
    )
    async with running(house):
        first = house.client.begin_stream("poet", max_tokens=100)
        await first.begun()
        waiting = house.client.begin_stream("poet")
        await until(lambda: house.controls.admission.waiting == 1)
        full, late = await house.client.ask("poet"), await waiting.answer()
        await first.answer()

    assert (full.status, full.headers["retry-after"]) == (429, "1")
    assert (late.status, late.headers["retry-after"]) == (503, "5")
    assert late.json()["error"]["code"] == "overloaded"  # type: ignore[index]


async def test_trace_of_the_client_is_dropped_where_no_trace_is_sent(house: House) -> None:
    trace = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    async with running(house):
        json_type = (b"content-type", b"application/json")
        await house.client.post("/v1/completions", {"model": "poet", "prompt": "x"}, headers=[json_type, trace])

    assert "traceparent" not in house.server.headers
