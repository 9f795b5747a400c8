"""A scrape is valid in both formats, alone and behind what the engine's server answers."""

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from loractl.observability.definitions import (
    FOLDED,
    INTER_TOKEN_LATENCY,
    METRICS,
    OTHER,
    QUEUE_TIME,
    RECORDS_DROPPED,
    REQUESTS,
    RESIDENT,
    UNREVIEWED,
    MetricType,
)
from loractl.observability.exposition import beside, open_metrics_exposition, text_exposition
from loractl.observability.metrics import Metrics, MetricsLimits
from loractl.observability.outcomes import DropReason, Outcome
from loractl.observability.series import LabelSet

BOT = LabelSet("bot", "3", "acme")
FORMATS = pytest.mark.parametrize(
    ("expose", "parse"),
    [
        pytest.param(text_exposition, parse_text, id="text"),
        pytest.param(open_metrics_exposition, parse_open_metrics, id="open-metrics"),
    ],
)


def samples(parse, exposition):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(exposition.decode())
        for sample in family.samples
    }


@pytest.fixture
def metrics(clock):
    metrics = Metrics(MetricsLimits(max_series=3), now=clock)
    running = metrics.begin(BOT)
    clock.seconds += 0.25
    running.admitted(is_cold=True)
    clock.seconds += 0.5
    running.tokens([clock()])
    clock.seconds += 0.125
    running.tokens([clock()])
    running.end(Outcome.ENGINE, input_tokens=5, output_tokens=7)
    return metrics


@FORMATS
def test_every_metric_is_declared_as_it_is_defined(metrics, expose, parse):
    families = {family.name: family for family in parse(expose(metrics.snapshot()).decode())}

    assert set(families) == {metric.name for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        assert {sample.name for sample in family.samples} <= metric.samples


def test_open_metrics_tell_units(metrics):
    families = parse_open_metrics(open_metrics_exposition(metrics.snapshot()).decode())

    assert {family.name: family.unit for family in families} == {metric.name: metric.unit for metric in METRICS}


@FORMATS
def test_values_are_those_that_were_recorded(metrics, expose, parse):
    found = samples(parse, expose(metrics.snapshot()))

    labels = (("adapter", "bot"), ("tenant", "acme"), ("version", "3"))
    assert found["loractl_requests_total", *labels] == 1
    assert found["loractl_request_errors_total", ("adapter", "bot"), ("outcome", "engine"), *labels[1:]] == 1
    assert found["loractl_request_errors_total", ("adapter", "bot"), ("outcome", "aborted"), *labels[1:]] == 0
    assert found["loractl_engine_busy_seconds_total", *labels] == 0.625
    assert found["loractl_queue_time_seconds_sum", *labels] == 0.25
    assert found["loractl_time_to_first_token_seconds_sum", ("adapter", "bot"), ("start", "cold"), *labels[1:]] == 0.75


@FORMATS
def test_buckets_are_cumulative_and_end_in_the_count(metrics, expose, parse):
    found = samples(parse, expose(metrics.snapshot()))

    for metric, seconds in ((QUEUE_TIME, 0.25), (INTER_TOKEN_LATENCY, 0.125)):
        buckets = {
            float(dict(labels)["le"]): value
            for (name, *labels), value in found.items()
            if name == metric.bucket_sample and ("adapter", "bot") in labels
        }
        assert buckets == {bound: float(seconds <= bound) for bound in (*metric.buckets, float("inf"))}


@FORMATS
@pytest.mark.parametrize("tenant", ['quote"', "back\\slash", "\\n", "ünïcödé", "{}", "a,b=c", ""])
def test_label_values_come_out_as_they_went_in(metrics, expose, parse, tenant):
    metrics.turned_away(LabelSet("bot", "3", tenant), Outcome.OK)

    found = samples(parse, expose(metrics.snapshot()))

    assert found[REQUESTS.sample, ("adapter", "bot"), ("tenant", tenant), ("version", "3")] == 1


@FORMATS
def test_residents_beyond_the_bound_are_one_series(metrics, expose, parse):
    metrics.resident([(name, "1") for name in "edcba"] + [("a", "1")])

    found = samples(parse, expose(metrics.snapshot()))

    residents = {key[1][1]: value for key, value in found.items() if key[0] == RESIDENT.sample}
    assert residents == {"a": 1, "b": 1, "c": 1, OTHER: 2}


@FORMATS
def test_what_serves_by_break_glass_is_marked(metrics, expose, parse):
    metrics.unreviewed([("bot", "3")])

    found = samples(parse, expose(metrics.snapshot()))

    assert [key for key in found if key[0] == UNREVIEWED.sample] == [
        (UNREVIEWED.sample, ("adapter", "bot"), ("version", "3"))
    ]


@FORMATS
def test_records_are_counted(metrics, expose, parse):
    metrics.records_written(3)
    metrics.records_dropped(DropReason.LOCKED, 2)

    found = samples(parse, expose(metrics.snapshot()))

    assert found["loractl_records_written_total",] == 3
    dropped = {key[1][1]: value for key, value in found.items() if key[0] == RECORDS_DROPPED.sample}
    assert dropped == {reason: 2.0 * (reason is DropReason.LOCKED) for reason in DropReason}


def test_first_error_is_preceded_by_a_zero():
    metrics = Metrics()
    metrics.turned_away(BOT, Outcome.OK)

    text = text_exposition(metrics.snapshot()).decode()

    assert 'loractl_request_errors_total{adapter="bot",version="3",tenant="acme",outcome="engine"} 0\n' in text


def test_nothing_recorded_is_exposed_too():
    found = samples(parse_text, text_exposition(Metrics().snapshot()))

    counted = {key[1][1]: value for key, value in found.items() if key[0] == REQUESTS.sample}
    assert counted == {OTHER: 0, FOLDED: 0}


@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "no-newline"])
@pytest.mark.parametrize(
    ("generate", "parse"), [(generate_latest, parse_text), (generate_open_metrics, parse_open_metrics)]
)
def test_exposition_stands_beside_the_engines_in_its_format(metrics, generate, parse, is_cut):
    registry = CollectorRegistry()
    Counter("engine_prompt_tokens", "Number of prefill tokens.", registry=registry).inc(5)
    theirs = generate(registry)
    if is_cut and parse is parse_text:
        theirs = theirs.rstrip(b"\n")

    both = samples(parse, beside(theirs, metrics.snapshot()))

    assert both["engine_prompt_tokens_total",] == 5
    assert both["loractl_records_written_total",] == 0


def test_histograms_alone_end_in_bucket_samples():
    assert {metric for metric in METRICS if metric.bucket_sample in metric.samples} == {
        metric for metric in METRICS if metric.type is MetricType.HISTOGRAM
    }
