"""Who gets how much, over an engine in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from unit.fairness.simulation import Answer, Engine, ask, end, now, run_virtual, service

from loractl.fairness import AdmissionController, Capacity, Limits, Policy, Request


async def backlogged(
    weights: dict[str, float],
    sizes: dict[str, tuple[int, int]],
    *,
    seats: int,
    limits: Limits,
    seconds: float,
    policy: Policy = Policy.VTC,
    clients: dict[str, int] | None = None,
    adapters: dict[str, str] | None = None,
) -> Counter[str]:
    """Keep more requests of every tenant waiting than fit, and return what each gets after a fifth of the time."""
    engine = Engine(max_num_seqs=seats, slots=limits.slots)
    controller = AdmissionController(
        capacity=lambda: Capacity(seats), weight_of=weights.__getitem__, limits=limits, policy=policy, clock=now
    )
    answers: list[Answer] = []
    rng = random.Random(0)

    async def client(tenant: str) -> None:
        prompt, output = sizes[tenant]
        while True:
            request = Request(tenant, (adapters or {}).get(tenant), prompt, 2 * output)
            await ask(controller, engine, request, output=rng.randint(1, 2 * output), note=answers.append)

    with engine.started():
        tasks = [
            asyncio.create_task(client(tenant))
            for tenant in weights
            for _ in range((clients or {}).get(tenant, 2 * seats))
        ]
        await asyncio.sleep(seconds / 5)
        before = service(answers)
        await asyncio.sleep(seconds * 4 / 5)
        after = service(answers)
        await end(tasks)
    assert (controller.waiting, controller.in_flight, controller.adapters_in_flight) == (0, 0, 0)
    return after - before


def worst_error(got: Counter[str], weights: dict[str, float]) -> float:
    total, whole = sum(got.values()), sum(weights.values())
    return max(abs(got[tenant] / total / (weight / whole) - 1) for tenant, weight in weights.items())


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=8),
    sizes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=8, max_size=8),
    seats=st.integers(2, 16),
    reserve=st.sampled_from([0, 1]),
)
def test_backlogged_tenants_get_shares_within_five_percent_of_their_weights(
    weights: list[int], sizes: list[tuple[int, int]], seats: int, reserve: int
) -> None:
    by_tenant = {f"t{n}": float(weight) for n, weight in enumerate(weights)}
    size_of = dict(zip(by_tenant, sizes, strict=False))

    got = run_virtual(
        backlogged(by_tenant, size_of, seats=seats, limits=Limits(reserve=reserve, slack=100), seconds=100)
    )

    assert worst_error(got, by_tenant) <= 0.05


def test_fifo_gives_whoever_asks_most_the_most() -> None:
    weights = {"quiet": 1.0, "loud": 1.0}
    sizes = dict.fromkeys(weights, (100, 20))
    clients = {"quiet": 20, "loud": 180}

    got = run_virtual(
        backlogged(weights, sizes, seats=8, limits=Limits(), seconds=200, policy=Policy.OFF, clients=clients)
    )

    assert got["loud"] / got["quiet"] == pytest.approx(9, rel=0.15)


def test_shares_follow_the_weights_with_more_adapters_than_slots() -> None:
    weights = {f"t{n}": 1.0 + n % 2 for n in range(8)}
    sizes = dict.fromkeys(weights, (100, 20))
    adapters = {tenant: tenant for tenant in weights}

    got = run_virtual(backlogged(weights, sizes, seats=16, limits=Limits(slots=4), seconds=400, adapters=adapters))

    assert worst_error(got, weights) <= 0.05


def late_share(*, first_s: float, policy: Policy = Policy.VTC) -> float:
    """Return the share in service of a tenant that begins to ask after `first_s`, beside one that always does."""

    async def main() -> float:
        engine = Engine(max_num_seqs=8)
        controller = AdmissionController(capacity=lambda: Capacity(8), policy=policy, clock=now)
        answers: list[Answer] = []

        async def client(tenant: str, begin: float) -> None:
            await asyncio.sleep(begin)
            while True:
                await ask(controller, engine, Request(tenant, None, 100, 20), note=answers.append)

        with engine.started():
            tasks = [asyncio.create_task(client("early", 0)) for _ in range(16)]
            tasks += [asyncio.create_task(client("late", first_s)) for _ in range(16)]
            await asyncio.sleep(first_s + 1)
            before = service(answers)
            await asyncio.sleep(10)
            got = service(answers) - before
            await end(tasks)
        return got["late"] / sum(got.values())

    return run_virtual(main())


def test_idle_time_earns_no_credit() -> None:
    assert late_share(first_s=300) == pytest.approx(0.5, abs=0.03)


def test_tenant_that_leaves_for_a_moment_keeps_its_debt() -> None:
    async def main() -> list[str]:
        controller = AdmissionController(capacity=lambda: Capacity(1), clock=now)
        order: list[str] = []

        async def one(tenant: str, output: int) -> None:
            async with controller.admit(Request(tenant, None, 10, output)) as grant:
                order.append(tenant)
                await asyncio.sleep(1)
                grant.charge(output_tokens=output)

        steady = [asyncio.create_task(one("steady", 10)) for _ in range(6)]
        greedy = asyncio.create_task(one("greedy", 70))
        await greedy
        again = asyncio.create_task(one("greedy", 70))
        await asyncio.gather(again, *steady)
        return order

    assert run_virtual(main()) == ["steady", "greedy", "steady", "steady", "steady", "steady", "steady", "greedy"]


def test_estimate_is_replaced_by_the_true_length() -> None:
    weights = {"honest": 1.0, "wrong": 1.0}

    async def main() -> Counter[str]:
        engine = Engine(max_num_seqs=8)
        controller = AdmissionController(capacity=lambda: Capacity(8), clock=now)
        answers: list[Answer] = []

        async def client(tenant: str, estimate: int) -> None:
            while True:
                request = Request(tenant, None, estimate, 20)
                await ask(controller, engine, request, prompt=100, note=answers.append)

        with engine.started():
            tasks = [asyncio.create_task(client("honest", 100)) for _ in range(16)]
            tasks += [asyncio.create_task(client("wrong", 1000)) for _ in range(16)]
            await asyncio.sleep(100)
            await end(tasks)
        return Counter({t: sum(a.tokens for a in answers if a.request.tenant == t) for t in weights})

    assert worst_error(run_virtual(main()), weights) <= 0.05
