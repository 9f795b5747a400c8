"""Whatever happens in whatever order, the sum over all label sets is what was recorded, and memory stays bounded."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from loractl.observability import definitions as of
from loractl.observability.exposition import open_metrics_exposition, text_exposition
from loractl.observability.metrics import Metrics, MetricsLimits
from loractl.observability.outcomes import Outcome
from loractl.observability.series import LabelSet, nanoseconds

LIMITS = MetricsLimits(max_series=3, max_candidates=4, half_life_s=60.0)
NAMES = st.one_of(st.sampled_from(["a", "b", "c", of.OTHER, of.FOLDED, of.BASE]), st.text(max_size=6))
LABELS = st.builds(LabelSet, NAMES, st.sampled_from(["", "1", "2"]), NAMES)
OUTCOMES = st.sampled_from(list(Outcome))
TOKENS = st.integers(0, 10_000)


class Recording(RuleBasedStateMachine):
    """Keeps every sum beside the metrics, in one counter that knows no labels."""

    running = Bundle("running")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.metrics = Metrics(LIMITS, now=lambda: self.now)
        self.sums = Counter()
        self.revoked = set()

    @rule(seconds=st.floats(0, 1000))
    def pass_time(self, seconds):
        self.now += seconds

    @rule(target=running, labels=LABELS)
    def begin(self, labels):
        self.sums[of.WAITING] += 1
        return {"running": self.metrics.begin(labels), "arrived": self.now, "admitted": None, "last": None}

    @rule(request=running, is_cold=st.booleans())
    def admit(self, request, is_cold):
        request["running"].admitted(is_cold=is_cold)
        if request["admitted"] is None:
            request["admitted"] = self.now
            self.sums[of.WAITING] -= 1
            self.sums[of.IN_FLIGHT] += 1
            self.observe(of.QUEUE_TIME, self.now - request["arrived"])

    @rule(request=running)
    def token(self, request):
        request["running"].tokens([self.now])
        if request["last"] is None:
            self.observe(of.TIME_TO_FIRST_TOKEN, self.now - request["arrived"])
        else:
            self.observe(of.INTER_TOKEN_LATENCY, self.now - request["last"])
        request["last"] = self.now

    @rule(request=consumes(running), outcome=OUTCOMES, input_tokens=TOKENS, output_tokens=TOKENS)
    def end(self, request, outcome, input_tokens, output_tokens):
        request["running"].end(outcome, input_tokens=input_tokens, output_tokens=output_tokens)
        request["running"].end(Outcome.OK, output_tokens=1)
        if request["admitted"] is None:
            self.sums[of.WAITING] -= 1
        else:
            self.sums[of.IN_FLIGHT] -= 1
            self.sums[of.BUSY_SECONDS] += nanoseconds(self.now - request["admitted"])
            self.observe(of.TOTAL_LATENCY, self.now - request["arrived"])
        self.sums[of.INPUT_TOKENS] += input_tokens
        self.sums[of.OUTPUT_TOKENS] += output_tokens
        self.count(outcome)

    @rule(labels=LABELS, outcome=OUTCOMES, times=st.integers(1, 20))
    def turn_away(self, labels, outcome, times):
        for _ in range(times):
            self.metrics.turned_away(labels, outcome)
            self.count(outcome)

    @rule(labels=LABELS)
    def revoke(self, labels):
        self.metrics.revoked(labels.adapter, labels.version)
        self.revoked.add(labels[:2])

    @rule(labels=LABELS)
    def retire_and_remove(self, labels):
        self.metrics.retired(labels.adapter, labels.version)
        self.metrics.tenant_removed(labels.tenant)

    @rule(first=st.booleans())
    def retire_what_has_series(self, first):
        dropped = [each.labels for each in self.metrics.snapshot().series][: 1 if first else None]
        for labels in dropped:
            self.metrics.retired(labels.adapter, labels.version)

    @rule()
    def scrape(self):
        snapshot = self.metrics.snapshot()
        self.check_sums(snapshot)
        self.check_label_sets(snapshot.series)

    def teardown(self):
        self.scrape()
        self.check_text(self.metrics.snapshot())

    def check_sums(self, snapshot):
        for metric in of.REQUEST_METRICS:
            assert self.total_ns(snapshot, metric) == self.sums[metric]
            if metric.type is of.MetricType.HISTOGRAM:
                assert snapshot.total(metric) == self.sums[metric, "count"]

    def check_label_sets(self, series):
        assert len(series) <= LIMITS.max_series + 2
        assert len({each.labels for each in series}) == len(series)
        assert not {each.labels[:2] for each in series} & (self.revoked - {(of.OTHER, ""), (of.FOLDED, "")})

    def check_text(self, snapshot):
        for text, parse in (
            (text_exposition(snapshot).decode(), parse_text),
            (open_metrics_exposition(snapshot).decode(), parse_open_metrics),
        ):
            read = Counter()
            for sample in (sample for family in parse(text) for sample in family.samples):
                read[sample.name] += sample.value
            assert read[of.REQUESTS.sample] == self.sums[of.REQUESTS]
            assert read[of.OUTPUT_TOKENS.sample] == self.sums[of.OUTPUT_TOKENS]
            assert read[of.ERROR_REQUESTS.sample] == self.sums[of.ERROR_REQUESTS]
            assert read[of.TOTAL_LATENCY.sample] == self.sums[of.TOTAL_LATENCY, "count"]

    def observe(self, metric, seconds):
        self.sums[metric] += nanoseconds(seconds)
        self.sums[metric, "count"] += 1

    def count(self, outcome):
        self.sums[of.REQUESTS] += 1
        self.sums[of.ERROR_REQUESTS] += outcome.is_error
        self.sums[of.REFUSED_REQUESTS] += outcome.is_refusal

    @staticmethod
    def total_ns(snapshot, metric):
        if metric.type is of.MetricType.GAUGE:
            return snapshot.total(metric)
        counted = (each.counters.items() for each in snapshot.series)
        observed = (each.histograms.items() for each in snapshot.series)
        return sum(count for each in counted for key, count in each if key[0] is metric) + sum(
            histogram.sum_ns for each in observed for key, histogram in each if key[0] is metric
        )


TestRecording = Recording.TestCase
TestRecording.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
