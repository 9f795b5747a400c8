"""Whether a request may be let in, by what its tenant has used already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from loractl.quotas.counters import Counters, SavedCounters, Shortage, tightest
from loractl.quotas.errors import UnknownTenantError
from loractl.quotas.moments import Clocks, Moment
from loractl.quotas.reservation import Reservation, Scope
from loractl.quotas.standing import Refusal, Standing
from loractl_registry.tenancy import Tenant

Key = tuple[str, str]
"""Tenant, and adapter or the empty text."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What is kept across a restart.

    Attributes:
        today: The latest UTC day that was ever seen.
        forgotten: Counters that are not worth keeping any more.
    """

    today: date
    counters: tuple[SavedCounters, ...] = ()
    forgotten: tuple[Key, ...] = ()


class Quotas:
    """The counters of every tenant that asked for something lately, in memory.

    What is granted never exceeds a limit per minute in any 60 seconds, nor a budget between two midnights in UTC, but
    for what an answer turned out to take beyond what was reserved for it: that counts from then on, and the next
    requests wait for it.

    The windows run on the monotonic clock. The day is the latest that the wall clock ever said: while that is behind,
    what was used stays used, so a budget is granted once however often the clock goes back.

    One server's counters; used from one event loop only, so that checking and counting are one step. Unknown tenants
    leave nothing behind, so memory is bounded by the tenants and adapter limits that are configured.
    """

    def __init__(
        self, tenants: Iterable[Tenant] = (), *, clocks: Clocks | None = None, saved: Saved | None = None
    ) -> None:
        self._clocks = clocks or Clocks()
        self._tenants: Mapping[str, Tenant] = {}
        self._counters: dict[Key, Counters] = {}
        self._unsaved: set[Key] = set()
        self._today = self._saved_today = 0
        self.replace(tenants)
        if saved is not None:
            self._restore(saved)

    def __len__(self) -> int:
        return len(self._counters)

    def replace(self, tenants: Iterable[Tenant]) -> None:
        """Put other limits in force, from the next request on; what was used stays used."""
        self._tenants = {tenant.name: tenant for tenant in tenants}

    def check_and_reserve(self, tenant: str, adapter: str, *, tokens: int) -> Reservation | Refusal:
        """Let one request in and count it with `tokens`, or say which limit it has to wait for the longest.

        Args:
            tenant: Who asks; known to be who they say.
            adapter: The adapter, or base, that will answer; known to exist.
            tokens: What it is expected to take: the prompt by estimate, and as much of the answer as is to be reserved.

        Raises:
            UnknownTenantError: The tenant was removed in the meantime.
        """
        if tokens < 0:
            raise ValueError(f"a request cannot take {tokens} tokens")
        moment = self._read()
        scopes = self._scopes(tenant, adapter)
        worst: tuple[Shortage, Scope] | None = None
        for scope in scopes:
            scope.counters.advance(moment)
            for shortage in scope.counters.shortages(scope.limits, tokens, moment):
                if worst is None or _is_longer(shortage.wait_s, worst[0].wait_s):
                    worst = shortage, scope
        if worst is not None:
            return self._refusal(*worst, adapter)
        for scope in scopes:
            self._counters[scope.tenant, scope.adapter] = scope.counters
        return Reservation(self, scopes, self._about_to_change(scopes, moment), adapter=adapter, tokens=tokens)

    def standing(self, tenant: str, adapter: str) -> Standing:
        """Return what is left of each limit now; of a tenant that was removed, nothing is said."""
        if tenant not in self._tenants:
            return ()
        moment = self._read()
        scopes = self._scopes(tenant, adapter)
        for scope in scopes:
            scope.counters.advance(moment)
        return tightest(gauge for scope in scopes for gauge in scope.counters.gauges(scope.limits, moment))

    def advanced(self, scopes: tuple[Scope, ...]) -> Moment:
        """Bring the counters of `scopes` up to now, note that they are about to change, and return the time."""
        return self._about_to_change(scopes, self._read())

    def days_ahead(self) -> int:
        """Return how many days the wall clock is behind the latest that it ever said; until then no budget renews."""
        return self._read().today - self._clocks.read().today

    def take_unsaved(self) -> Saved | None:
        """Return what changed since the last call, None if nothing did; whoever cannot save it calls `put_back`."""
        moment = self._read()
        if not self._unsaved and moment.today == self._saved_today:
            return None
        changed: list[SavedCounters] = []
        for tenant, adapter in self._unsaved:
            counters = self._counters[tenant, adapter]
            counters.advance(moment)
            changed.append(counters.saved(tenant, adapter, moment))
        self._unsaved.clear()
        self._saved_today = moment.today
        return Saved(date.fromordinal(moment.today), tuple(changed))

    def put_back(self, saved: Saved) -> None:
        """Take note that `saved` was not saved."""
        self._saved_today = 0
        self._unsaved.update(
            (one.tenant, one.adapter) for one in saved.counters if (one.tenant, one.adapter) in self._counters
        )

    def forget_idle(self) -> Saved:
        """Forget the counters that say nothing any more; steps through all of them, so not for every request."""
        moment = self._read()
        for counters in self._counters.values():
            counters.advance(moment)
        idle = tuple(key for key, counters in self._counters.items() if counters.is_idle())
        for key in idle:
            del self._counters[key]
        self._unsaved.difference_update(idle)
        return Saved(date.fromordinal(moment.today), forgotten=idle)

    def _about_to_change(self, scopes: tuple[Scope, ...], moment: Moment) -> Moment:
        for scope in scopes:
            scope.counters.advance(moment)
            self._unsaved.add((scope.tenant, scope.adapter))
        return moment

    def _read(self) -> Moment:
        moment = self._clocks.read()
        self._today = max(self._today, moment.today)
        return moment._replace(today=self._today)

    def _scopes(self, name: str, adapter: str) -> tuple[Scope, ...]:
        tenant = self._tenants.get(name)
        if tenant is None:
            raise UnknownTenantError(name)
        scopes = (Scope(name, "", tenant.limits, self._counters_of(name, "")),)
        limits = tenant.adapter_limits.get(adapter)
        if limits is None:
            return scopes
        return (*scopes, Scope(name, adapter, limits, self._counters_of(name, adapter)))

    def _counters_of(self, tenant: str, adapter: str) -> Counters:
        return self._counters.get((tenant, adapter)) or Counters()

    def _refusal(self, shortage: Shortage, scope: Scope, adapter: str) -> Refusal:
        return Refusal(
            limit=shortage.kind,
            adapter=scope.adapter or None,
            allowed=shortage.limit,
            remaining=shortage.remaining,
            asked=shortage.asked,
            retry_after_s=shortage.wait_s,
            standing=self.standing(scope.tenant, adapter),
        )

    def _restore(self, saved: Saved) -> None:
        self._today = saved.today.toordinal()
        moment = self._read()
        for one in saved.counters:
            counters = self._counters[one.tenant, one.adapter] = Counters()
            counters.restore(one, moment)
        self.forget_idle()


def _is_longer(wait_s: float | None, other_s: float | None) -> bool:
    return other_s is not None and (wait_s is None or wait_s > other_s)
