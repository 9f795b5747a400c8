"""What the gate refuses, frees and remembers."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from unit.fairness.simulation import now, run_virtual

from loractl.fairness import (
    AdmissionController,
    Capacity,
    FairnessError,
    Limits,
    Policy,
    Priority,
    QueueFullError,
    Request,
    WaitTooLongError,
    Weights,
)

POLICIES = list(Policy)


@dataclass
class Gate:
    """A gate, and the names of those that it let in, in order."""

    controller: AdmissionController
    entered: list[str] = field(default_factory=list)
    grants: dict[str, bool] = field(default_factory=dict)
    _doors: dict[str, asyncio.Event] = field(default_factory=dict)

    async def visit(self, name: str, request: Request) -> None:
        """Go in, stay until told to go."""
        self._doors[name] = asyncio.Event()
        async with self.controller.admit(request) as grant:
            self.entered.append(name)
            self.grants[name] = grant.is_cold
            await self._doors[name].wait()

    async def start(self, *names: str, request: Callable[[str], Request] | None = None) -> list[asyncio.Task[None]]:
        """Start a visit for each of `names`; a name is the tenant, an adapter after ``/`` if need be, then a number."""
        tasks = [asyncio.create_task(self.visit(name, (request or request_of)(name))) for name in names]
        await settle()
        return tasks

    async def end(self, *names: str) -> None:
        for name in names:
            self._doors[name].set()
        await settle()

    @property
    def is_empty(self) -> bool:
        c = self.controller
        return (c.waiting, c.in_flight, c.adapters_in_flight) == (0, 0, 0)


def request_of(name: str) -> Request:
    tenant, _, adapter = name.rstrip("0123456789").partition("/")
    return Request(tenant, adapter or None, 10, 10)


def gate(seats: int = 1, *, limits: Limits | None = None, policy: Policy = Policy.VTC, **more: object) -> Gate:
    return Gate(
        AdmissionController(capacity=lambda: Capacity(seats), limits=limits, policy=policy, clock=now, **more)  # type: ignore[arg-type]
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("policy", POLICIES)
def test_request_enters_at_once_while_there_is_room(policy: Policy) -> None:
    async def main() -> None:
        here = gate(2, policy=policy)
        tasks = await here.start("a1", "b1", "c1")

        assert here.entered == ["a1", "b1"]

        await here.end("a1", "b1", "c1")
        await asyncio.gather(*tasks)
        assert here.is_empty
        assert here.controller.tenants_known <= 3

    run_virtual(main())


def test_tenants_take_turns_whatever_their_queues() -> None:
    async def main() -> list[str]:
        here = gate()
        tasks = await here.start("x", "a1", "a2", "a3", "b1", "b2")
        for name in ("x", "a1", "b1", "a2", "b2", "a3"):
            await here.end(name)
        await asyncio.gather(*tasks)
        return here.entered

    assert run_virtual(main()) == ["x", "a1", "b1", "a2", "b2", "a3"]


def test_off_is_first_come_first_served() -> None:
    async def main() -> list[str]:
        here = gate(policy=Policy.OFF)
        names = ["x", "a1", "a2", "a3", "b1", "b2"]
        tasks = await here.start(*names)
        for name in names:
            await here.end(name)
        await asyncio.gather(*tasks)
        return here.entered

    assert run_virtual(main()) == ["x", "a1", "a2", "a3", "b1", "b2"]


@pytest.mark.parametrize("policy", POLICIES)
def test_request_beyond_the_tenants_queue_is_refused(policy: Policy) -> None:
    async def main() -> None:
        here = gate(limits=Limits(max_waiting_per_tenant=2), policy=policy)
        tasks = await here.start("a1", "a2", "a3", "a4", "b1")

        with pytest.raises(QueueFullError, match="cannot queue a request of a: 2 of its requests wait already"):
            await tasks[3]

        assert here.controller.waiting == 3
        await here.end("a1", "a2", "a3", "b1")
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main())


def test_full_queue_keeps_a_place_for_a_newcomer() -> None:
    async def main() -> None:
        here = gate(limits=Limits(max_waiting=10))
        await here.start("x")
        floods = await here.start(*[f"{tenant}{n}" for tenant in "abc" for n in range(20)])
        late = await here.start("late")

        assert not late[0].done()
        assert here.controller.waiting <= 10
        assert sum(task.done() for task in floods) >= 50
        for task in [*floods, *late]:
            task.cancel()
        await here.end("x")
        await asyncio.gather(*floods, *late, return_exceptions=True)

    run_virtual(main())


@pytest.mark.parametrize("policy", POLICIES)
def test_request_that_waits_past_its_deadline_leaves_with_its_own_error(policy: Policy) -> None:
    async def main() -> None:
        here = gate(policy=policy)
        await here.start("x")
        began = now()
        with pytest.raises(WaitTooLongError, match=r"waited 1\.5 s") as caught:
            await here.visit("a", Request("a", "poet", 10, 10, deadline_s=1.5))

        assert now() - began == pytest.approx(1.5)
        assert caught.value.code == "fairness.wait_too_long"
        assert here.controller.waiting == 0
        await here.end("x")
        assert here.is_empty

    run_virtual(main())


def test_deadline_ends_with_the_wait() -> None:
    async def main() -> None:
        here = gate()
        tasks = await here.start("x")
        tasks += await here.start("a", request=lambda _: Request("a", None, 1, 1, deadline_s=1))
        await here.end("x")
        await asyncio.sleep(5)

        assert not tasks[1].done()
        await here.end("a")
        await asyncio.gather(*tasks)

    run_virtual(main())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("steps", range(14))
@pytest.mark.parametrize("is_racing", [False, True])
def test_cancelling_at_any_await_frees_everything(steps: int, policy: Policy, *, is_racing: bool) -> None:
    async def main() -> None:
        here = gate(limits=Limits(slots=1, reserve=0), policy=policy)
        tasks = await here.start("x/q")
        victim = asyncio.create_task(here.visit("v", Request("v", "poet", 10, 10, deadline_s=100)))
        others = [asyncio.create_task(here.visit(f"o{n}", Request("o", "poet", 10, 10))) for n in range(2)]
        await asyncio.sleep(0)
        for step in range(steps):
            if step == 5:
                here._doors["x/q"].set()
            await asyncio.sleep(0)
        if is_racing:
            here._doors["x/q"].set()
            await asyncio.sleep(0)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        await here.end("x/q", "o0")
        await here.end("o1")
        await asyncio.gather(*tasks, *others)

        assert here.is_empty
        assert here.entered[-2:] == ["o0", "o1"]

    run_virtual(main())


def test_seat_of_a_cancelled_request_is_given_on_in_the_same_moment() -> None:
    async def main() -> None:
        here = gate()
        tasks = await here.start("x", "v", "o")
        tasks[1].cancel()
        here._doors["x"].set()
        await settle()

        assert here.entered == ["x", "o"]
        await here.end("o")
        await asyncio.gather(*tasks, return_exceptions=True)
        assert here.is_empty

    run_virtual(main())


def test_error_in_the_context_frees_the_place() -> None:
    async def main() -> None:
        here = gate()
        with pytest.raises(ZeroDivisionError):
            async with here.controller.admit(request_of("a/poet")):
                raise ZeroDivisionError
        assert here.is_empty

    run_virtual(main())


def test_higher_class_goes_first_and_a_lower_one_is_not_passed_over_for_ever() -> None:
    async def main() -> list[str]:
        here = gate(limits=Limits(patience_s=10))
        names = ["x", *(f"low{n}" for n in range(2)), *(f"high{n}" for n in range(6))]
        tasks = await here.start(
            *names,
            request=lambda name: Request(
                "t" + name[0], None, 1, 1, Priority.LOW if name.startswith("low") else Priority.HIGH
            ),
        )
        for turn in range(len(names)):
            await asyncio.sleep(4)
            await here.end(here.entered[turn])
        await asyncio.gather(*tasks)
        return here.entered

    assert run_virtual(main()) == [
        "x", "high0", "high1", "low0", "high2", "high3", "low1", "high4", "high5",
    ]  # fmt: skip


def test_full_cache_stops_admission_and_is_looked_at_again() -> None:
    async def main() -> None:
        use = 0.0
        controller = AdmissionController(capacity=lambda: Capacity(4, kv_use=use), clock=now)
        here = Gate(controller)
        tasks = await here.start("a")
        use = 0.97
        tasks += await here.start("b")
        await asyncio.sleep(1)

        assert here.entered == ["a"]

        use = 0.5
        await asyncio.sleep(0.06)
        assert here.entered == ["a", "b"]
        await here.end("a", "b")
        await asyncio.gather(*tasks)

    run_virtual(main())


def test_cache_that_stays_full_does_not_stop_an_empty_engine() -> None:
    async def main() -> None:
        here = Gate(AdmissionController(capacity=lambda: Capacity(4, kv_use=1.0), clock=now))
        tasks = await here.start("a", "b")
        await here.end("a")
        await here.end("b")
        await asyncio.gather(*tasks)

        assert here.entered == ["a", "b"]

    run_virtual(main())


def test_engine_that_grew_is_used_when_told() -> None:
    async def main() -> None:
        seats = 1
        here = Gate(AdmissionController(capacity=lambda: Capacity(seats), clock=now))
        tasks = await here.start("a", "b")
        seats = 2
        here.controller.refresh()
        await settle()

        assert here.entered == ["a", "b"]
        await here.end("a", "b")
        await asyncio.gather(*tasks)

    run_virtual(main())


def test_tokens_in_flight_are_bounded_but_a_lone_request_always_fits() -> None:
    async def main() -> None:
        here = Gate(AdmissionController(capacity=lambda: Capacity(9, max_tokens=100), clock=now))
        tasks = await here.start("a", request=lambda _: Request("a", None, 500, 500))
        tasks += await here.start("b")

        assert here.entered == ["a"]

        await here.end("a")
        tasks += await here.start("c", request=lambda _: Request("c", None, 10, 71))
        assert here.entered == ["a", "b"]
        await here.end("b")
        await here.end("c")
        await asyncio.gather(*tasks)

    run_virtual(main())


def test_prompts_under_way_are_bounded_until_the_first_token() -> None:
    async def main() -> None:
        here = gate(9, limits=Limits(max_prefill_tokens=15))
        async with here.controller.admit(request_of("a")) as grant:
            tasks = await here.start("b")
            assert here.entered == []

            grant.charge(output_tokens=1)
            await settle()
            assert here.entered == ["b"]
        await here.end("b")
        await asyncio.gather(*tasks)

    run_virtual(main())


def test_reserved_seats_are_for_tenants_with_little_in_flight() -> None:
    async def main() -> None:
        here = gate(5, limits=Limits(reserve=2))
        tasks = await here.start("a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3")

        assert here.entered == ["a1", "a2", "a3", "b1", "b2"]
        await here.end("a1")
        assert here.entered[5:] == ["a4"]
        await here.end("b1")
        assert here.entered[6:] == ["b3"]
        for name in ("a2", "a3", "b2", "b3", "a4", "a5"):
            await here.end(name)
        await asyncio.gather(*tasks)
        assert here.is_empty

    run_virtual(main())


def test_adapter_that_has_to_be_loaded_is_cold_once() -> None:
    async def main() -> dict[str, bool]:
        here = gate(limits=Limits(slots=2))
        for name in ("t/a1", "t/b1", "t/a2", "t/c1", "t/a3", "t/b2", "t1"):
            tasks = await here.start(name)
            await here.end(name)
            await asyncio.gather(*tasks)
        return here.grants

    cold = run_virtual(main())
    assert [name for name, is_cold in cold.items() if is_cold] == ["t/a1", "t/b1", "t/c1", "t/b2"]


def test_loaded_adapter_goes_first_within_the_slack_and_not_beyond() -> None:
    async def main(slack: float) -> list[str]:
        here = gate(limits=Limits(slots=1, slack=slack, patience_s=1e9))
        tasks = await here.start("x/a", "t/b1", "x/a1", "x/a2", "x/a3")
        for turn in range(5):
            await here.end(here.entered[turn])
        await asyncio.gather(*tasks)
        return here.entered

    assert run_virtual(main(0)) == ["x/a", "x/a1", "t/b1", "x/a2", "x/a3"]
    assert run_virtual(main(15)) == ["x/a", "x/a1", "x/a2", "t/b1", "x/a3"]


def test_clock_that_jumps_back_stops_nothing() -> None:
    async def main() -> None:
        offset = 0.0
        controller = AdmissionController(
            capacity=lambda: Capacity(1), limits=Limits(slots=1, patience_s=3), clock=lambda: now() + offset
        )
        here = Gate(controller)
        tasks = await here.start("t/a1", "t/a2", "t/a3", "t/a4", "t/b1")
        for turn in range(5):
            offset -= 1000
            await asyncio.sleep(0)
            controller.refresh()
            await asyncio.sleep(2)
            await here.end(here.entered[turn])
        await asyncio.gather(*tasks)

        assert here.entered.index("t/b1") < 4

    run_virtual(main())


def bytes_held_by_admission() -> int:
    """What admission and its event loop hold; threads of earlier tests allocate too, which is none of its business."""
    gc.collect()
    ours = [tracemalloc.Filter(True, f"*/{part}/*") for part in ("loractl/fairness", "asyncio")]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)


@pytest.mark.parametrize("policy", POLICIES)
def test_ten_thousand_names_leave_nothing_behind(policy: Policy) -> None:
    async def main() -> None:
        here = gate(limits=Limits(max_remembered=50), policy=policy)
        tasks = await here.start("x/y")

        async def passing(n: int) -> None:
            with pytest.raises(FairnessError):
                await here.visit("?", Request(f"waits{n}", f"adapter{n}", 10, 10, deadline_s=0))

        async def served(n: int) -> None:
            async with here.controller.admit(Request(f"served{n}", f"adapter{n}", n % 7, 10)) as grant:
                grant.charge(output_tokens=n % 5)

        async def crowd(first: int, count: int) -> None:
            for n in range(first, first + count, 100):
                await asyncio.gather(*[passing(m) for m in range(n, n + 100)])
            await here.end("x/y")
            for n in range(first, first + count):
                await served(n)
            tasks.extend(await here.start("x/y"))

        tracemalloc.start()
        await crowd(0, 1000)
        before = bytes_held_by_admission()
        await crowd(1000, 9000)
        grown = bytes_held_by_admission() - before
        tracemalloc.stop()

        assert before > 0
        assert grown < 100_000
        assert here.controller.tenants_known <= 52
        await here.end("x/y")
        await asyncio.gather(*tasks)

    run_virtual(main())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weight_that_is_none_is_refused_and_leaves_nothing(weight: float) -> None:
    async def main() -> None:
        here = gate(weight_of=lambda _: weight)
        with pytest.raises(ValueError, match="positive and finite"):
            await here.visit("a", request_of("a"))
        assert here.controller.tenants_known == 0

    run_virtual(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(slots=0),
        lambda: Limits(reserve=-1),
        lambda: Limits(patience_s=float("nan")),
        lambda: Weights(input=-1),
        lambda: Weights(output=float("inf")),
        lambda: Request("t", None, -1, 1),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"cannot|must"):
        make()


def test_tenant_that_is_alone_has_the_reserved_seats_too() -> None:
    async def main() -> None:
        is_shared = False
        controller = AdmissionController(
            capacity=lambda: Capacity(4, keeps_reserve=is_shared), limits=Limits(reserve=1)
        )
        held = [controller.admit(Request("acme", None, 1, 1)) for _ in range(5)]
        entering = [asyncio.ensure_future(one.__aenter__()) for one in held]
        await asyncio.sleep(0)
        assert controller.in_flight == 4

        is_shared = True
        await held[0].__aexit__(None, None, None)
        await asyncio.sleep(0)
        assert (controller.in_flight, controller.waiting) == (3, 1)
        async with controller.admit(Request("other", None, 1, 1)):
            assert controller.in_flight == 4
        for task in entering:
            task.cancel()

    run_virtual(main())
