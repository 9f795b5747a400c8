"""PromQL over the metrics that `definitions` names."""

from __future__ import annotations

from collections.abc import Iterable

from loractl.observability.definitions import FOLDED, OUTCOME_LABEL, REQUESTS, START_LABEL, Metric

DASHBOARD_WINDOW = "$__rate_interval"
_HISTORY = f'adapter!="{FOLDED}"'
DASHBOARD_FILTER = ('adapter=~"$adapter"', 'tenant=~"$tenant"')
"""What the variables of the dashboard choose."""


def rate(metric: Metric, *, by: Iterable[str] = (), where: Iterable[str] = (), window: str = DASHBOARD_WINDOW) -> str:
    """Return how fast `metric` grows a second: a counter's value, or a histogram's number of observations."""
    return f"sum{_by(by)} (rate({metric.sample}{_selector(metric, where)}[{window}]))"


def increase(metric: Metric, *, by: Iterable[str] = (), where: Iterable[str] = (), window: str) -> str:
    """Return by how much `metric` grew within `window`."""
    return f"sum{_by(by)} (increase({metric.sample}{_selector(metric, where)}[{window}]))"


def quantile(
    share: float,
    metric: Metric,
    *,
    by: Iterable[str] = (),
    where: Iterable[str] = (),
    window: str = DASHBOARD_WINDOW,
) -> str:
    """Return the `share` quantile of a histogram."""
    buckets = f"rate({metric.bucket_sample}{_selector(metric, where)}[{window}])"
    return f"histogram_quantile({share:g}, sum{_by(('le', *by))} ({buckets}))"


def level(metric: Metric, *, by: Iterable[str] = (), where: Iterable[str] = ()) -> str:
    """Return what a gauge says now."""
    return f"sum{_by(by)} ({metric.sample}{_selector(metric, where)})"


def ratio(part: str, whole: str) -> str:
    """Return `part` of `whole`; nothing where `whole` is nothing."""
    return f"{part} / ({whole} > 0)"


def with_outcome(*outcomes: str) -> tuple[str, ...]:
    """Return the condition that the requests ended in one of these ways."""
    return (f'{OUTCOME_LABEL}=~"{"|".join(outcomes)}"',)


def with_start(start: str) -> tuple[str, ...]:
    """Return the condition that the adapter was, or was not, in the engine already."""
    return (f'{START_LABEL}="{start}"',)


def label_values(label: str) -> str:
    """Return Grafana's query for what `label` can be."""
    return f"label_values({REQUESTS.sample}{_selector(REQUESTS, ())}, {label})"


def _by(labels: Iterable[str]) -> str:
    names = ", ".join(labels)
    return f" by ({names})" if names else ""


def _selector(metric: Metric, where: Iterable[str]) -> str:
    # What was folded jumps up when series are dropped, and must count in no rate.
    kept = [_HISTORY] if "adapter" in metric.labels else []
    conditions = ", ".join([*where, *kept])
    return f"{{{conditions}}}" if conditions else ""
