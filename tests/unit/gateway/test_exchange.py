"""What an exchange says of an answer's tokens, and when."""

from hypothesis import given
from hypothesis import strategies as st
from support.gateway import make_base
from support.live import Clock

from loractl.gateway.exchange import Journal
from loractl.gateway.table import Target
from loractl.observability import definitions as of
from loractl.observability.metrics import Metrics

BEHIND_S = 0.25


class Grant:
    """A place whose charges are kept."""

    is_cold = False

    def __init__(self):
        self.input_tokens, self.output_tokens, self.is_held = 0, 0, True

    def charge(self, *, input_tokens=None, output_tokens=0):
        assert self.is_held
        self.input_tokens = self.input_tokens if input_tokens is None else input_tokens
        self.output_tokens += output_tokens


def answering(clock):
    metrics, grant = Metrics(now=clock), Grant()
    exchange = Journal(metrics).open("id", ())
    exchange.goes_to(Target("tiny", None), make_base())
    return metrics, grant, exchange


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=60))
def test_tokens_are_noted_within_a_quarter_of_a_second_of_the_next(gaps):
    clock = Clock()
    metrics, grant, exchange = answering(clock)
    left = []
    with exchange, exchange.granted(grant, input_tokens=5):
        for gap in gaps:
            clock.seconds += gap
            exchange.token()
            left.append(clock())
            assert grant.output_tokens >= sum(at <= left[-1] - BEHIND_S for at in left)
            assert grant.output_tokens >= 1

    snapshot = metrics.snapshot()
    assert grant.output_tokens == exchange.output_tokens == snapshot.total(of.OUTPUT_TOKENS) == len(gaps)
    assert snapshot.total(of.TIME_TO_FIRST_TOKEN, of.WARM) == 1
    assert snapshot.total(of.INTER_TOKEN_LATENCY) == len(gaps) - 1


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_what_the_engine_counted_replaces_what_was_seen(before, after, counted):
    clock = Clock()
    metrics, grant, exchange = answering(clock)
    with exchange:
        with exchange.granted(grant, input_tokens=5):
            for _ in range(before):
                clock.seconds += 0.01
                exchange.token()
            exchange.counted(7, counted)
            for _ in range(after):
                exchange.token()
        grant.is_held = False

    assert (grant.input_tokens, grant.output_tokens) == (7, counted + after)
    assert metrics.snapshot().total(of.INPUT_TOKENS) == 7
