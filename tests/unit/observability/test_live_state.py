"""The document of a server's live state says what was recorded, for everybody, and nothing else."""

import json
from datetime import UTC, datetime

import pytest

from loractl.observability.definitions import BASE, FOLDED, INPUT_TOKENS, OTHER, REQUESTS, UNKNOWN
from loractl.observability.live_state import (
    AdapterFacts,
    BaseFacts,
    EngineFacts,
    HealthFacts,
    LimitStanding,
    TenantFacts,
    live_state,
)
from loractl.observability.metrics import Metrics, MetricsLimits
from loractl.observability.outcomes import ERRORS, REFUSALS, Outcome
from loractl.observability.series import LabelSet

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)
BOT = LabelSet("bot", "3", "acme")


@pytest.fixture
def metrics(clock):
    return Metrics(MetricsLimits(max_series=4, max_candidates=8), now=clock)


def state_of(metrics, **changes):
    facts = {
        "now": NOW,
        "base": BaseFacts("tiny", "sha256:00"),
        "health": HealthFacts("ok"),
        "fairness": "vtc",
        "capacity": EngineFacts(max_num_seqs=16, slots=4, kv_use=0.25),
        "adapters": [AdapterFacts("bot", 3, "live"), AdapterFacts("poet", 1, "approved")],
        "tenants": [TenantFacts("acme", 2.0, {"concurrent": 4}, [LimitStanding("concurrent", 4, 3, 0.0)])],
        "uptime_s": 12.5,
    }
    return live_state(metrics.snapshot(), **(facts | changes))


def named(rows, name):
    (row,) = [row for row in rows if row["name"] == name]
    return row


def serve(metrics, clock, labels, *, seconds=1.0):
    running = metrics.begin(labels)
    clock.seconds += 0.1
    running.admitted()
    clock.seconds += seconds
    running.tokens([clock()])
    clock.seconds += 0.02
    running.tokens([clock()])
    running.end(Outcome.OK, input_tokens=5, output_tokens=2)


def test_server_that_was_never_asked_lists_everybody(metrics):
    state = state_of(metrics)

    assert [(row["name"], row["version"], row["stage"]) for row in state["adapters"]] == [
        ("tiny", None, None),
        ("bot", 3, "live"),
        ("poet", 1, "approved"),
    ]
    assert [row["name"] for row in state["tenants"]] == ["acme"]
    assert state["totals"]["requests"] == 0
    assert state["totals"]["ttft"] == {"count": 0, "sum_s": 0.0, "buckets": []}


def test_facts_are_said_as_they_were_given(metrics):
    state = state_of(metrics, health=HealthFacts("degraded", "the engine cannot answer"))

    assert (state["format"], state["at"], state["uptime_s"]) == (1, "2026-01-31T09:00:00.000000Z", 12.5)
    assert state["base"] == {"name": "tiny", "digest": "sha256:00"}
    assert state["health"] == {"status": "degraded", "reason": "the engine cannot answer"}
    assert state["engine"] == {"max_num_seqs": 16, "slots": 4, "kv_use": 0.25}
    (tenant,) = state["tenants"]
    assert (tenant["weight"], tenant["limits"]) == (2.0, {"concurrent": 4})
    assert tenant["standing"] == [{"kind": "concurrent", "limit": 4, "remaining": 3, "reset_s": 0.0}]


def test_requests_are_counted_for_the_adapter_the_tenant_and_the_server(metrics, clock):
    serve(metrics, clock, BOT)
    metrics.turned_away(BOT, Outcome.REFUSED_QUOTA)

    state = state_of(metrics)

    for totals in (
        named(state["adapters"], "bot")["totals"],
        named(state["tenants"], "acme")["totals"],
        state["totals"],
    ):
        assert (totals["requests"], totals["input_tokens"], totals["output_tokens"]) == (2, 5, 2)
        assert totals["refused"] == dict.fromkeys(REFUSALS, 0) | {"refused_quota": 1}
        assert totals["errors"] == dict.fromkeys(ERRORS, 0)
        assert totals["busy_s"] == pytest.approx(1.02)


def test_base_answers_under_its_own_name(metrics, clock):
    serve(metrics, clock, LabelSet(BASE, "", "acme"))

    base = state_of(metrics)["adapters"][0]

    assert (base["name"], base["version"], base["is_resident"], base["totals"]["requests"]) == ("tiny", None, True, 1)


def test_cold_and_warm_starts_are_one_histogram(metrics, clock):
    for is_cold in (True, False):
        running = metrics.begin(BOT)
        running.admitted(is_cold=is_cold)
        clock.seconds += 0.3
        running.tokens([clock()])
        running.end(Outcome.OK)

    ttft = state_of(metrics)["totals"]["ttft"]

    assert (ttft["count"], ttft["sum_s"]) == (2, pytest.approx(0.6))
    assert dict(ttft["buckets"]) | {0.2: 0, 0.35: 2, 60.0: 2} == dict(ttft["buckets"])


def test_observation_beyond_the_last_bucket_is_in_the_count_alone(metrics, clock):
    serve(metrics, clock, BOT, seconds=100.0)

    ttft = state_of(metrics)["totals"]["ttft"]

    assert (ttft["count"], ttft["buckets"][-1]) == (1, [60.0, 0])


def test_running_requests_are_where_they_are(metrics):
    metrics.begin(BOT)
    metrics.begin(BOT).admitted()

    state = state_of(metrics)

    assert (state["waiting"], state["in_flight"]) == (1, 1)
    assert (named(state["adapters"], "bot")["waiting"], named(state["tenants"], "acme")["in_flight"]) == (1, 1)


def test_residency_is_what_the_snapshot_says(metrics):
    metrics.resident([("bot", "3")])

    state = state_of(metrics)

    assert {row["name"]: row["is_resident"] for row in state["adapters"]} == {"tiny": True, "bot": True, "poet": False}


def test_versions_come_in_the_order_of_their_numbers(metrics):
    state = state_of(metrics, adapters=[AdapterFacts("bot", number, "approved") for number in (10, 9, 1)])

    assert [row["version"] for row in state["adapters"]] == [None, 1, 9, 10]


def test_version_that_the_registry_no_longer_serves_is_listed_while_it_counts(metrics, clock):
    serve(metrics, clock, LabelSet("old", "1", "gone"))

    state = state_of(metrics)

    assert named(state["adapters"], "old")["stage"] is None
    assert named(state["tenants"], "gone")["weight"] is None


def test_unknown_names_are_one_row(metrics):
    metrics.turned_away(LabelSet(UNKNOWN, "", UNKNOWN), Outcome.REFUSED_UNKNOWN)

    row = named(state_of(metrics)["adapters"], UNKNOWN)

    assert (row["version"], row["totals"]["refused"]["refused_unknown"]) == (None, 1)


def test_totals_hold_what_dropped_series_counted_and_no_row_does(metrics, clock):
    serve(metrics, clock, BOT)
    before = state_of(metrics)["totals"]

    metrics.revoked("bot", "3")
    state = state_of(metrics, adapters=[])

    assert state["totals"] == before
    assert not {FOLDED, "bot"} & {row["name"] for row in state["adapters"] + state["tenants"]}


def test_totals_are_those_of_the_metrics_whoever_has_series(metrics, clock):
    for number in range(12):
        serve(metrics, clock, LabelSet("bot", str(number), "acme"))
    snapshot = metrics.snapshot()

    state = state_of(metrics, adapters=[])

    assert state["totals"]["requests"] == snapshot.total(REQUESTS) == 12
    assert state["totals"]["input_tokens"] == snapshot.total(INPUT_TOKENS)
    assert named(state["adapters"], OTHER)["totals"]["requests"] == 8


def test_document_is_json_as_it_stands(metrics, clock):
    serve(metrics, clock, BOT, seconds=100.0)
    state = state_of(metrics)

    assert json.loads(json.dumps(state, allow_nan=False)) == state
