"""In which order the engine takes the prompts that it has: start-time fair queueing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.fairness.simulation import Answer, Engine, Timing, ask, now, run_virtual

from loractl.fairness import AdmissionController, Capacity, Grant, Limits, Policy, Request

SEATS = 64
SLOW = Timing(prefill_token_s=1e-3, max_batched_tokens=1000)


def controller(policy: Policy = Policy.VTC, **weights: float) -> AdmissionController:
    return AdmissionController(
        capacity=lambda: Capacity(SEATS), weight_of=lambda tenant: weights.get(tenant, 1.0), policy=policy, clock=now
    )


def orders(*arrivals: tuple[str, int], done: int = 0, policy: Policy = Policy.VTC, **weights: float) -> list[int]:
    """Admit requests (tenant, prompt tokens) in turn, the first `done` of which have their first token at once."""

    async def main() -> list[int]:
        gate, grants = controller(policy, **weights), list[Grant]()
        for number, (tenant, tokens) in enumerate(arrivals):
            grants.append(await gate.admit(Request(tenant, None, tokens, 10)).__aenter__())
            if number < done:
                grants[-1].charge(output_tokens=1)
        return [grant.order for grant in grants]

    return run_virtual(main())


def test_newcomer_stands_before_what_is_left_of_a_burst():
    *burst, quiet = orders(*[("flood", 1000)] * 10, ("quiet", 100), done=3)

    assert burst == [1000 * number for number in range(10)]
    assert quiet == 2000  # with the last prompt that is done, before the 7 that are not


def test_tenants_with_one_prompt_each_take_turns_by_arrival():
    assert orders(("a", 500), ("b", 100), ("c", 900)) == [0, 0, 0]


def test_order_follows_the_weights():
    found = orders(("light", 300), ("heavy", 300), ("light", 300), ("heavy", 300), ("heavy", 300), light=1.0, heavy=3.0)

    assert found == [0, 0, 300, 100, 200]


def test_without_fairness_there_is_no_order():
    assert orders(("a", 500), ("a", 500), ("b", 10), policy=Policy.OFF) == [0, 0, 0]


def test_tenant_that_was_idle_gains_nothing_by_it():
    *_, late = orders(*[("busy", 1000)] * 5, ("late", 10), done=5)

    assert late == 4000


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5000)), min_size=1, max_size=40))
def test_no_later_prompt_of_a_tenant_stands_before_an_earlier_one(arrivals: list[tuple[str, int]]):
    found: dict[str, int] = {}
    for (tenant, _), order in zip(arrivals, orders(*arrivals), strict=True):
        assert order >= found.get(tenant, 0)
        found[tenant] = order


@given(st.integers(2, 6), st.integers(1, 4))
def test_no_prompt_waits_for_ever_behind_others_that_keep_coming(tenants: int, size: int):
    """However many others keep sending short prompts, the engine comes to a long queue of one tenant in its turn."""

    async def main() -> Answer:
        gate, engine = controller(), Engine(timing=SLOW, max_num_seqs=SEATS, in_order=True)
        answers: list[Answer] = []

        async def others(name: str) -> None:
            while True:
                await ask(gate, engine, Request(name, None, 200 * size, 1), output=1)

        with engine.started():
            tasks = [asyncio.create_task(others(f"t{number}")) for number in range(tenants) for _ in range(4)]
            await asyncio.sleep(1)
            mine = [
                asyncio.create_task(ask(gate, engine, Request("mine", None, 1000, 1), output=1, note=answers.append))
                for _ in range(5)
            ]
            await asyncio.wait_for(asyncio.gather(*mine), 600)
            for task in tasks:
                task.cancel()
        return answers[-1]

    answer = run_virtual(main())

    assert answer.first is not None


@pytest.mark.parametrize("in_order", [True, False])
def test_newcomer_waits_for_a_step_and_not_for_a_burst(in_order: bool):
    async def main() -> float:
        gate = AdmissionController(capacity=lambda: Capacity(SEATS), limits=Limits(reserve=8), clock=now)
        engine = Engine(timing=SLOW, max_num_seqs=SEATS, in_order=in_order)
        with engine.started():
            flood = [
                asyncio.create_task(ask(gate, engine, Request("flood", None, 1000, 5), output=5)) for _ in range(40)
            ]
            await asyncio.sleep(1.5)
            answer = await ask(gate, engine, Request("quiet", None, 100, 1), output=1)
            for task in flood:
                task.cancel()
        assert answer.first is not None
        return answer.first - answer.asked

    step_s = SLOW.step_s(SEATS, 1000, 0)
    assert (run_virtual(main()) <= 3 * step_s) is in_order
