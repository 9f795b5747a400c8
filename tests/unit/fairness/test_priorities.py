"""No class of requests starves another: a class that waits has one of it admitted within a bound."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fairness.simulation import now, run_virtual

from loractl.fairness import AdmissionController, Capacity, Limits, Priority, Request

LONGEST_S = 1.0


@dataclass(frozen=True)
class Visit:
    """One request, and how long it stays once it is in."""

    at_s: float
    tenant: str
    priority: Priority
    stays_s: float


visits = st.lists(
    st.builds(
        Visit,
        at_s=st.floats(0, 20),
        tenant=st.sampled_from("abc"),
        priority=st.sampled_from(Priority),
        stays_s=st.floats(0.01, LONGEST_S),
    ),
    min_size=1,
    max_size=120,
)


def longest_wait_s(workload: list[Visit], *, seats: int, patience_s: float) -> float:
    """Return the longest time that any class waited without one of it being admitted."""
    longest = 0.0
    waiting = dict.fromkeys(Priority, 0)
    since = dict.fromkeys(Priority, 0.0)

    async def visit(controller: AdmissionController, one: Visit) -> None:
        nonlocal longest
        await asyncio.sleep(one.at_s)
        if not waiting[one.priority]:
            since[one.priority] = now()
        waiting[one.priority] += 1
        async with controller.admit(Request(one.tenant, None, 10, 10, one.priority)):
            waiting[one.priority] -= 1
            longest = max(longest, now() - since[one.priority])
            since[one.priority] = now()
            await asyncio.sleep(one.stays_s)

    async def main() -> None:
        controller = AdmissionController(
            capacity=lambda: Capacity(seats), limits=Limits(patience_s=patience_s), clock=now
        )
        async with asyncio.TaskGroup() as group:
            for one in workload:
                group.create_task(visit(controller, one))

    run_virtual(main())
    return longest


@given(visits, st.integers(1, 4), st.floats(0, 3))
@settings(max_examples=200)
def test_class_that_waits_is_served_within_patience_and_a_few_requests(workload, seats, patience_s):
    bound = patience_s + len(Priority) * LONGEST_S

    assert longest_wait_s(workload, seats=seats, patience_s=patience_s) <= bound + 1e-6


def test_class_starves_where_nobody_loses_patience():
    flood = [Visit(0.1 * at, "a", Priority.HIGH, LONGEST_S) for at in range(20)]
    workload = [*flood, Visit(0.05, "b", Priority.LOW, LONGEST_S)]

    assert longest_wait_s(workload, seats=1, patience_s=math.inf) > 15
    assert longest_wait_s(workload, seats=1, patience_s=2.0) <= 2.0 + len(Priority) * LONGEST_S
