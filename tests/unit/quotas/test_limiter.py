"""Letting requests in: each limit, what is counted, what a refusal says, and changes while requests are under way."""

import math

import pytest
from unit.quotas.quota_parts import HandClock, grant, opened, refuse, remaining, tenant

from loractl.quotas import LimitKind, UnknownTenantError
from loractl_registry.tenancy import Limits


@pytest.fixture
def clock():
    return HandClock()


def test_tenant_without_limits_is_never_refused(clock):
    quotas = opened(clock)

    for _ in range(1000):
        grant(quotas, 10**9)

    assert quotas.standing("acme", "bot") == ()


def test_requests_per_minute(clock):
    quotas = opened(clock, requests_per_minute=3)
    for _ in range(3):
        grant(quotas).release()

    refusal = refuse(quotas)

    assert (refusal.limit, refusal.allowed, refusal.remaining, refusal.asked) == (LimitKind.REQUESTS, 3, 0, 1)
    assert refusal.adapter is None


def test_tokens_per_minute(clock):
    quotas = opened(clock, tokens_per_minute=100)
    grant(quotas, 60)

    refusal = refuse(quotas, 41)

    assert (refusal.limit, refusal.allowed, refusal.remaining, refusal.asked) == (LimitKind.TOKENS, 100, 40, 41)
    grant(quotas, 40)


def test_concurrent_requests(clock):
    quotas = opened(clock, concurrent=2)
    first, _ = grant(quotas), grant(quotas)

    assert refuse(quotas).limit is LimitKind.CONCURRENT
    first.release()
    grant(quotas)


def test_tokens_per_day(clock):
    quotas = opened(clock, tokens_per_day=100)
    grant(quotas, 100)
    clock.advance(11 * 3600)

    refusal = refuse(quotas)

    assert refusal.limit is LimitKind.DAY
    assert refusal.retry_after_s == pytest.approx(3600)
    clock.advance(3600)
    grant(quotas, 100)


def test_refusal_counts_nothing(clock):
    quotas = opened(clock, requests_per_minute=5, tokens_per_minute=10, concurrent=5)
    grant(quotas, 5)
    before = remaining(quotas)

    for _ in range(10):
        refuse(quotas, 6)

    assert remaining(quotas) == before


@pytest.mark.parametrize("used_at", [0.0, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("limits", [{"requests_per_minute": 1}, {"tokens_per_minute": 5}])
def test_retry_after_is_when_it_fits_and_not_a_second_before(used_at, limits):
    clock = HandClock(now=1000 + used_at)
    quotas = opened(clock, **limits)
    grant(quotas, 5)
    clock.advance(7.3)
    wait_s = refuse(quotas, 5).retry_after_s

    clock.advance(wait_s - 0.001)
    refuse(quotas, 5)
    clock.advance(0.002)
    grant(quotas, 5)

    assert 60 <= wait_s + 7.3 <= 61 + 1e-6


def test_retry_after_waits_for_no_more_than_is_needed(clock):
    quotas = opened(clock, tokens_per_minute=100)
    grant(quotas, 30)
    clock.advance(10)
    grant(quotas, 70)

    assert refuse(quotas, 30).retry_after_s < 51
    assert refuse(quotas, 31).retry_after_s > 59


def test_refusal_names_the_limit_that_takes_longest(clock):
    quotas = opened(clock, concurrent=1, requests_per_minute=1, tokens_per_day=1)
    grant(quotas, 1)

    assert refuse(quotas, 1).limit is LimitKind.DAY


def test_request_that_can_never_fit_is_told_so(clock):
    quotas = opened(clock, tokens_per_minute=100, tokens_per_day=100)
    grant(quotas, 100)
    refusal = refuse(quotas, 101)

    assert refusal.retry_after_s is None
    assert refusal.asked == 101


def test_adapter_limit_holds_beside_the_tenants_own(clock):
    quotas = opened(clock, tenant(requests_per_minute=5, adapters={"bot": Limits(requests_per_minute=2)}))
    grant(quotas), grant(quotas)

    assert refuse(quotas).adapter == "bot"
    for _ in range(3):
        grant(quotas, adapter="other")
    assert refuse(quotas, adapter="other").adapter is None


def test_tenants_do_not_share(clock):
    quotas = opened(clock, tenant("a", requests_per_minute=1), tenant("b", requests_per_minute=1))
    grant(quotas, name="a")
    refuse(quotas, name="a")

    grant(quotas, name="b")


def test_settling_takes_back_what_was_not_used(clock):
    quotas = opened(
        clock, tenant(tokens_per_minute=100, tokens_per_day=1000, adapters={"bot": Limits(tokens_per_minute=90)})
    )
    reservation = grant(quotas, 80)
    clock.advance(30)

    reservation.settle(20)

    assert remaining(quotas) == {"tokens_per_minute": 70, "tokens_per_day": 980}
    assert remaining(quotas, adapter="other") == {"tokens_per_minute": 80, "tokens_per_day": 980}


def test_settling_counts_what_was_used_beyond(clock):
    quotas = opened(clock, tokens_per_minute=100, tokens_per_day=1000)
    grant(quotas, 10).settle(150)

    assert remaining(quotas) == {"tokens_per_minute": 0, "tokens_per_day": 850}
    clock.advance(59)
    refuse(quotas, 0)
    clock.advance(2)
    grant(quotas, 100)


def test_settling_with_nothing_gives_the_tokens_back_and_keeps_the_request(clock):
    quotas = opened(clock, requests_per_minute=10, tokens_per_minute=100)
    grant(quotas, 60).settle(0)

    assert remaining(quotas) == {"requests_per_minute": 9, "tokens_per_minute": 100}


def test_what_left_the_window_is_not_taken_back_from_others(clock):
    quotas = opened(clock, tokens_per_minute=100, tokens_per_day=1000)
    reservation = grant(quotas, 80)
    clock.advance(120)
    grant(quotas, 50)

    reservation.settle(10)

    assert remaining(quotas) == {"tokens_per_minute": 50, "tokens_per_day": 940}


def test_yesterdays_tokens_are_not_taken_back_from_today(clock):
    quotas = opened(clock, tokens_per_day=1000)
    clock.advance(12 * 3600 - 1)
    reservation = grant(quotas, 80)
    clock.advance(2)
    grant(quotas, 50)

    reservation.settle(10)

    assert remaining(quotas) == {"tokens_per_day": 950}


def test_reports_count_while_an_answer_runs(clock):
    quotas = opened(clock, tokens_per_minute=1000, tokens_per_day=1000)
    reservation = grant(quotas, 100)
    for so_far in (90, 101, 101, 150, 140):
        clock.advance(1)
        reservation.report(so_far)

    assert remaining(quotas) == {"tokens_per_minute": 850, "tokens_per_day": 850}
    reservation.settle(120)
    assert remaining(quotas) == {"tokens_per_minute": 880, "tokens_per_day": 880}


def test_long_answer_leaves_the_window_as_it_runs(clock):
    quotas = opened(clock, tokens_per_minute=1000)
    reservation = grant(quotas, 0)
    for second in range(1, 301):
        clock.advance(1)
        reservation.report(second)

    assert remaining(quotas) == {"tokens_per_minute": 1000 - 61}
    assert len(reservation._charges) <= 62
    reservation.settle(290)
    assert remaining(quotas) == {"tokens_per_minute": 1000 - 51}


def test_release_keeps_the_count_and_frees_the_place_once(clock):
    quotas = opened(clock, concurrent=2, tokens_per_minute=100)
    reservation, _ = grant(quotas, 60), grant(quotas, 0)

    reservation.release()
    reservation.release()
    reservation.settle(0)
    reservation.report(90)

    assert remaining(quotas) == {"tokens_per_minute": 40, "concurrent": 1}
    assert not reservation.is_open


def test_context_releases_whatever_ends_it(clock):
    quotas = opened(clock, concurrent=1)

    with pytest.raises(KeyError), grant(quotas):
        raise KeyError

    assert remaining(quotas) == {"concurrent": 1}


@pytest.mark.parametrize("tokens", [-1, -(10**9)])
def test_nobody_uses_less_than_nothing(clock, tokens):
    quotas = opened(clock, tokens_per_minute=10)
    with pytest.raises(ValueError, match="tokens"):
        quotas.check_and_reserve("acme", "bot", tokens=tokens)
    with pytest.raises(ValueError, match="tokens"):
        grant(quotas).settle(tokens)


def test_new_limits_hold_from_the_next_request_and_keep_what_was_used(clock):
    quotas = opened(clock, requests_per_minute=10, tokens_per_day=100)
    for _ in range(5):
        grant(quotas, 10)

    quotas.replace([tenant(requests_per_minute=6, tokens_per_day=55, concurrent=5)])

    assert remaining(quotas) == {"requests_per_minute": 1, "tokens_per_day": 5, "concurrent": 0}
    assert refuse(quotas, 5).limit is LimitKind.CONCURRENT


def test_limit_that_is_new_finds_what_was_used_before(clock):
    quotas = opened(clock)
    grant(quotas, 70)

    quotas.replace([tenant(tokens_per_minute=100)])

    assert remaining(quotas) == {"tokens_per_minute": 30}


def test_limits_that_come_back_find_what_was_used(clock):
    limited = tenant(adapters={"bot": Limits(tokens_per_day=100)})
    quotas = opened(clock, limited)
    grant(quotas, 70).release()
    quotas.replace([tenant()])
    quotas.forget_idle()
    quotas.replace([limited])

    assert remaining(quotas) == {"tokens_per_day": 30}


def test_removed_tenant_is_refused_and_what_it_began_ends_well(clock):
    quotas = opened(clock, concurrent=1)
    reservation = grant(quotas)
    quotas.replace([])

    with pytest.raises(UnknownTenantError, match="acme"):
        quotas.check_and_reserve("acme", "bot", tokens=1)
    assert reservation.standing() == ()
    reservation.settle(5)


def test_unknown_tenants_and_adapters_leave_nothing_behind(clock):
    quotas = opened(clock, tenant(requests_per_minute=1), tenant("other"))
    grant(quotas)

    for number in range(10_000):
        with pytest.raises(UnknownTenantError):
            quotas.check_and_reserve(f"t{number}", "bot", tokens=1)
        refuse(quotas, adapter=f"a{number}")
        quotas.standing("other", f"a{number}")

    assert len(quotas) == 1


def test_idle_counters_are_forgotten_and_others_are_not(clock):
    quotas = opened(clock, tenant("a"), tenant("b"), tenant("c"), tenant("d"))
    grant(quotas, 5, name="a").settle(0)
    grant(quotas, 0, name="b")
    grant(quotas, 5, name="c").release()
    quotas.take_unsaved()
    clock.advance(90)

    assert quotas.forget_idle().forgotten == (("a", ""),)
    assert len(quotas) == 2
    clock.advance(24 * 3600)
    assert quotas.forget_idle().forgotten == (("c", ""),)


def test_standing_counts_the_tightest_of_each_kind(clock):
    quotas = opened(
        clock, tenant(requests_per_minute=10, concurrent=4, adapters={"bot": Limits(requests_per_minute=3)})
    )
    reservation = grant(quotas)

    requests, concurrent = reservation.standing()

    assert (requests.limit, requests.remaining) == (3, 2)
    assert 60 <= requests.reset_s <= 61
    assert (concurrent.limit, concurrent.remaining, concurrent.reset_s) == (4, 3, 0)


def test_reset_is_when_everything_is_free_again(clock):
    quotas = opened(clock, requests_per_minute=10, tokens_per_day=10)
    assert [gauge.reset_s for gauge in quotas.standing("acme", "bot")] == [0, 0]
    grant(quotas, 0)
    clock.advance(20)
    grant(quotas, 1)
    clock.advance(10)

    requests, day = quotas.standing("acme", "bot")

    assert 50 <= requests.reset_s <= 51
    assert day.reset_s == pytest.approx(12 * 3600 - 30)
    clock.advance(requests.reset_s)
    assert quotas.standing("acme", "bot")[0].remaining == 10


def test_check_takes_the_same_time_after_many_requests(clock):
    quotas = opened(clock, tenant(requests_per_minute=10**9, tokens_per_minute=10**12))
    for _ in range(50_000):
        grant(quotas, 3).settle(2)
        clock.advance(0.001)

    (counters,) = quotas._counters.values()
    assert len(counters.requests._amounts) == 61
    assert remaining(quotas)["tokens_per_minute"] == 10**12 - 100_000
    assert math.isfinite(counters.tokens.total)
