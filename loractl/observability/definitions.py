"""Every metric of loractl, as data: what is recorded, exposed, drawn, and alerted on is named here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from loractl.observability.outcomes import ERRORS, REFUSALS, DropReason


class MetricType(StrEnum):
    """Prometheus's type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


# Identity is equality, so that a metric is a key that costs nothing to hash.
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric family.

    Attributes:
        name: Family name, without the suffixes that Prometheus puts behind it.
        labels: Names of all labels, in order of exposition.
        values: What the last label may say, where that is a closed set; such a metric has one series for each of them.
        unit: OpenMetrics unit, which also ends the name; empty for plain counts.
        buckets: Upper bounds of a histogram, inclusive, ascending, without infinity.
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()

    @property
    def sample(self) -> str:
        """Name of the sample that carries the value; of the count of observations for a histogram."""
        match self.type:
            case MetricType.COUNTER:
                return f"{self.name}_total"
            case MetricType.GAUGE:
                return self.name
            case MetricType.HISTOGRAM:
                return f"{self.name}_count"

    @property
    def samples(self) -> frozenset[str]:
        """Names of all samples that a scrape shows of it."""
        if self.type is MetricType.HISTOGRAM:
            return frozenset({self.sample, self.bucket_sample, f"{self.name}_sum"})
        return frozenset({self.sample})

    @property
    def bucket_sample(self) -> str:
        """Name of the samples that a histogram's quantiles are computed from."""
        return f"{self.name}_bucket"


SERIES_LABELS = ("adapter", "version", "tenant")
OUTCOME_LABEL = "outcome"
START_LABEL = "start"
COLD, WARM = "cold", "warm"
OTHER = "_other"
"""Label value of everything that has no series of its own. No adapter can have this name, which starts with ``_``."""
FOLDED = "_folded"
"""Label value of what series held when they were dropped: part of every total, never of a rate."""
BASE = "_base"
"""Label value `adapter` of requests that the base model answers itself."""
OPERATOR = "_operator"
"""Label value `tenant` of requests with the operator's key, and of all where no key is wanted."""
UNKNOWN = "_unknown"
"""Label value of what a request named that does not exist, or of who sent it: a client's own words label nothing."""

_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_WAIT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FIRST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOTAL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)

REQUESTS = Metric(
    "loractl_requests",
    MetricType.COUNTER,
    "Requests that ended, whatever their outcome.",
    SERIES_LABELS,
)
ERROR_REQUESTS = Metric(
    "loractl_request_errors",
    MetricType.COUNTER,
    "Requests that were let in and got no whole answer, by outcome.",
    (*SERIES_LABELS, OUTCOME_LABEL),
    values=ERRORS,
)
REFUSED_REQUESTS = Metric(
    "loractl_requests_refused",
    MetricType.COUNTER,
    "Requests that were turned away before the engine saw them, by rule.",
    (*SERIES_LABELS, OUTCOME_LABEL),
    values=REFUSALS,
)
INPUT_TOKENS = Metric(
    "loractl_input_tokens", MetricType.COUNTER, "Prompt tokens of requests that ended.", SERIES_LABELS
)
OUTPUT_TOKENS = Metric(
    "loractl_output_tokens", MetricType.COUNTER, "Generated tokens of requests that ended.", SERIES_LABELS
)
BUSY_SECONDS = Metric(
    "loractl_engine_busy_seconds",
    MetricType.COUNTER,
    "Seconds that requests spent in the engine; requests of one batch each count in full.",
    SERIES_LABELS,
    unit="seconds",
)
QUEUE_TIME = Metric(
    "loractl_queue_time_seconds",
    MetricType.HISTOGRAM,
    "Seconds from a request's arrival until the gateway handed it to the engine.",
    SERIES_LABELS,
    unit="seconds",
    buckets=_WAIT_S,
)
TIME_TO_FIRST_TOKEN = Metric(
    "loractl_time_to_first_token_seconds",
    MetricType.HISTOGRAM,
    "Seconds from a request's arrival until its first token, by whether its adapter was resident in the engine.",
    (*SERIES_LABELS, START_LABEL),
    values=(COLD, WARM),
    unit="seconds",
    buckets=_FIRST_S,
)
INTER_TOKEN_LATENCY = Metric(
    "loractl_inter_token_latency_seconds",
    MetricType.HISTOGRAM,
    "Seconds between two tokens of one answer.",
    SERIES_LABELS,
    unit="seconds",
    buckets=_FAST_S,
)
TOTAL_LATENCY = Metric(
    "loractl_request_latency_seconds",
    MetricType.HISTOGRAM,
    "Seconds from a request's arrival until its answer ended, by whether its adapter was resident in the engine.",
    (*SERIES_LABELS, START_LABEL),
    values=(COLD, WARM),
    unit="seconds",
    buckets=_TOTAL_S,
)
WAITING = Metric(
    "loractl_requests_waiting", MetricType.GAUGE, "Requests that wait for their turn in the gateway.", SERIES_LABELS
)
IN_FLIGHT = Metric("loractl_requests_in_flight", MetricType.GAUGE, "Requests that the engine works on.", SERIES_LABELS)
RESIDENT = Metric(
    "loractl_adapter_resident",
    MetricType.GAUGE,
    "1 for each adapter version whose weights are in a slot of the engine.",
    ("adapter", "version"),
)
UNREVIEWED = Metric(
    "loractl_adapter_unreviewed",
    MetricType.GAUGE,
    "1 for each adapter version that serves by break-glass, without the approvals that the policy asks for.",
    ("adapter", "version"),
)
SERIES = Metric("loractl_metric_series", MetricType.GAUGE, "Label sets that have series of their own.")
FOLDS = Metric("loractl_metric_folds", MetricType.COUNTER, "Label sets whose series were dropped since the start.")
RECORDS_WRITTEN = Metric("loractl_records_written", MetricType.COUNTER, "Records of requests that were kept.")
RECORDS_DROPPED = Metric(
    "loractl_records_dropped",
    MetricType.COUNTER,
    "Records of requests that were lost, by reason; no request waits for its record.",
    ("reason",),
    values=tuple(DropReason),
)

REQUEST_METRICS = (
    REQUESTS,
    ERROR_REQUESTS,
    REFUSED_REQUESTS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    BUSY_SECONDS,
    QUEUE_TIME,
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_LATENCY,
    TOTAL_LATENCY,
    WAITING,
    IN_FLIGHT,
)
"""What is recorded for each label set of `SERIES_LABELS`."""
OWN_METRICS = (RESIDENT, UNREVIEWED, SERIES, FOLDS, RECORDS_WRITTEN, RECORDS_DROPPED)
"""What is recorded once for the whole server."""
METRICS = (*REQUEST_METRICS, *OWN_METRICS)
