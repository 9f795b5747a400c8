"""What holds at every moment of any workload, over an engine in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fairness.simulation import Answer, Engine, Timing, ask, end, now, run_virtual

from loractl.fairness import AdmissionController, Capacity, FairnessError, Limits, Policy, Priority, Request
from loractl.fairness.accounts import Account, Ledger
from loractl.fairness.queues import Lane, LaneHeap, Ticket
from loractl.fairness.residency import wait_bound_s

LOOK_S = 0.003


@dataclass(frozen=True)
class Visit:
    """One request of a workload; `gives_up_s` is when its client disconnects, if it does."""

    at_s: float
    request: Request
    gives_up_s: float | None


@dataclass(frozen=True)
class Setup:
    seats: int
    limits: Limits
    policy: Policy
    max_tokens: int | None


visits = st.lists(
    st.builds(
        Visit,
        at_s=st.floats(0, 2),
        request=st.builds(
            Request,
            tenant=st.sampled_from("abcd"),
            adapter=st.sampled_from([None, "p", "q", "r", "s"]),
            estimated_input_tokens=st.integers(0, 500),
            max_output_tokens=st.integers(1, 30),
            priority=st.sampled_from(Priority),
            deadline_s=st.none() | st.floats(0, 2),
        ),
        gives_up_s=st.none() | st.none() | st.floats(0, 2),
    ),
    min_size=1,
    max_size=50,
)
setups = st.builds(
    Setup,
    seats=st.integers(1, 6),
    limits=st.builds(
        Limits,
        slots=st.integers(1, 3),
        reserve=st.integers(0, 2),
        patience_s=st.sampled_from([0.1, 1.0]),
        slack=st.sampled_from([0.0, 100.0]),
        max_prefill_tokens=st.none() | st.just(600),
        max_waiting=st.sampled_from([20, 1000]),
    ),
    policy=st.sampled_from(Policy),
    max_tokens=st.none() | st.just(900),
)


class Play:
    """A workload on a gate, looked at every few milliseconds."""

    def __init__(self, setup: Setup, workload: list[Visit]) -> None:
        self.setup = setup
        self.workload = workload
        self.answers: list[Answer] = []
        self.gone: set[int] = set()
        self.engine = Engine(max_num_seqs=setup.seats, slots=setup.limits.slots)

    async def run(self) -> list[tuple[str, float | None, int]]:
        """Play everything, and return what became of each."""
        setup = self.setup
        self.controller = AdmissionController(
            capacity=lambda: Capacity(setup.seats, max_tokens=setup.max_tokens),
            limits=setup.limits,
            policy=setup.policy,
            clock=now,
        )
        with self.engine.started():
            looking = asyncio.create_task(self._look())
            await asyncio.gather(*[self._visit(visit) for visit in self.workload])
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            if looking.done() and not looking.cancelled():
                looking.result()
        controller = self.controller
        assert (controller.waiting, controller.in_flight, controller.adapters_in_flight) == (0, 0, 0)
        return [(answer.request.tenant, answer.admitted, answer.tokens) for answer in self.answers]

    async def _visit(self, visit: Visit) -> None:
        await asyncio.sleep(visit.at_s)

        def note(answer: Answer) -> None:
            self.answers.append(answer)

        try:
            async with asyncio.timeout(visit.gives_up_s):
                answer = await ask(self.controller, self.engine, visit.request, note=note)
                assert answer.tokens == visit.request.max_output_tokens
        except (FairnessError, TimeoutError):
            self.gone.add(id(visit))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            # What happens at this very moment has to be over.
            for _ in range(8):
                await asyncio.sleep(0)
            self._check()

    def _check(self) -> None:
        controller, setup = self.controller, self.setup
        assert controller.in_flight <= setup.seats
        assert controller.adapters_in_flight <= setup.limits.slots
        assert len(self.engine.waiting) + len(self.engine.running) == controller.in_flight
        assert self.engine.most_adapters <= setup.limits.slots
        assert controller.waiting <= setup.limits.max_waiting
        if controller.waiting and not controller.in_flight:
            pytest.fail("somebody waits for an engine that has nothing to do")


@settings(max_examples=100, deadline=None)
@given(setup=setups, workload=visits)
def test_any_workload_ends_within_its_bounds_and_leaves_nothing(setup: Setup, workload: list[Visit]) -> None:
    run_virtual(Play(setup, workload).run())


@settings(max_examples=25, deadline=None)
@given(setup=setups, workload=visits)
def test_same_workload_is_admitted_in_the_same_order(setup: Setup, workload: list[Visit]) -> None:
    assert run_virtual(Play(setup, workload).run()) == run_virtual(Play(setup, workload).run())


class Conserving(Play):
    """A play on a gate that closes no slot and reserves no seat: then nothing may be left undone."""

    def _check(self) -> None:
        super()._check()
        if self.controller.in_flight == self.setup.seats or not self.controller.waiting:
            return
        jobs = [*self.engine.running, *self.engine.waiting]
        busy = {job.adapter for job in jobs} - {None}
        wanted = {ticket.request.adapter for ticket in waiting_in(self.controller)}
        assert len(busy) == self.setup.limits.slots
        assert not wanted & {None, *busy}


def waiting_in(controller: AdmissionController) -> list[Ticket]:
    lanes = controller._queues._lanes.values()
    return [ticket for by_key in lanes for lane in by_key.values() for ticket in lane.tickets.values()]


@settings(max_examples=60, deadline=None)
@given(workload=visits, seats=st.integers(1, 6), slots=st.integers(1, 3), policy=st.sampled_from(Policy))
def test_no_seat_is_empty_while_somebody_may_run(workload: list[Visit], seats: int, slots: int, policy: Policy) -> None:
    limits = Limits(slots=slots, patience_s=math.inf)

    run_virtual(Conserving(Setup(seats, limits, policy, None), workload).run())


def longest_gap_s(
    *, policy: Policy, adapters: int, slots: int, seats: int, seconds: float = 120
) -> tuple[float, float]:
    """Return the longest time that any adapter stood without a request in flight, and the longest service."""
    gaps: list[float] = []
    longest = 0.0

    async def main() -> None:
        nonlocal longest
        engine = Engine(timing=Timing(load_s=0.01), max_num_seqs=seats, slots=slots)
        limits = Limits(slots=slots, patience_s=0.5)
        controller = AdmissionController(capacity=lambda: Capacity(seats), limits=limits, policy=policy, clock=now)
        answers: list[Answer] = []

        async def client(n: int, more: int) -> None:
            request = Request(f"t{n % 5}", f"a{n}", 50, 10 + 3 * n + more)
            while True:
                await ask(controller, engine, request, note=answers.append)

        with engine.started():
            tasks = [asyncio.create_task(client(n, more)) for n in range(adapters) for more in range(6)]
            await asyncio.sleep(seconds)
            stopped = now()
            await end(tasks)
        longest = max((a.ended or stopped) - a.admitted for a in answers if a.admitted is not None)
        for n in range(adapters):
            spans = sorted(
                (a.admitted, a.ended or stopped)
                for a in answers
                if a.request.adapter == f"a{n}" and a.admitted is not None
            )
            reached = 0.0
            for begin, finish in [*spans, (stopped, stopped)]:
                gaps.append(begin - reached)
                reached = max(reached, finish)

    run_virtual(main())
    return max(gaps), longest


@pytest.mark.parametrize(("adapters", "slots", "seats"), [(16, 8, 16), (16, 4, 8), (5, 1, 2), (9, 4, 32), (12, 8, 2)])
def test_adapter_waits_for_a_slot_no_longer_than_the_stated_bound(adapters: int, slots: int, seats: int) -> None:
    gap, longest = longest_gap_s(policy=Policy.VTC, adapters=adapters, slots=slots, seats=seats)

    waiting = adapters - min(slots, seats)
    bound = wait_bound_s(slots=slots, seats=seats, waiting_adapters=waiting, patience_s=0.5, longest_s=longest)
    assert gap <= bound


def test_without_ageing_some_adapter_waits_for_ever() -> None:
    gap, _ = longest_gap_s(policy=Policy.OFF, adapters=9, slots=4, seats=24)

    assert gap >= 119


@given(st.lists(st.tuples(st.sampled_from(["add", "serve", "leave"]), st.integers(0, 9), st.integers(0, 9))))
def test_lane_heap_finds_what_a_search_through_all_finds(steps: list[tuple[str, int, int]]) -> None:
    heap = LaneHeap()
    accounts = [Account(f"t{n}", 1.0) for n in range(10)]
    lanes: dict[int, Lane] = {}
    for order, (verb, n, cost) in enumerate(steps):
        if verb == "add" and n not in lanes:
            lanes[n] = Lane(accounts[n], None, Priority.NORMAL)
            lanes[n].tickets[order] = object()  # type: ignore[assignment]
            heap.add(lanes[n])
        elif verb == "serve":
            accounts[n].charge(cost)
        elif n in lanes:
            heap.discard(lanes.pop(n))

        assert heap.top() is min(lanes.values(), key=lambda lane: lane.key, default=None)
        assert len(heap) == len(lanes)
        assert len(heap._entries) <= 2 * len(lanes) + 17


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(-20, 50)), max_size=200), st.integers(0, 5))
def test_ledger_keeps_no_more_idle_tenants_than_it_may(steps: list[tuple[int, float]], most: int) -> None:
    ledger = Ledger(lambda _: 2.0, max_remembered=most)
    floors = [0.0]
    for n, cost in steps:
        account = ledger.account(f"t{n}")
        ledger.lift(account, None)
        before = account.counter
        account.charge(cost)
        ledger.leave(account)
        ledger.settle(account)
        floors.append(ledger.floor)

        assert account.counter >= before >= floors[-2]
        assert len(ledger) <= most + 1

    assert floors == sorted(floors)


@given(st.lists(st.floats(-100, 100), max_size=50))
def test_counter_never_falls_and_credit_is_used_up(costs: list[float]) -> None:
    account = Account("t", 4.0)
    seen = [0.0]
    for cost in costs:
        account.charge(cost)
        seen.append(account.counter)

    assert seen == sorted(seen)
    assert Counter(True for cost in costs if cost < 0)[True] or account.credit == 0
    assert account.counter - account.credit == pytest.approx(sum(costs) / 4, abs=1e-6)
