"""What is recorded adds up, whoever has series of their own and whoever lost them."""

import threading
import time
import tracemalloc

import pytest

from loractl.observability.definitions import (
    BUSY_SECONDS,
    COLD,
    ERROR_REQUESTS,
    FOLDED,
    FOLDS,
    IN_FLIGHT,
    INPUT_TOKENS,
    INTER_TOKEN_LATENCY,
    OTHER,
    OUTPUT_TOKENS,
    QUEUE_TIME,
    REFUSED_REQUESTS,
    REQUESTS,
    TIME_TO_FIRST_TOKEN,
    TOTAL_LATENCY,
    UNKNOWN,
    WAITING,
    WARM,
)
from loractl.observability.metrics import Metrics, MetricsLimits, Timings
from loractl.observability.outcomes import Outcome
from loractl.observability.series import LabelSet

BOT = LabelSet("bot", "3", "acme")


@pytest.fixture
def metrics(clock):
    return Metrics(MetricsLimits(max_series=2, max_candidates=4), now=clock)


def labels_of(metrics):
    return {each.labels for each in metrics.snapshot().series} - {LabelSet(*[OTHER] * 3), LabelSet(*[FOLDED] * 3)}


def series_of(metrics, labels):
    return next(each for each in metrics.snapshot().series if each.labels == labels)


def serve(metrics, labels, *, times=1):
    for _ in range(times):
        running = metrics.begin(labels)
        running.admitted()
        running.end(Outcome.OK, input_tokens=2, output_tokens=3)


def test_request_is_timed_from_its_arrival(metrics, clock):
    running = metrics.begin(BOT, arrived=clock() - 1)
    clock.seconds += 2
    running.admitted(is_cold=True)
    clock.seconds += 4
    running.tokens([clock()])
    clock.seconds += 8
    running.tokens([clock()])
    clock.seconds += 16

    timings = running.end(Outcome.OK, input_tokens=5, output_tokens=7)

    assert timings == Timings(queue_s=3.0, first_token_s=7.0, busy_s=28.0, total_s=31.0)
    histograms = series_of(metrics, BOT).histograms
    assert {key: each.sum_ns / 1e9 for key, each in histograms.items()} == {
        (QUEUE_TIME, ""): 3.0,
        (TIME_TO_FIRST_TOKEN, COLD): 7.0,
        (INTER_TOKEN_LATENCY, ""): 8.0,
        (TOTAL_LATENCY, COLD): 31.0,
    }
    snapshot = metrics.snapshot()
    assert snapshot.total(BUSY_SECONDS) == 28.0
    assert (snapshot.total(INPUT_TOKENS), snapshot.total(OUTPUT_TOKENS)) == (5, 7)


def test_observation_on_a_bound_counts_below_it(metrics, clock):
    running = metrics.begin(BOT)
    clock.seconds += QUEUE_TIME.buckets[6]
    running.admitted()

    assert series_of(metrics, BOT).histograms[QUEUE_TIME, ""].counts[6] == 1


def test_request_waits_then_flies_then_neither(metrics):
    running = metrics.begin(BOT)
    waiting = metrics.snapshot()
    running.admitted()
    running.admitted()
    flying = metrics.snapshot()
    running.end(Outcome.OK)
    running.end(Outcome.ENGINE)
    running.tokens([metrics.now()])
    ended = metrics.snapshot()

    assert [(each.total(WAITING), each.total(IN_FLIGHT)) for each in (waiting, flying, ended)] == [
        (1, 0),
        (0, 1),
        (0, 0),
    ]
    assert (ended.total(REQUESTS), ended.total(ERROR_REQUESTS), ended.total(TIME_TO_FIRST_TOKEN)) == (1, 0, 0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_outcome_is_counted_as_what_it_is(metrics, outcome):
    metrics.turned_away(BOT, outcome)

    snapshot = metrics.snapshot()
    assert snapshot.total(REQUESTS) == 1
    assert snapshot.total(ERROR_REQUESTS, outcome) == snapshot.total(ERROR_REQUESTS) == outcome.is_error
    assert snapshot.total(REFUSED_REQUESTS, outcome) == snapshot.total(REFUSED_REQUESTS) == outcome.is_refusal


@pytest.mark.parametrize("seconds", [-5.0, float("nan"), float("inf"), 1e300])
def test_clock_that_misbehaves_spoils_no_sum(metrics, clock, seconds):
    running = metrics.begin(BOT)
    clock.seconds += seconds
    running.admitted()
    clock.seconds = 1000.0

    timings = running.end(Outcome.OK)

    assert 0 <= timings.queue_s <= 1e9
    assert 0 <= series_of(metrics, BOT).histograms[QUEUE_TIME, ""].sum_ns <= 10**18


def test_set_without_series_gets_some_once_it_is_used_more(metrics):
    serve(metrics, LabelSet("a", "1", "t"), times=5)
    serve(metrics, LabelSet("b", "1", "t"), times=20)
    serve(metrics, BOT, times=60)

    assert labels_of(metrics) == {LabelSet("b", "1", "t"), BOT}
    serve(metrics, BOT)
    assert series_of(metrics, BOT).counters[REQUESTS, ""] == 1
    assert metrics.snapshot().total(REQUESTS) == 86
    assert metrics.snapshot().total(FOLDS) == 1


def test_set_that_is_used_equally_much_replaces_nobody(metrics):
    for _ in range(50):
        for name in "abc":
            serve(metrics, LabelSet(name, "1", "t"))

    assert labels_of(metrics) == {LabelSet("a", "1", "t"), LabelSet("b", "1", "t")}


def test_set_that_is_used_no_more_gives_way(metrics, clock):
    for name in "ab":
        serve(metrics, LabelSet(name, "1", "t"), times=1000)
    clock.seconds += 24 * 3600.0
    metrics.snapshot()
    serve(metrics, BOT, times=10)

    assert BOT in labels_of(metrics)


def test_revoked_version_has_no_series_and_gets_none(metrics):
    running = metrics.begin(BOT)
    running.admitted()
    metrics.revoked("bot", "3")
    running.end(Outcome.ABORTED, output_tokens=4)
    serve(metrics, BOT)

    assert labels_of(metrics) == set()
    snapshot = metrics.snapshot()
    assert (snapshot.total(REQUESTS), snapshot.total(IN_FLIGHT), snapshot.total(OUTPUT_TOKENS)) == (2, 0, 7)


def test_candidate_that_is_revoked_gets_no_series(metrics):
    for name in "ab":
        serve(metrics, LabelSet(name, "1", "t"))
    serve(metrics, BOT, times=50)
    metrics.revoked("bot", "3")

    assert BOT not in labels_of(metrics)


def test_retired_version_may_come_back(metrics):
    serve(metrics, BOT)
    metrics.retired("bot", "3")
    assert labels_of(metrics) == set()

    serve(metrics, BOT)

    assert labels_of(metrics) == {BOT}
    assert metrics.snapshot().total(REQUESTS) == 2


def test_what_was_dropped_before_is_added_to(metrics, clock):
    for number in range(3):
        running = metrics.begin(BOT)
        clock.seconds += 2.0**number
        running.admitted()
        running.end(Outcome.OK)
        metrics.retired("bot", "3")

    folded = series_of(metrics, LabelSet(FOLDED, FOLDED, FOLDED)).histograms[QUEUE_TIME, ""]
    assert (sum(folded.counts), folded.sum_ns) == (3, 7_000_000_000)


def test_removed_tenant_takes_only_its_own_series_along(metrics):
    other = LabelSet("bot", "3", "globex")
    serve(metrics, BOT)
    serve(metrics, other)

    metrics.tenant_removed("acme")

    assert labels_of(metrics) == {other}


@pytest.mark.parametrize("value", ["x" * 129, "a\nb", "\ud800", "\x00", OTHER, FOLDED])
def test_hostile_label_value_is_counted_and_not_kept(metrics, value):
    serve(metrics, LabelSet("bot", "3", value))

    assert labels_of(metrics) == set()
    assert metrics.snapshot().total(REQUESTS) == 1


def test_memory_does_not_grow_with_label_sets():
    metrics = Metrics()
    for number in range(5_000):
        metrics.turned_away(LabelSet(UNKNOWN, "", f"warm-up-{number}"), Outcome.REFUSED_UNKNOWN)
        metrics.revoked("warm-up", str(number))
    tracemalloc.start()
    for number in range(20_000):
        metrics.turned_away(LabelSet(UNKNOWN, "", f"tenant-{number}"), Outcome.REFUSED_UNKNOWN)
        metrics.turned_away(LabelSet("y" * 1000 + str(number), "", "t"), Outcome.REFUSED_UNKNOWN)
        metrics.revoked("never-seen", str(number))
    # Threads of other tests allocate too; the labels are this file's.
    ours = [tracemalloc.Filter(True, pattern) for pattern in ("*/loractl/observability/*", __file__)]
    held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)
    tracemalloc.stop()

    assert 0 < held < 256 * 1024
    assert metrics.snapshot().total(REQUESTS) == 45_000


def test_threads_lose_nothing():
    metrics = Metrics(MetricsLimits(max_series=5, max_candidates=8))
    rounds, threads = 500, 4

    def work(seed):
        for number in range(rounds):
            running = metrics.begin(LabelSet(f"a{(number * seed) % 11}", "1", "t"))
            running.admitted()
            running.tokens([metrics.now()])
            running.end(Outcome.OK, output_tokens=1)
            if number % 100 == 0:
                metrics.retired(f"a{number % 11}", "1")
                metrics.snapshot()

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(1, threads + 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    snapshot = metrics.snapshot()
    assert snapshot.total(REQUESTS) == snapshot.total(OUTPUT_TOKENS) == rounds * threads
    assert snapshot.total(TIME_TO_FIRST_TOKEN, WARM) == snapshot.total(TOTAL_LATENCY) == rounds * threads
    assert (snapshot.total(WAITING), snapshot.total(IN_FLIGHT)) == (0, 0)


def test_event_of_a_request_takes_less_than_20_us():
    metrics = Metrics()
    sets = [LabelSet(f"a{number}", "1", f"t{number % 7}") for number in range(300)]
    rounds, events = 1000, 4

    def one_batch():
        begun = time.perf_counter()
        for number in range(rounds):
            running = metrics.begin(sets[number % 300])
            running.admitted()
            running.tokens([metrics.now()])
            running.end(Outcome.OK, input_tokens=5, output_tokens=7)
        return (time.perf_counter() - begun) / rounds / events

    assert min(one_batch() for _ in range(10)) < 20e-6
