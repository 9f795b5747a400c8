"""The metrics' definitions keep Prometheus's and OpenMetrics' rules."""

import re

import pytest

from loractl.observability import definitions
from loractl.observability.definitions import METRICS, SERIES_LABELS, Metric, MetricType
from loractl.observability.outcomes import ERRORS, FAULTS, REFUSALS, Outcome


def test_every_metric_that_is_defined_is_exposed():
    defined = {value for value in vars(definitions).values() if isinstance(value, Metric)}

    assert set(METRICS) == defined
    assert len(METRICS) == len(defined)


def test_no_two_metrics_share_a_sample():
    samples = [sample for metric in METRICS for sample in metric.samples]

    assert len(samples) == len(set(samples))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_is_named_by_the_rules(metric):
    assert re.fullmatch(r"loractl_[a-z_]+[a-z]", metric.name)
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_created", "_info"))
    assert metric.name.endswith(f"_{metric.unit}" if metric.unit else "")
    assert metric.help.endswith(".")
    assert all(re.fullmatch(r"[a-z]+", label) and label not in ("le", "quantile") for label in metric.labels)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_only_histograms_have_buckets_and_they_ascend(metric):
    assert bool(metric.buckets) == (metric.type is MetricType.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_metrics_of_requests_tell_adapter_version_and_tenant():
    assert all(metric.labels[:3] == SERIES_LABELS for metric in definitions.REQUEST_METRICS)


def test_every_outcome_is_exactly_one_of_ok_error_and_refusal():
    assert {Outcome.OK, *ERRORS, *REFUSALS} == set(Outcome)
    assert 1 + len(ERRORS) + len(REFUSALS) == len(Outcome)


def test_faults_are_errors():
    assert set(FAULTS) <= set(ERRORS)
