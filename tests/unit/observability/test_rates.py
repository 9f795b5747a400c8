"""What lies between two live states is what was recorded between them, or nothing."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl.observability.definitions import TIME_TO_FIRST_TOKEN
from loractl.observability.errors import StateUnreadableError
from loractl.observability.live_state import AdapterFacts, BaseFacts, EngineFacts, HealthFacts, TenantFacts, live_state
from loractl.observability.metrics import Metrics
from loractl.observability.outcomes import Outcome
from loractl.observability.rates import Quantile, Trail, quantile, window
from loractl.observability.series import LabelSet
from loractl.observability.state_document import Distribution, LiveState, parse_state

BOT = LabelSet("bot", "3", "acme")
POET = LabelSet("poet", "1", "zeta")
BOUNDS = TIME_TO_FIRST_TOKEN.buckets

latencies = st.lists(st.floats(min_value=0.0, max_value=200.0), max_size=60)


class SteppingClock:
    """Seconds that pass when a test says so, made anew for each example."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def utc(self) -> datetime:
        return datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=self.seconds)


class Server:
    """Metrics whose state can be read as a client reads it."""

    def __init__(self, clock) -> None:
        self._clock = clock
        self._started = clock()
        self.metrics = Metrics(now=clock)

    def serve(self, labels, *, outcome=Outcome.OK, first_s=0.25, tokens=(5, 2)):
        running = self.metrics.begin(labels)
        running.admitted()
        self._clock.seconds += first_s
        running.tokens([self._clock()])
        running.end(outcome, input_tokens=tokens[0], output_tokens=tokens[1])

    def state(self, *, base="tiny", has_uptime=True) -> LiveState:
        document = live_state(
            self.metrics.snapshot(),
            now=self._clock.utc(),
            base=BaseFacts(base, "sha256:00"),
            health=HealthFacts("ok"),
            fairness="off",
            capacity=EngineFacts(16, 4),
            adapters=[AdapterFacts("bot", 3, "live")],
            tenants=[TenantFacts("acme")],
            uptime_s=self._clock() - self._started if has_uptime else None,
        )
        return parse_state(json.dumps(document).encode())


@pytest.fixture
def server(clock):
    return Server(clock)


def distribution(observed, bounds=BOUNDS):
    buckets = [(bound, sum(each <= bound for each in observed)) for bound in bounds]
    return Distribution(count=len(observed), sum_s=math.fsum(observed), buckets=buckets)


def bucket_of(seconds):
    index = next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
    return (0.0, *BOUNDS)[index], (*BOUNDS, math.inf)[index]


@given(before=latencies, between=latencies, share=st.floats(min_value=0.001, max_value=1.0))
def test_quantile_lies_in_the_bucket_of_the_true_one(before, between, share):
    found = quantile(share, distribution(before), distribution(before + between))

    if not between:
        assert found is None
        return
    low, high = bucket_of(sorted(between)[math.ceil(share * len(between)) - 1])
    assert found == Quantile(BOUNDS[-1], is_beyond=True) if high == math.inf else low <= found.seconds <= high


@given(between=latencies.filter(len), shares=st.tuples(*[st.floats(min_value=0.001, max_value=1.0)] * 2).map(sorted))
def test_quantile_of_a_larger_share_is_no_less(between, shares):
    lesser, greater = (quantile(share, None, distribution(between)) for share in shares)

    assert (lesser.is_beyond, lesser.seconds) <= (greater.is_beyond, greater.seconds)


def test_quantile_interpolates_within_its_bucket():
    found = quantile(0.5, None, distribution([0.6] * 10, bounds=(0.5, 1.0)))

    assert found == Quantile(0.75)


def test_quantile_beyond_the_last_bucket_says_so():
    assert quantile(0.99, None, distribution([500.0])) == Quantile(60.0, is_beyond=True)


@given(
    counts=st.lists(st.tuples(st.sampled_from([BOT, POET]), st.sampled_from(list(Outcome))), max_size=30),
    idle_s=st.floats(min_value=0.5, max_value=100.0),
)
def test_rates_times_seconds_are_what_was_recorded(counts, idle_s):
    clock = SteppingClock()
    server = Server(clock)
    server.serve(BOT)
    before = server.state()
    for labels, outcome in counts:
        server.serve(labels, outcome=outcome)
    clock.seconds += idle_s

    found = window(before, server.state())

    assert found.total.requests_per_s * found.elapsed_s == pytest.approx(len(counts))
    assert found.total.output_tokens_per_s * found.elapsed_s == pytest.approx(2 * len(counts))
    for rows in (found.adapters, found.tenants):
        assert sum(each.requests_per_s for each in rows.values()) == pytest.approx(found.total.requests_per_s)
        shares = [each.busy_share for each in rows.values() if each.busy_share is not None]
        assert sum(shares) == pytest.approx(1.0 if counts else 0.0)
    errors = sum(outcome.is_error for _, outcome in counts)
    assert found.total.error_share == (pytest.approx(errors / len(counts)) if counts else None)


def test_only_what_lies_between_counts(server, clock):
    server.serve(BOT, first_s=30.0)
    before = server.state()
    server.serve(BOT, first_s=0.25)
    clock.seconds += 0.75

    found = window(before, server.state())

    assert found.elapsed_s == pytest.approx(1.0)
    assert found.adapters["bot", 3].ttft.count == 1
    assert found.adapters["bot", 3].ttft.p99.seconds < 0.5


def test_idle_server_has_no_shares_and_no_latencies(server, clock):
    before = server.state()
    clock.seconds += 2

    found = window(before, server.state()).total

    assert (found.requests_per_s, found.error_share, found.busy_share, found.ttft.p50) == (0.0, None, None, None)


def test_adapter_that_appears_counts_from_nothing(server, clock):
    before = server.state()
    server.serve(POET)

    found = window(before, server.state())

    assert found.adapters["poet", 1].requests_per_s * found.elapsed_s == pytest.approx(1.0)


def test_row_whose_counts_were_folded_away_is_left_out(server, clock):
    server.serve(BOT)
    before = server.state()
    server.metrics.revoked("bot", "3")
    server.serve(POET)

    found = window(before, server.state())

    assert ("bot", 3) not in found.adapters
    assert found.total.requests_per_s * found.elapsed_s == pytest.approx(1.0)


@pytest.mark.parametrize("has_uptime", [True, False])
def test_restart_is_no_window(clock, has_uptime):
    old = Server(clock)
    old.serve(BOT)
    clock.seconds += 60
    before = old.state(has_uptime=has_uptime)
    new = Server(clock)
    clock.seconds += 1

    assert window(before, new.state(has_uptime=has_uptime)) is None


def test_server_of_another_base_is_no_window(server, clock):
    before = server.state()
    clock.seconds += 1

    assert window(before, server.state(base="other")) is None


def test_wall_clock_that_goes_backwards_changes_nothing(server, clock):
    before = server.state()
    server.serve(BOT)
    clock.seconds += 0.75
    after = server.state()

    found = window(before, after.model_copy(update={"at": before.at - timedelta(hours=1)}))

    assert found == window(before, after)


def test_wall_clock_alone_that_goes_backwards_is_no_window(server, clock):
    before = server.state(has_uptime=False)
    clock.seconds += 2
    after = server.state(has_uptime=False)

    assert window(after, before) is None
    assert window(before, before) is None


def test_trail_looks_back_as_far_as_its_window(server, clock):
    trail = Trail(window_s=10.0)
    found = []
    for _ in range(8):
        found.append(trail.add(server.state()))
        clock.seconds += 4

    assert found[0] is None
    assert [each.elapsed_s for each in found[1:]] == pytest.approx([4, 8, 12, 12, 12, 12, 12])


def test_trail_starts_anew_after_a_restart(clock):
    trail = Trail()
    old = Server(clock)
    old.serve(BOT)
    clock.seconds += 60
    trail.add(old.state())
    new = Server(clock)
    clock.seconds += 1

    assert trail.add(new.state()) is None
    new.serve(BOT)
    clock.seconds += 0.75
    assert trail.add(new.state()).elapsed_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff{}", id="not-text"),
        pytest.param(b"[]", id="no-object"),
        pytest.param(b'{"format": 2}', id="newer-format"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_document_that_is_none_is_refused(body):
    with pytest.raises(StateUnreadableError, match="cannot read the server's live state"):
        parse_state(body)


def test_counts_that_no_server_has_are_refused(server):
    body = server.state().model_dump_json().replace('"requests":0', '"requests":-1', 1)

    with pytest.raises(StateUnreadableError, match="requests"):
        parse_state(body.encode())
