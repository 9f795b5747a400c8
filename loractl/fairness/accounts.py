"""Virtual token counters: how much service each tenant had, in proportion to its weight.

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, Algorithm 2 with the weighted cost of section 4.3.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Account:
    """One tenant, for as long as it has requests or a counter that matters.

    Attributes:
        counter: Service in weighted tokens, divided by `weight`. It never falls, so that heaps of it stay valid.
        credit: What was charged too much; taken off the charges that follow.
        prompts_end: Where the prompts that it has sent to the engine end, in the engine's order of prompts.
        is_fresh: Nothing of it was admitted since it last began to wait.
    """

    tenant: str
    weight: float
    counter: float = 0.0
    credit: float = 0.0
    prompts_end: float = 0.0
    waiting: int = 0
    in_flight: int = 0
    is_fresh: bool = False
    is_remembered: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether it has no request anywhere."""
        return not self.waiting and not self.in_flight

    def charge(self, cost: float) -> None:
        """Add weighted tokens; a negative cost gives back what an estimate took too much."""
        due = cost / self.weight - self.credit
        self.credit = max(0.0, -due)
        self.counter += max(0.0, due)


class Ledger:
    """The accounts of all tenants that are active, or whose counters are above the floor.

    The floor is what a tenant that begins to wait is lifted to: the least counter of those that wait or, when nobody
    does, that of the last one that left the queue. It never falls. A tenant that is idle at or below the floor is
    forgotten, because the lift would give it the same counter; one that is above it had more than its share lately and
    is remembered until the floor has caught up, `max_remembered` of them at most.
    """

    def __init__(self, weight_of: Callable[[str], float], *, max_remembered: int) -> None:
        self._weight_of = weight_of
        self._max_remembered = max_remembered
        self._accounts: dict[str, Account] = {}
        self._idle: list[tuple[float, int, Account]] = []
        self._order = itertools.count()
        self._last_left: Account | None = None
        self.floor = 0.0

    def __len__(self) -> int:
        return len(self._accounts)

    def account(self, tenant: str) -> Account:
        """Return the account of `tenant`, new or known, with the weight that it has now.

        Raises:
            ValueError: Its weight is not a positive finite number.
        """
        weight = self._weight_of(tenant)
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of tenant {tenant} must be positive and finite, not {weight}")
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(tenant, weight, counter=self.floor)
        account.weight = weight
        return account

    def lift(self, account: Account, least: float | None) -> None:
        """Lift a tenant that begins to wait to the floor, where `least` is the least counter of those that wait."""
        self.raise_floor(least)
        account.counter = max(account.counter, self.floor)
        account.is_fresh = True

    def raise_floor(self, least: float | None) -> None:
        """Follow the least counter of those that wait, or the last that left if nobody does."""
        if least is None:
            least = self._last_left.counter if self._last_left is not None else 0.0
        self.floor = max(self.floor, least)

    def leave(self, account: Account) -> None:
        """Note that no request of `account` waits any more."""
        self._last_left = account

    def settle(self, account: Account) -> None:
        """Keep of an idle account what the lift needs, and forget those that the floor has caught up with."""
        if account.is_idle:
            if account.counter <= self.floor:
                self._forget(account)
            elif not account.is_remembered:
                account.is_remembered = True
                heapq.heappush(self._idle, (account.counter, next(self._order), account))
        while self._idle and (self._idle[0][0] <= self.floor or len(self._idle) > self._max_remembered):
            self._drop_least()

    def _drop_least(self) -> None:
        counter, _, account = self._idle[0]
        if account.is_idle and account.counter > counter:
            heapq.heapreplace(self._idle, (account.counter, next(self._order), account))
            return
        heapq.heappop(self._idle)
        account.is_remembered = False
        if account.is_idle:
            self._forget(account)

    def _forget(self, account: Account) -> None:
        if self._accounts.get(account.tenant) is account and not account.is_remembered:
            del self._accounts[account.tenant]
