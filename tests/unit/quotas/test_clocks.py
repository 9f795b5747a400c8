"""Clocks that jump: nothing is granted early and nothing twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.quotas.quota_parts import HandClock, grant, opened, refuse, remaining, tenant

from loractl.quotas import Quotas, Reservation
from loractl.quotas.windows import DayBudget


@pytest.mark.parametrize("by", [{"hours": -5}, {"days": -400}, {"hours": 3}, {"minutes": 10}])
def test_windows_do_not_see_the_wall_clock(by):
    clock = HandClock()
    quotas = opened(clock, requests_per_minute=1)
    grant(quotas).release()

    clock.jump(**by)

    refuse(quotas)
    clock.advance(61)
    grant(quotas)


def test_midnight_that_comes_twice_renews_a_budget_once():
    clock = HandClock()
    quotas = opened(clock, tokens_per_day=100)
    grant(quotas, 100)
    clock.advance(12 * 3600 + 1)
    grant(quotas, 100)

    for _ in range(3):
        clock.jump(seconds=-120)
        assert refuse(quotas).retry_after_s > 86400
        clock.advance(121)
        refuse(quotas)

    clock.advance(86400)
    grant(quotas, 100)


def test_budget_that_a_jump_ahead_renewed_is_not_renewed_again_by_the_real_midnight():
    clock = HandClock()
    quotas = opened(clock, tokens_per_day=100)
    clock.jump(days=1)
    grant(quotas, 100).release()
    clock.jump(days=-1)

    refuse(quotas)
    assert quotas.days_ahead() == 1
    clock.advance(86400)
    refuse(quotas)
    assert quotas.days_ahead() == 0
    clock.advance(86400)
    grant(quotas, 100)


def test_day_is_remembered_when_the_counters_are_not():
    clock = HandClock()
    quotas = opened(clock, tokens_per_day=100)
    grant(quotas, 100).release()
    clock.jump(days=1)
    clock.advance(61)
    quotas.forget_idle()
    clock.jump(days=-1)

    grant(quotas, 100)
    clock.advance(86400)

    refuse(quotas)


@given(st.lists(st.tuples(st.integers(-200_000, 200_000), st.integers(0, 4000)), max_size=30))
def test_days_are_granted_once_each_however_the_wall_clock_jumps(steps):
    clock = HandClock()
    quotas = opened(clock, tokens_per_day=10)
    granted, latest = {}, None
    for jump_s, pass_s in steps:
        clock.jump(seconds=jump_s)
        clock.advance(pass_s)
        today = clock.wall.date()
        latest = today if latest is None else max(latest, today)
        answer = quotas.check_and_reserve("acme", "bot", tokens=4)
        if isinstance(answer, Reservation):
            answer.release()
            granted[latest] = granted.get(latest, 0) + 4

    assert all(tokens <= 10 for tokens in granted.values())


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 10)), min_size=1, max_size=30),
    st.floats(-1e6, 0),
    st.floats(0, 1e6),
)
def test_restart_with_a_clock_that_went_back_gives_nothing_free(uses, went_back_s, boot):
    clock = HandClock()
    one = tenant(requests_per_minute=1000, tokens_per_minute=1000, tokens_per_day=10_000)
    quotas = opened(clock, one)
    for pass_s, tokens in uses:
        clock.advance(pass_s)
        grant(quotas, tokens).release()
    before = remaining(quotas)

    clock.jump(seconds=went_back_s)
    saved = quotas.take_unsaved()
    clock.jump(seconds=went_back_s)
    clock.now = boot
    restarted = Quotas([one], clocks=clock.clocks(), saved=saved)

    assert all(left <= before[kind] for kind, left in remaining(restarted).items())
    assert remaining(restarted)["tokens_per_day"] == before["tokens_per_day"]


def test_day_is_remembered_across_a_restart_when_the_counters_are_not():
    clock = HandClock()
    one = tenant(tokens_per_day=100)
    quotas = opened(clock, one)
    clock.jump(days=1)
    quotas.forget_idle()
    saved = quotas.take_unsaved()
    clock.jump(days=-1)
    restarted = Quotas([one], clocks=clock.clocks(), saved=saved)
    grant(restarted, 100)
    clock.advance(86400)

    refuse(restarted)


def test_day_of_counters_never_goes_back():
    budget = DayBudget()
    budget.advance(5)
    budget.used = 7
    budget.advance(4)

    assert (budget.day, budget.used) == (5, 7)


@given(st.floats(0, 59), st.floats(-3, 3), st.floats(0, 1e6), st.floats(0, 1))
def test_restart_forgets_neither_early_nor_a_second_late(used_ago_s, beyond_s, boot, fraction):
    clock = HandClock(now=1000 + fraction)
    one = tenant(requests_per_minute=1)
    quotas = opened(clock, one)
    grant(quotas).release()
    clock.advance(used_ago_s)
    saved = quotas.take_unsaved()
    clock.advance(max(0.0, 61 + beyond_s - used_ago_s))
    clock.now = boot

    left = remaining(Quotas([one], clocks=clock.clocks(), saved=saved))["requests_per_minute"]

    passed_s = max(used_ago_s, 61 + beyond_s)
    assert left == 1 or passed_s < 62.001
    assert left == 0 or passed_s > 59.999
