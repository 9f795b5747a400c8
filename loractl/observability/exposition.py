"""The text of a scrape: what Prometheus reads, beside what the engine's own server answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from loractl.observability.definitions import (
    IN_FLIGHT,
    METRICS,
    OTHER,
    OWN_METRICS,
    RESIDENT,
    SERIES,
    SERIES_LABELS,
    UNREVIEWED,
    WAITING,
    Metric,
    MetricType,
)
from loractl.observability.series import NS, Series
from loractl.observability.snapshot import Snapshot

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EOF = b"# EOF\n"


def text_exposition(snapshot: Snapshot) -> bytes:
    """Return `snapshot` in Prometheus's text format 0.0.4 (`TEXT_TYPE`)."""
    return _render(snapshot, _text_head)


def open_metrics_exposition(snapshot: Snapshot) -> bytes:
    """Return `snapshot` as OpenMetrics 1.0 (`OPEN_METRICS_TYPE`)."""
    return _render(snapshot, _open_metrics_head) + _EOF


def beside(theirs: bytes, snapshot: Snapshot) -> bytes:
    """Return the engine's exposition followed by ours, in the format of theirs; their bytes stay what they are."""
    if theirs.endswith(_EOF):
        return theirs.removesuffix(_EOF) + open_metrics_exposition(snapshot)
    gap = b"\n" if theirs and not theirs.endswith(b"\n") else b""
    return theirs + gap + text_exposition(snapshot)


def _text_head(metric: Metric) -> list[str]:
    name = metric.sample if metric.type is MetricType.COUNTER else metric.name
    return [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.type}"]


def _open_metrics_head(metric: Metric) -> list[str]:
    unit = [f"# UNIT {metric.name} {metric.unit}"] if metric.unit else []
    return [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.type}", *unit]


# Written here and not with prometheus_client's objects, which take several times as long, and the loop that streams
# answers stands still for it.
def _render(snapshot: Snapshot, head: Callable[[Metric], list[str]]) -> bytes:
    named = [(_labels(SERIES_LABELS, each.labels), each) for each in snapshot.series]
    lines: list[str] = []
    for metric in METRICS:
        lines += head(metric)
        lines += _own_samples(metric, snapshot) if metric in OWN_METRICS else _request_samples(metric, named)
    lines.append("")
    return "\n".join(lines).encode()


def _request_samples(metric: Metric, named: Sequence[tuple[str, Series]]) -> Iterator[str]:
    for labels, series in named:
        if metric is WAITING:
            yield f"{metric.sample}{{{labels}}} {series.waiting}"
        elif metric is IN_FLIGHT:
            yield f"{metric.sample}{{{labels}}} {series.in_flight}"
        elif metric.type is MetricType.HISTOGRAM:
            yield from _histogram_samples(metric, labels, series)
        else:
            yield from _counter_samples(metric, labels, series)


def _counter_samples(metric: Metric, labels: str, series: Series) -> Iterator[str]:
    if not metric.values:
        yield f"{metric.sample}{{{labels}}} {_value(metric, series.counters.get((metric, ''), 0))}"
    for value in metric.values:
        # Zeroes too: a counter that appears with its first error has no rate, and raises no alert.
        count = series.counters.get((metric, value), 0)
        yield f'{metric.sample}{{{labels},{metric.labels[-1]}="{value}"}} {_value(metric, count)}'


def _histogram_samples(metric: Metric, labels: str, series: Series) -> Iterator[str]:
    for value in metric.values or ("",):
        histogram = series.histograms.get((metric, value))
        if histogram is None:
            continue
        whole = f'{labels},{metric.labels[-1]}="{value}"' if metric.values else labels
        start, total = f'{metric.name}_bucket{{{whole},le="', 0
        for bound, count in zip((*metric.buckets, "+Inf"), histogram.counts, strict=True):
            total += count
            yield f'{start}{bound}"}} {total}'
        yield f"{metric.name}_count{{{whole}}} {total}"
        yield f"{metric.name}_sum{{{whole}}} {histogram.sum_ns / NS!r}"


def _own_samples(metric: Metric, snapshot: Snapshot) -> Iterator[str]:
    if metric is SERIES:
        yield f"{metric.sample} {len(snapshot.series)}"
    elif metric in (RESIDENT, UNREVIEWED):
        marked = snapshot.resident if metric is RESIDENT else snapshot.unreviewed
        shown, rest = marked[: snapshot.max_series], marked[snapshot.max_series :]
        for pair in shown:
            yield f"{metric.sample}{{{_labels(metric.labels, pair)}}} 1"
        if rest:
            yield f"{metric.sample}{{{_labels(metric.labels, (OTHER, OTHER))}}} {len(rest)}"
    else:
        for value in metric.values or ("",):
            labels = f'{{{metric.labels[-1]}="{value}"}}' if value else ""
            yield f"{metric.sample}{labels} {_value(metric, snapshot.own[metric, value])}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _value(metric: Metric, value: int) -> str:
    return repr(value / NS) if metric.unit else str(value)
