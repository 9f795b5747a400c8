"""Prometheus's alert rules, generated from the metrics' definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import yaml

from loractl.observability import definitions as of
from loractl.observability.outcomes import FAULTS, Outcome
from loractl.observability.promql import increase, level, quantile, rate, ratio, with_outcome, with_start

_WINDOW = "5m"
_VERSION = "{{ $labels.adapter }}@{{ $labels.version }}"
_dump_yaml = cast("Callable[..., str]", yaml.safe_dump)


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One alert.

    Attributes:
        expression: PromQL; the alert is on for whatever it returns.
        lasts: For how long it must return it first.
        summary: One line, with Prometheus's templates.
        action: What to look at first.
    """

    name: str
    expression: str
    lasts: str
    severity: str
    summary: str
    action: str


def alert_rules() -> tuple[AlertRule, ...]:
    """Return every alert; the thresholds are a start, for the operator to move."""
    return (*_answer_rules(), *_tenant_rules(), *_own_rules())


def alert_rules_yaml() -> str:
    """Return the alerts as the text of a Prometheus rule file."""
    rules = [
        {
            "alert": rule.name,
            "expr": rule.expression,
            "for": rule.lasts,
            "labels": {"severity": rule.severity},
            "annotations": {"summary": rule.summary, "description": rule.action},
        }
        for rule in alert_rules()
    ]
    return _dump_yaml({"groups": [{"name": "loractl", "rules": rules}]}, sort_keys=False, width=1000)


def _answer_rules() -> tuple[AlertRule, ...]:
    by = ("adapter", "version")
    faults = rate(of.ERROR_REQUESTS, by=by, where=with_outcome(*FAULTS), window=_WINDOW)
    failing = ratio(faults, rate(of.REQUESTS, by=by, window=_WINDOW))
    cold = rate(of.TIME_TO_FIRST_TOKEN, where=with_start(of.COLD), window=_WINDOW)
    return (
        AlertRule(
            "LoractlAdapterFails",
            f"{failing} > 0.05",
            "5m",
            "critical",
            f"{_VERSION} fails {{{{ $value | humanizePercentage }}}} of its requests",
            "loractl requests --adapter shows how they ended; loractl rollback returns to the version before.",
        ),
        AlertRule(
            "LoractlSlowFirstToken",
            f"{quantile(0.99, of.TIME_TO_FIRST_TOKEN, by=by, window=_WINDOW)} > 5",
            "10m",
            "warning",
            f"{_VERSION}: the 99th percentile of the time to first token is {{{{ $value | humanizeDuration }}}}",
            "Compare with the queue time: if that is long too, the engine has more work than it can do.",
        ),
        AlertRule(
            "LoractlBreakGlass",
            f"{level(of.UNREVIEWED, by=by)} > 0",
            "1m",
            "warning",
            f"{_VERSION} serves by break-glass, without the approvals that the policy asks for",
            "loractl show says who broke it, why, and when it is over; loractl review has what a reviewer needs.",
        ),
        AlertRule(
            "LoractlQueueTimeLong",
            f"{quantile(0.99, of.QUEUE_TIME, window=_WINDOW)} > 10",
            "10m",
            "warning",
            "the 99th percentile of the queue time is {{ $value | humanizeDuration }}",
            "loractl top shows whose requests wait, and who has the engine.",
        ),
        AlertRule(
            "LoractlAdaptersThrash",
            f"{ratio(cold, rate(of.TIME_TO_FIRST_TOKEN, window=_WINDOW))} > 0.2",
            "10m",
            "warning",
            "{{ $value | humanizePercentage }} of the requests wait until their adapter is brought into a slot",
            "More adapters are in use than the engine has slots: raise max_adapters, or retire some.",
        ),
    )


def _tenant_rules() -> tuple[AlertRule, ...]:
    refused = rate(of.REFUSED_REQUESTS, by=("tenant",), where=with_outcome(Outcome.REFUSED_QUOTA), window=_WINDOW)
    strangers = rate(of.REFUSED_REQUESTS, where=with_outcome(Outcome.REFUSED_KEY), window=_WINDOW)
    return (
        AlertRule(
            "LoractlTenantOverQuota",
            f"{ratio(refused, rate(of.REQUESTS, by=('tenant',), window=_WINDOW))} > 0.2",
            "15m",
            "info",
            "{{ $labels.tenant }} has {{ $value | humanizePercentage }} of its requests refused by its quota",
            "loractl tenant show has the limits; raise them, or tell the tenant.",
        ),
        AlertRule(
            "LoractlUnknownKeys",
            f"{strangers} > 1",
            "10m",
            "warning",
            "{{ $value | humanize }} requests a second come with keys that do not exist",
            "A client has an old key, or somebody tries keys.",
        ),
    )


def _own_rules() -> tuple[AlertRule, ...]:
    by = of.RECORDS_DROPPED.labels
    requests = rate(of.REQUESTS, window=_WINDOW)
    nameless = rate(of.REQUESTS, where=(f'adapter="{of.OTHER}"',), window=_WINDOW)
    return (
        AlertRule(
            "LoractlRecordsDropped",
            f"{increase(of.RECORDS_DROPPED, by=by, window='10m')} > 0",
            "1m",
            "warning",
            f"records of requests are lost: {{{{ $labels.{by[0]} }}}}",
            "The answers are not affected. Look at the disk that has LORACTL_HOME, and at the server's log.",
        ),
        AlertRule(
            "LoractlTooManyLabelSets",
            f"{ratio(nameless, requests)} > 0.5",
            "30m",
            "info",
            f"{{{{ $value | humanizePercentage }}}} of the requests are counted under {of.OTHER}",
            "More adapters and tenants are in use than have series of their own; loractl usage has all of them.",
        ),
        AlertRule(
            "LoractlDown",
            f"absent({of.SERIES.sample})",
            "2m",
            "critical",
            "no loractl server is scraped",
            "loractl serve has stopped, or Prometheus cannot reach /metrics.",
        ),
    )
