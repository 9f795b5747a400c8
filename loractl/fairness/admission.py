"""The gate in front of the engine: who waits, who goes next, and what each has used."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

from loractl.fairness.accounts import Ledger
from loractl.fairness.choice import Chooser
from loractl.fairness.errors import QueueFullError, WaitTooLongError
from loractl.fairness.queues import Queues, Ticket
from loractl.fairness.requests import Capacity, Limits, Policy, Priority, Request, Weights
from loractl.fairness.residency import Residency


class _Steady:
    """A clock made to go forwards: what another one jumps back by is left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._elapsed = 0.0

    def __call__(self) -> float:
        now = self._clock()
        self._elapsed += max(0.0, now - self._last)
        self._last = now
        return self._elapsed


class Grant:
    """Leave to use the engine, for as long as the context lasts.

    Attributes:
        waited_s: Time from asking to being admitted.
        is_cold: The engine has to load the adapter first, as far as admission can know.
        order: Which prompt the engine should take first of those that it has, the least.
    """

    __slots__ = ("_charge", "_input_tokens", "_ticket", "is_cold", "order", "waited_s")

    def __init__(self, ticket: Ticket, charge: Callable[[Ticket, int, int], None]) -> None:
        self._ticket = ticket
        self._charge = charge
        self._input_tokens = ticket.request.estimated_input_tokens
        self.waited_s = ticket.waited_s
        self.is_cold = ticket.is_cold
        self.order = round(ticket.order_in_engine)

    def charge(self, *, input_tokens: int | None = None, output_tokens: int = 0) -> None:
        """Charge the tenant for what was done for it.

        Args:
            input_tokens: The true length of the prompt; it replaces the estimate, or what was said before.
            output_tokens: Tokens generated since the last call. The first of them says that the prompt is done.
        """
        more_input = 0
        if input_tokens is not None:
            more_input, self._input_tokens = input_tokens - self._input_tokens, input_tokens
        self._charge(self._ticket, more_input, output_tokens)


class _Place:
    """One place, held for as long as the context lasts; a class, since a generator for each request costs more."""

    __slots__ = ("_charge", "_enter", "_leave", "_ticket")

    def __init__(
        self,
        enter: Callable[[], Awaitable[Ticket]],
        leave: Callable[[Ticket], None],
        charge: Callable[[Ticket, int, int], None],
    ) -> None:
        self._enter, self._leave, self._charge = enter, leave, charge
        self._ticket: Ticket | None = None

    async def __aenter__(self) -> Grant:
        self._ticket = await self._enter()
        return Grant(self._ticket, self._charge)

    async def __aexit__(self, *_: object) -> None:
        if self._ticket is not None:
            self._leave(self._ticket)


class AdmissionController:
    """Admits requests so that tenants get service in proportion to their weights.

    Used from one event loop. Nothing is polled: whoever asks, leaves, or has its first token looks for the next ones.
    Only a full KV cache is looked at again by a timer. A seat outside the reserve never stays empty while a request
    waits that the engine has room for and whose adapter is not closed (see `residency`); the one exception is that the
    request that goes next is waited for if it is too large for what is left of `max_tokens` or `max_prefill_tokens`.

    Args:
        capacity: The engine's room now. Must be quick and must not raise.
        weight_of: A tenant's weight: positive and finite.
        policy: `OFF` admits first come, first served within the same bounds of queues, seats, tokens and slots,
            passing over requests whose adapter has no slot for as long as need be.
        clock: Seconds; may jump in either direction.
    """

    def __init__(
        self,
        *,
        capacity: Callable[[], Capacity],
        weight_of: Callable[[str], float] = lambda _: 1.0,
        limits: Limits | None = None,
        weights: Weights | None = None,
        policy: Policy = Policy.VTC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or Limits()
        self._is_fair = policy is Policy.VTC
        if not self._is_fair:
            limits = replace(limits, reserve=0, patience_s=math.inf)
        self._limits = limits
        self._capacity = capacity
        self._weights = weights or Weights()
        self._now = _Steady(clock)
        self._ledger = Ledger(weight_of, max_remembered=limits.max_remembered)
        self._queues = Queues(reserve=limits.reserve)
        self._residency = Residency(slots=limits.slots, patience_s=limits.patience_s)
        slack = limits.slack if self._is_fair else -math.inf
        self._chooser = Chooser(self._queues, self._residency, patience_s=limits.patience_s, slack=slack)
        self._order = itertools.count()
        self._in_flight = self._reserved_in_flight = self._tokens = self._prefill_tokens = 0
        self._prompts_done = 0.0
        self._recheck: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._queues.waiting

    @property
    def in_flight(self) -> int:
        """How many requests are in the engine."""
        return self._in_flight

    @property
    def adapters_in_flight(self) -> int:
        """How many distinct adapters have requests in the engine."""
        return self._residency.in_flight

    @property
    def adapters_held(self) -> tuple[str, ...]:
        """The adapters that the engine holds in its slots, as far as admission can know."""
        return self._residency.held()

    @property
    def tenants_known(self) -> int:
        """How many tenants anything is kept of."""
        return len(self._ledger)

    def admit(self, request: Request) -> AbstractAsyncContextManager[Grant]:
        """Wait for a place in the engine, and hold it for as long as the context lasts.

        A task that is cancelled while it waits, or in the context, frees its place at once.

        Raises:
            QueueFullError: On entering: as many requests wait as may.
            WaitTooLongError: On entering: it was not admitted before its deadline.
            ValueError: On entering: the tenant's weight is not positive and finite.
        """
        return _Place(partial(self._enter, request), self._leave, self._charge)

    def refresh(self) -> None:
        """Admit what there is room for; call it when the engine's room has grown by itself."""
        self._pump()

    async def _enter(self, request: Request) -> Ticket:
        loop = asyncio.get_running_loop()
        ticket = self._enqueue(request, loop.create_future())
        self._pump()
        if ticket.is_in_flight:
            return ticket
        timer = None
        if request.deadline_s is not None:
            timer = loop.call_later(max(0.0, request.deadline_s), self._expire, ticket, request.deadline_s)
        try:
            await ticket.admitted
        except BaseException:
            if ticket.is_in_flight:
                # Admitted in the very moment that it was cancelled: the engine has done nothing for it.
                self._charge(ticket, -request.estimated_input_tokens, 0)
            self._leave(ticket)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return ticket

    def _enqueue(self, request: Request, admitted: asyncio.Future[None]) -> Ticket:
        account = self._ledger.account(request.tenant)
        limits = self._limits
        most = min(limits.max_waiting_per_tenant, limits.max_waiting - self._queues.waiting)
        if account.waiting >= most:
            waiting = account.waiting
            self._ledger.settle(account)
            raise QueueFullError(request.tenant, waiting)
        now = self._now()
        if self._is_fair and not account.waiting:
            self._ledger.lift(account, self._queues.least())
        priority = request.priority if self._is_fair else Priority.NORMAL
        ticket = Ticket(request, account, next(self._order), priority, now, admitted)
        self._queues.put(ticket)
        self._chooser.note_put(priority, now)
        if request.adapter is not None:
            self._residency.want(request.adapter, now)
        return ticket

    def _expire(self, ticket: Ticket, deadline_s: float) -> None:
        if not ticket.admitted.done():
            ticket.admitted.set_exception(WaitTooLongError(ticket.request.tenant, deadline_s))
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        """Free everything that `ticket` still holds: its place in the queue, or its seat, slot and tokens."""
        now = self._now()
        if ticket.is_in_flight:
            self._vacate(ticket, now)
        elif ticket.is_waiting:
            self._dequeue(ticket, now)
        else:
            return
        if self._is_fair:
            self._ledger.raise_floor(self._queues.least())
        self._ledger.settle(ticket.account)
        self._pump()

    def _dequeue(self, ticket: Ticket, now: float) -> None:
        ticket.is_waiting = False
        self._queues.remove(ticket)
        self._chooser.note_removed(ticket, now)
        adapter = ticket.request.adapter
        if adapter is not None and not self._queues.wants(adapter):
            self._residency.unwant(adapter)
        if not ticket.account.waiting:
            self._ledger.leave(ticket.account)

    def _vacate(self, ticket: Ticket, now: float) -> None:
        ticket.is_in_flight = False
        ticket.account.in_flight -= 1
        self._in_flight -= 1
        self._reserved_in_flight -= ticket.is_reserved
        self._tokens -= _tokens_of(ticket)
        self._end_prefill(ticket)
        self._queues.reweigh(ticket.account)
        adapter = ticket.request.adapter
        if adapter is not None:
            self._residency.release(adapter, now, is_wanted=self._queues.wants(adapter))

    def _end_prefill(self, ticket: Ticket) -> None:
        if ticket.is_prefilling:
            ticket.is_prefilling = False
            self._prefill_tokens -= ticket.request.estimated_input_tokens

    def _charge(self, ticket: Ticket, input_tokens: int, output_tokens: int) -> None:
        if self._is_fair:
            ticket.account.charge(self._weights.input * input_tokens + self._weights.output * output_tokens)
        if output_tokens and ticket.is_in_flight and ticket.is_prefilling:
            self._prompts_done = max(self._prompts_done, ticket.order_in_engine)
            self._end_prefill(ticket)
            if self._limits.max_prefill_tokens is not None:
                self._pump()

    def _pump(self) -> None:
        """Admit as many as there is room for."""
        if not self._queues.waiting:
            return
        capacity = self._capacity()
        if self._in_flight and capacity.kv_use >= self._limits.max_kv_use:
            self._look_again()
            return
        now = self._now()
        while self._queues.waiting:
            self._residency.balance(now)
            found = self._next(capacity, now)
            if found is None:
                return
            ticket, is_reserved = found
            if ticket.admitted.done():
                # Cancelled, and its task has not come round to leaving yet.
                self._dequeue(ticket, now)
                self._ledger.settle(ticket.account)
            else:
                self._admit(ticket, now, is_reserved=is_reserved)

    def _next(self, capacity: Capacity, now: float) -> tuple[Ticket, bool] | None:
        wanted = self._limits.reserve if capacity.keeps_reserve else 0
        reserve = min(wanted, max(0, capacity.max_num_seqs - 1))
        if self._in_flight - self._reserved_in_flight < capacity.max_num_seqs - reserve:
            lane = self._chooser.choose(now, is_light=False)
            if lane is not None and self._fits(lane.head, capacity) and self._may_prefill(lane.head):
                return lane.head, False
        if self._reserved_in_flight < reserve and self._in_flight < capacity.max_num_seqs:
            lane = self._chooser.choose(now, is_light=True)
            if lane is not None and self._fits(lane.head, capacity):
                return lane.head, True
        return None

    def _fits(self, ticket: Ticket, capacity: Capacity) -> bool:
        if not self._in_flight or capacity.max_tokens is None:
            return True
        return self._tokens + _tokens_of(ticket) <= capacity.max_tokens

    def _may_prefill(self, ticket: Ticket) -> bool:
        most = self._limits.max_prefill_tokens
        if not self._prefill_tokens or most is None:
            return True
        return self._prefill_tokens + ticket.request.estimated_input_tokens <= most

    def _admit(self, ticket: Ticket, now: float, *, is_reserved: bool) -> None:
        request, account = ticket.request, ticket.account
        ticket.is_in_flight, ticket.is_reserved = True, is_reserved
        ticket.waited_s = now - ticket.asked_at
        account.is_fresh = False
        account.in_flight += 1
        self._dequeue(ticket, now)
        self._queues.reweigh(account)
        if request.adapter is not None:
            ticket.is_cold = self._residency.take(request.adapter, now)
        self._in_flight += 1
        self._reserved_in_flight += is_reserved
        self._tokens += _tokens_of(ticket)
        self._prefill_tokens += request.estimated_input_tokens
        if self._is_fair:
            cost = self._weights.input * request.estimated_input_tokens
            account.charge(cost)
            # Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) of the prompts in the engine: each stands
            # after its tenant's last, and none before what the engine has done, so that none is passed over for ever.
            ticket.order_in_engine = max(self._prompts_done, account.prompts_end)
            account.prompts_end = ticket.order_in_engine + cost / account.weight
        ticket.admitted.set_result(None)

    def _look_again(self) -> None:
        if self._recheck is None:
            self._recheck = asyncio.get_running_loop().call_later(self._limits.kv_recheck_s, self._rechecked)

    def _rechecked(self) -> None:
        self._recheck = None
        self._pump()


def _tokens_of(ticket: Ticket) -> int:
    return ticket.request.estimated_input_tokens + ticket.request.max_output_tokens
