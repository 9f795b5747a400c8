"""The Grafana dashboard, generated from the metrics' definitions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from loractl.observability import definitions as of
from loractl.observability.outcomes import Outcome
from loractl.observability.promql import (
    DASHBOARD_FILTER,
    label_values,
    level,
    quantile,
    rate,
    ratio,
    with_outcome,
    with_start,
)

TITLE = "loractl"
_UID = "loractl-adapters"
# The first version whose panels look like these; Grafana itself migrates what is older than it.
_SCHEMA_VERSION = 39
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        queries: PromQL, each with the template of its legend.
        unit: Grafana's name of the unit.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class Row:
    """Graphs under one heading."""

    title: str
    panels: tuple[Panel, ...]


def dashboard_rows() -> tuple[Row, ...]:
    """Return what the dashboard shows."""
    return (
        Row("Traffic", _traffic()),
        Row("Latency", _latency()),
        Row("Tenants and limits", _tenants()),
        Row("Engine and records", _engine()),
    )


def grafana_dashboard() -> dict[str, object]:
    """Return the dashboard as Grafana imports it; it asks for the Prometheus data source when it is opened."""
    return {
        "uid": _UID,
        "title": TITLE,
        "description": "What each LoRA adapter and each tenant does on one engine.",
        "tags": ["loractl", "vllm", "lora"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": _laid_out(dashboard_rows()),
    }


def grafana_json() -> str:
    """Return the dashboard as the text of a file."""
    return json.dumps(grafana_dashboard(), indent=2) + "\n"


def _graph(title: str, metric: of.Metric, unit: str, *queries: tuple[str, str]) -> Panel:
    return Panel(title, queries, unit, metric.help)


def _traffic() -> tuple[Panel, ...]:
    def shown(metric: of.Metric) -> str:
        return rate(metric, by=("adapter", "version"), where=DASHBOARD_FILTER)

    in_flight = level(of.IN_FLIGHT, by=("adapter", "version"), where=DASHBOARD_FILTER)
    errors = rate(of.ERROR_REQUESTS, by=("adapter", of.OUTCOME_LABEL), where=DASHBOARD_FILTER)
    return (
        _graph("Requests by adapter", of.REQUESTS, "reqps", (shown(of.REQUESTS), _VERSION)),
        _graph("Errors", of.ERROR_REQUESTS, "reqps", (errors, f"{{{{adapter}}}} {{{{{of.OUTCOME_LABEL}}}}}")),
        _graph(
            "Share of requests that failed",
            of.ERROR_REQUESTS,
            "percentunit",
            (ratio(shown(of.ERROR_REQUESTS), shown(of.REQUESTS)), _VERSION),
        ),
        _graph("Input tokens by adapter", of.INPUT_TOKENS, "ops", (shown(of.INPUT_TOKENS), _VERSION)),
        _graph("Output tokens by adapter", of.OUTPUT_TOKENS, "ops", (shown(of.OUTPUT_TOKENS), _VERSION)),
        _graph("Requests in the engine", of.IN_FLIGHT, "short", (in_flight, _VERSION)),
    )


def _latency() -> tuple[Panel, ...]:
    def quantiles(metric: of.Metric, where: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
        chosen = (*where, *DASHBOARD_FILTER)
        return tuple(
            (quantile(share, metric, by=("adapter",), where=chosen), f"{{{{adapter}}}} p{share * 100:g}")
            for share in (0.5, 0.99)
        )

    def graph(title: str, metric: of.Metric, where: Sequence[str] = ()) -> Panel:
        return _graph(title, metric, "s", *quantiles(metric, where))

    return (
        graph("Time to first token, adapter in a slot", of.TIME_TO_FIRST_TOKEN, with_start(of.WARM)),
        graph("Time to first token, adapter brought in", of.TIME_TO_FIRST_TOKEN, with_start(of.COLD)),
        graph("Inter-token latency", of.INTER_TOKEN_LATENCY),
        graph("Whole request, adapter in a slot", of.TOTAL_LATENCY, with_start(of.WARM)),
        graph("Whole request, adapter brought in", of.TOTAL_LATENCY, with_start(of.COLD)),
        graph("Queue time", of.QUEUE_TIME),
    )


def _tenants() -> tuple[Panel, ...]:
    def shown(metric: of.Metric) -> str:
        return rate(metric, by=("tenant",), where=DASHBOARD_FILTER)

    waiting = level(of.WAITING, by=("tenant",), where=DASHBOARD_FILTER)
    refused = rate(of.REFUSED_REQUESTS, by=("tenant", of.OUTCOME_LABEL), where=DASHBOARD_FILTER)
    quota = rate(of.REFUSED_REQUESTS, by=("tenant",), where=(*with_outcome(Outcome.REFUSED_QUOTA), *DASHBOARD_FILTER))
    busy = shown(of.BUSY_SECONDS)
    return (
        _graph("Requests by tenant", of.REQUESTS, "reqps", (shown(of.REQUESTS), _TENANT)),
        _graph("Refused", of.REFUSED_REQUESTS, "reqps", (refused, f"{_TENANT} {{{{{of.OUTCOME_LABEL}}}}}")),
        _graph(
            "Share of requests over quota",
            of.REFUSED_REQUESTS,
            "percentunit",
            (ratio(quota, shown(of.REQUESTS)), _TENANT),
        ),
        _graph("Output tokens by tenant", of.OUTPUT_TOKENS, "ops", (shown(of.OUTPUT_TOKENS), _TENANT)),
        _graph("Requests at a time, by tenant", of.BUSY_SECONDS, "short", (busy, _TENANT)),
        _graph("Waiting by tenant", of.WAITING, "short", (waiting, _TENANT)),
    )


def _engine() -> tuple[Panel, ...]:
    dropped = rate(of.RECORDS_DROPPED, by=of.RECORDS_DROPPED.labels)
    return (
        _graph("Adapters in slots", of.RESIDENT, "short", (level(of.RESIDENT), "in slots")),
        _graph("Adapters by break-glass", of.UNREVIEWED, "short", (level(of.UNREVIEWED), "without approval")),
        _graph(
            "Records of requests",
            of.RECORDS_WRITTEN,
            "ops",
            (rate(of.RECORDS_WRITTEN), "written"),
            (dropped, "dropped: {{" + of.RECORDS_DROPPED.labels[0] + "}}"),
        ),
        _graph("Label sets with series", of.SERIES, "short", (level(of.SERIES), "label sets")),
    )


_VERSION = "{{adapter}}@{{version}}"
_TENANT = "{{tenant}}"


def _variables() -> list[dict[str, object]]:
    source: dict[str, object] = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
    }
    return [source, *(_variable(label) for label in ("adapter", "tenant"))]


def _variable(label: str) -> dict[str, object]:
    query = label_values(label)
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": f"values-{label}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "hide": 0,
    }


def _laid_out(rows: Sequence[Row]) -> list[dict[str, object]]:
    panels: list[dict[str, object]] = []
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": _WIDTH * _COLUMNS, "h": 1}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        top += 1
        for i, panel in enumerate(row.panels):
            x, y = _WIDTH * (i % _COLUMNS), top + _HEIGHT * (i // _COLUMNS)
            panels.append(_timeseries(panel, len(panels) + 1, {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT}))
        top += _HEIGHT * -(-len(row.panels) // _COLUMNS)
    return panels


def _timeseries(panel: Panel, number: int, place: dict[str, int]) -> dict[str, object]:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": _DATASOURCE, "expr": expression, "legendFormat": legend}
        for i, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    }
