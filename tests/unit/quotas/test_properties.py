"""Random requests against a slow model that keeps every single use."""

from collections import defaultdict
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.quotas.quota_parts import HandClock, remaining, tenant

from loractl.quotas import Quotas, Refusal, Reservation
from loractl_registry.tenancy import Limits

ADAPTERS = st.sampled_from(["bot", "other"])
PASSES = st.sampled_from([0.0, 0.001, 0.4, 1.0, 7.7, 29.99, 59.5, 60.0, 60.9, 61.0]) | st.floats(0, 90)


class Model:
    """Every use of one scope, with when it was made."""

    def __init__(self, limits):
        self.limits = limits
        self.requests, self.tokens, self.days, self.open = [], [], defaultdict(int), 0

    def within(self, uses, now, span_s):
        return sum(use[1] for use in uses if now - use[0] < span_s)

    def fits(self, now, day, tokens, span_s):
        limits = self.limits
        return (
            _holds(limits.requests_per_minute, self.within(self.requests, now, span_s) + 1)
            and _holds(limits.tokens_per_minute, self.within(self.tokens, now, span_s) + tokens)
            and _holds(limits.concurrent, self.open + 1)
            and _holds(limits.tokens_per_day, self.days[day] + tokens)
        )


def _holds(limit, used):
    return limit is None or used <= limit


LIMITS = Limits(requests_per_minute=6, tokens_per_minute=60, concurrent=3, tokens_per_day=400)
BOT_LIMITS = Limits(requests_per_minute=4, tokens_per_minute=45, concurrent=2, tokens_per_day=200)


class QuotaMachine(RuleBasedStateMachine):
    """A grant keeps every limit in the last 60 s to the letter; a refusal is right within the 61st second."""

    def __init__(self):
        super().__init__()
        self.clock = HandClock()
        self.quotas = Quotas([tenant(adapters={"bot": BOT_LIMITS}, **LIMITS.to_dict())], clocks=self.clock.clocks())
        self.models = {"": Model(LIMITS), "bot": Model(BOT_LIMITS)}
        self.open = []

    def scopes(self, adapter):
        return [self.models[""], *([self.models["bot"]] if adapter == "bot" else [])]

    def day(self):
        return self.clock.wall.date()

    @rule(adapter=ADAPTERS, tokens=st.integers(0, 70))
    def ask(self, adapter, tokens):
        now, scopes = self.clock.now, self.scopes(adapter)
        answer = self.quotas.check_and_reserve("acme", adapter, tokens=tokens)
        if isinstance(answer, Refusal):
            assert not all(model.fits(now, self.day(), tokens, 61) for model in scopes)
            return
        assert all(model.fits(now, self.day(), tokens, 60) for model in scopes)
        uses = [[now, tokens]]
        for model in scopes:
            model.requests.append((now, 1))
            model.tokens.append(uses[0])
            model.days[self.day()] += tokens
            model.open += 1
        self.open.append((answer, adapter, uses))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), extra=st.integers(-20, 20))
    def report(self, data, extra):
        reservation, adapter, uses = data.draw(st.sampled_from(self.open))
        self.count_more(adapter, uses, max(0, extra))
        reservation.report(reservation.charged + extra)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), correction=st.integers(-60, 20))
    def settle(self, data, correction):
        one = data.draw(st.sampled_from(self.open))
        reservation, adapter, uses = one
        actual = max(0, reservation.charged + correction)
        change = actual - reservation.charged
        if change >= 0:
            self.count_more(adapter, uses, change)
        else:
            self.count_less(adapter, uses, -change)
        reservation.settle(actual)
        self.close(one)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data):
        one = data.draw(st.sampled_from(self.open))
        with one[0]:
            pass
        self.close(one)

    @rule(seconds=PASSES)
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(hours=st.integers(1, 30))
    def wait_long(self, hours):
        self.clock.advance(hours * 3600)

    @rule(is_written=st.booleans())
    def save(self, is_written):
        saved = self.quotas.take_unsaved()
        if saved is not None and not is_written:
            self.quotas.put_back(saved)

    @rule()
    def forget(self):
        self.quotas.forget_idle()

    def count_more(self, adapter, uses, tokens):
        use = [self.clock.now, tokens]
        uses.append(use)
        for model in self.scopes(adapter):
            model.tokens.append(use)
            model.days[self.day()] += tokens

    def count_less(self, adapter, uses, tokens):
        for use in reversed(uses):
            taken = min(tokens, use[1])
            use[1] -= taken
            tokens -= taken
            used_on = (self.clock.wall - timedelta(seconds=self.clock.now - use[0])).date()
            for model in self.scopes(adapter):
                if used_on == self.day():
                    model.days[self.day()] -= taken

    def close(self, one):
        self.open.remove(one)
        for model in self.scopes(one[1]):
            model.open -= 1

    @invariant()
    def places_are_those_of_open_requests(self):
        held = {adapter: self.quotas._counters.get(("acme", adapter)) for adapter in self.models}

        assert all((held[name].in_flight if held[name] else 0) == self.models[name].open for name in held)

    @invariant()
    def nothing_is_negative(self):
        for counters in self.quotas._counters.values():
            assert counters.day.used >= 0
            assert counters.tokens.total == sum(counters.tokens._amounts)
            assert all(amount >= 0 for amount in (*counters.tokens._amounts, *counters.requests._amounts))


QuotaMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestQuotaMachine = QuotaMachine.TestCase


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.lists(st.integers(0, 300), max_size=4), st.integers(0, 300)), max_size=20
    )
)
def test_settling_corrects_exactly(requests):
    clock = HandClock()
    one = tenant(tokens_per_minute=10**9, tokens_per_day=10**9, adapters={"bot": Limits(tokens_per_minute=10**9)})
    quotas = Quotas([one], clocks=clock.clocks())
    for estimate, reports, actual in requests:
        reservation = quotas.check_and_reserve("acme", "bot", tokens=estimate)
        for so_far in reports:
            clock.advance(0.3)
            reservation.report(so_far)
        reservation.settle(actual)
        assert reservation.charged == actual

    used = sum(actual for _, _, actual in requests)

    assert remaining(quotas) == {"tokens_per_minute": 10**9 - used, "tokens_per_day": 10**9 - used}


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 9)), min_size=1, max_size=150), st.integers(9, 60))
def test_no_window_holds_more_than_the_limit(requests, limit):
    clock = HandClock()
    quotas = Quotas([tenant(tokens_per_minute=limit)], clocks=clock.clocks())
    granted = []
    for pass_s, tokens in requests:
        clock.advance(pass_s)
        answer = quotas.check_and_reserve("acme", "bot", tokens=tokens)
        if isinstance(answer, Reservation):
            answer.release()
            granted.append((clock.now, tokens))

    for ended, _ in granted:
        assert sum(tokens for at, tokens in granted if ended - 60 < at <= ended) <= limit
