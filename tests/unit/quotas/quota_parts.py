"""What the tests of quotas are made of: two clocks that are set by hand, and a tenant with limits."""

from datetime import UTC, datetime, timedelta

from loractl.quotas import Clocks, Quotas, Refusal, Reservation
from loractl_registry.tenancy import Limits, Tenant

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class HandClock:
    """Both clocks; `advance` moves them together, `jump` the wall clock alone."""

    def __init__(self, *, wall=NOON, now=1000.25):
        self.wall, self.now = wall, now

    def advance(self, seconds):
        self.now += seconds
        self.wall += timedelta(seconds=seconds)

    def jump(self, **by):
        self.wall += timedelta(**by)

    def clocks(self):
        return Clocks(wall=lambda: self.wall, monotonic=lambda: self.now)


def tenant(name="acme", *, adapters=None, **limits):
    return Tenant(name, NOON, "ada", adapters=("*",), limits=Limits(**limits), adapter_limits=adapters or {})


def opened(clock, *tenants, **limits):
    return Quotas(tenants or [tenant(**limits)], clocks=clock.clocks())


def grant(quotas, tokens=1, *, name="acme", adapter="bot"):
    answer = quotas.check_and_reserve(name, adapter, tokens=tokens)
    assert isinstance(answer, Reservation), answer
    return answer


def refuse(quotas, tokens=1, *, name="acme", adapter="bot"):
    answer = quotas.check_and_reserve(name, adapter, tokens=tokens)
    assert isinstance(answer, Refusal)
    return answer


def remaining(quotas, *, name="acme", adapter="bot"):
    return {gauge.kind.value: gauge.remaining for gauge in quotas.standing(name, adapter)}
