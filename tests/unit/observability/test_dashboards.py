"""What is exported names only metrics and labels that exist, and its own validators take it."""

import json
import re

import promql_parser
import pytest
import yaml

from loractl.observability.alerts import alert_rules, alert_rules_yaml
from loractl.observability.dashboards import dashboard_rows, grafana_dashboard, grafana_json
from loractl.observability.definitions import METRICS, REQUEST_METRICS

PANELS = [panel for row in dashboard_rows() for panel in row.panels]
EXPRESSIONS = [
    *(pytest.param(expression, id=panel.title) for panel in PANELS for expression, _ in panel.queries),
    *(pytest.param(rule.expression, id=rule.name) for rule in alert_rules()),
]
LABELS = {sample: {*metric.labels, "le"} for metric in METRICS for sample in metric.samples}
VARIABLES = {"$__rate_interval": "5m", "$adapter": ".*", "$tenant": ".*"}


def parsed(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return promql_parser.parse(expression)


def selectors(node):
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        children = getattr(node, name, None)
        for child in children if isinstance(children, list) else [children]:
            if child is not None:
                yield from selectors(child)


def groupings(node):
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
        yield set(modifier.labels)
    for name in ("lhs", "rhs", "expr", "args"):
        children = getattr(node, name, None)
        for child in children if isinstance(children, list) else [children]:
            if child is not None:
                yield from groupings(child)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_is_promql_over_metrics_and_labels_that_exist(expression):
    tree = parsed(expression)

    found = list(selectors(tree))
    assert found
    for selector in found:
        assert {matcher.name for matcher in selector.matchers.matchers} <= LABELS[selector.name]
        alternatives = [matcher for matcher in selector.matchers.matchers if "|" in matcher.value]
        assert all(matcher.op is promql_parser.MatchOp.Re for matcher in alternatives)
    shared = set.intersection(*(LABELS[selector.name] for selector in found))
    assert all(labels <= shared for labels in groupings(tree))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rate_never_counts_what_was_folded(expression):
    by_adapter = {sample for metric in REQUEST_METRICS for sample in metric.samples}

    for selector in selectors(parsed(expression)):
        if selector.name in by_adapter:
            kept = [each.value for each in selector.matchers.matchers if each.op is promql_parser.MatchOp.NotEqual]
            assert kept == ["_folded"] or [m.value for m in selector.matchers.matchers if m.name == "adapter"] == [
                "_other",
                "_folded",
            ]


def test_closed_label_values_that_are_asked_for_exist():
    known = {metric.labels[-1]: set() for metric in METRICS if metric.values}
    for metric in METRICS:
        if metric.values:
            known[metric.labels[-1]] |= set(metric.values)

    for expression in (each.values[0] for each in EXPRESSIONS):
        for label, values in re.findall(r'(outcome|start|reason)=~?"([^"]*)"', expression):
            assert set(values.split("|")) <= known[label]


def test_every_metric_is_shown_or_alerted_on():
    named = set(re.findall(r"loractl_[a-z_]+", " ".join(each.values[0] for each in EXPRESSIONS)))

    assert {metric.name for metric in METRICS if not metric.samples & named} == {"loractl_metric_folds"}


def test_grafanas_own_models_take_the_dashboard_and_give_it_back():
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import dashboard, prometheus

    plugins.register_default_plugins()
    exported = json.loads(grafana_json())

    model = dashboard.Dashboard.from_json(exported)

    assert contained(exported, json.loads(JSONEncoder().encode(model)), "")
    targets = [target for panel in model.panels for target in getattr(panel, "targets", None) or []]
    assert targets
    assert all(isinstance(target, prometheus.Dataquery) for target in targets)


def contained(part, whole, path):
    if isinstance(part, dict):
        return all(contained(value, whole[key], f"{path}/{key}") for key, value in part.items())
    if isinstance(part, list):
        assert len(part) == len(whole), path
        return all(contained(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(part, whole, strict=True)))
    assert part == whole, path
    return True


def test_panels_have_their_own_numbers_and_overlap_nowhere():
    panels = grafana_dashboard()["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_legends_name_only_labels_that_the_query_keeps():
    for panel in PANELS:
        for expression, legend in panel.queries:
            kept = set().union(*groupings(parsed(expression)))
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept


def test_rule_file_has_prometheus_form():
    (group,) = yaml.safe_load(alert_rules_yaml())["groups"]

    assert set(group) == {"name", "rules"}
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Loractl[A-Za-z]+", rule["alert"])
        assert promql_parser.parse_duration(rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) == len(alert_rules())


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule.name)
def test_templates_of_an_alert_name_only_labels_that_it_has(rule):
    kept = set.intersection(*groupings(parsed(rule.expression))) if "by (" in rule.expression else set()

    assert set(re.findall(r"\$labels\.(\w+)", rule.summary)) <= kept
