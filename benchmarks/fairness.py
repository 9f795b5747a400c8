"""What fair admission does to a quiet tenant, to shares and to adapters beyond the slots, in virtual time.

The engine is a model, and no more than that: continuous batching with chunked prefill, first come, first served, every
sequence one token a step. Its times are those of gpt-oss-20b with one adapter on an H100, from
kernels/benchmarks/results/engine.jsonl: a step takes what decoding that many sequences was measured to take (3.2 ms for
1, 9.6 ms for 128), 15.6 us more for each prompt token, and 10 ms for each adapter that is brought into its slot. What
the measured times to first token have beyond that, 6.1 ms, passes before the engine's steps know of a request. It has
no preemption, no prefix cache, no tokeniser, no network, no jitter, and prompts attend for free. Nobody measured steps
with prompts and 128 sequences at once. So the numbers compare policies under one load and promise nothing about a real
server; what HTTP and a tokeniser add to every time to first token would pull the ratios towards 1.

Arrivals are Poisson and do not wait for answers; a flood that finds its queue full is refused. Solo, FIFO and fair runs
of a seed see the same arrivals. `floor` lets the quiet tenant past the gate: what remains is the batch that it shares.
FIFO has the seats and queues of the fair gate and neither reserve nor bound on prompts; `alone` has no gate at all.

    python benchmarks/fairness.py                  # run, write results/fairness.jsonl.gz, print the tables (minutes)
    python benchmarks/fairness.py --report FILE    # print the tables of rows that are there
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "fairness.jsonl.gz"
sys.path.insert(0, str(ROOT / "tests"))

from unit.fairness.simulation import Answer, Engine, Timing, ask, end, now, run_virtual, service  # noqa: E402

from loractl.fairness import AdmissionController, Capacity, FairnessError, Limits, Policy, Request  # noqa: E402
from loractl.fairness.residency import wait_bound_s  # noqa: E402

Row: TypeAlias = dict[str, object]

# decode_tok_s, prefill_tok_s, and the lesser of ttft_ms at 777 and 1900 tokens less what the first two give.
TIMING = Timing(
    decode_s=((1, 1 / 315.6), (8, 8 / 1519.4), (32, 32 / 4699.1), (128, 128 / 13282.7)),
    prefill_token_s=1 / 64_147,
    load_s=0.01,
    request_s=0.0061,
    max_batched_tokens=8192,
)
SEATS = 128
LIMITS = Limits(max_waiting=2048, max_waiting_per_tenant=1024)
PATIENCE_S = 2.0
TTFT_BOUND, THROUGHPUT_BOUND, SHARE_BOUND = 1.14, 0.95, 0.05


@dataclass(frozen=True)
class Gate:
    """One way of admitting.

    Attributes:
        limits: Of the gate, or None for no gate at all.
        passes_quiet: The quiet tenant does not meet the gate.
        seats: Of the engine.
        in_order: The engine begins prompts in the order that the gate gives them, rather than as they come.
    """

    limits: Limits | None
    policy: Policy = Policy.VTC
    passes_quiet: bool = False
    seats: int = SEATS
    in_order: bool = False


def _reserving(seats: int, prompts: int | None = None) -> Gate:
    return Gate(replace(LIMITS, reserve=seats, max_prefill_tokens=prompts))


NOISY_GATES = {
    "fifo": Gate(LIMITS, Policy.OFF),
    "vtc": Gate(LIMITS),
    "vtc, reserve 8": _reserving(8),
    "vtc, reserve 16": _reserving(16),
    "vtc, reserve 24": _reserving(24),
    "vtc, reserve 16, prompts 8192": _reserving(16, 8192),
    "vtc, reserve 16, prompts 1024": _reserving(16, 1024),
    "vtc, reserve 16, prompts 256": _reserving(16, 256),
    "vtc, in order": Gate(LIMITS, in_order=True),
    "vtc, reserve 16, in order": replace(_reserving(16), in_order=True),
    "vtc, 64 seats, reserve 8": replace(_reserving(8), seats=64),
    "floor": Gate(LIMITS, passes_quiet=True),
}
SHARE_GATES = {name: NOISY_GATES[name] for name in ("vtc", "vtc, reserve 16", "vtc, reserve 16, in order")}
ADAPTER_GATES = {
    "alone": Gate(None),
    "fifo": Gate(LIMITS, Policy.OFF),
    "vtc": Gate(replace(LIMITS, patience_s=PATIENCE_S)),
}


@dataclass(frozen=True)
class Load:
    """Lengths and times of a run.

    Attributes:
        quiet_rate: Requests a second of the quiet tenant; the flood has `times` as many.
        seconds: Length of a run in virtual time; the first tenth is not counted.
        share_seconds: Length of a run that measures shares; the first fifth is not counted.
        prompts, outputs: Median and bounds of log-normal lengths.
    """

    quiet_rate: float = 2.0
    times: int = 100
    seconds: float = 100.0
    seeds: int = 5
    share_seconds: float = 500.0
    prompts: tuple[int, int, int] = (500, 50, 4000)
    outputs: tuple[int, int, int] = (200, 20, 1000)


def _loads(load: Load) -> dict[str, Load]:
    """Return the loads that a quiet tenant is measured under."""
    return {"mixed": load, "long prompts": replace(load, prompts=(2000, 200, 8000), outputs=(50, 5, 250))}


def draw(rng: random.Random, lengths: tuple[int, int, int]) -> int:
    """Return a length."""
    median, least, most = lengths
    return round(min(most, max(least, median * rng.lognormvariate(0, 0.6))))


def make_gate(gate: Gate, weights: dict[str, float] | None = None) -> AdmissionController | None:
    """Return the gate in front of one run's engine."""
    if gate.limits is None:
        return None
    return AdmissionController(
        capacity=lambda: Capacity(gate.seats),
        weight_of=lambda tenant: (weights or {}).get(tenant, 1.0),
        limits=gate.limits,
        policy=gate.policy,
        clock=now,
    )


async def _ask_quietly(
    controller: AdmissionController | None, engine: Engine, request: Request, output: int, answers: list[Answer]
) -> None:
    with suppress(FairnessError):
        await ask(controller, engine, request, output=output, note=answers.append)


async def _arrive(
    rate: float, rng: random.Random, tenant: str, load: Load, controller: AdmissionController | None,
    engine: Engine, answers: list[Answer], adapters: tuple[str | None, ...] = (None,),
) -> None:  # fmt: skip
    async with asyncio.TaskGroup() as group:
        while now() < load.seconds:
            await asyncio.sleep(rng.expovariate(rate))
            prompt, output = draw(rng, load.prompts), draw(rng, load.outputs)
            request = Request(tenant, rng.choice(adapters), prompt, load.outputs[2], deadline_s=30)
            group.create_task(_ask_quietly(controller, engine, request, output, answers))


async def _noisy(gate: Gate, load: Load, seed: int, *, has_flood: bool) -> tuple[list[float], float]:
    """Return the quiet tenant's times to first token, and the tokens a second of the engine."""
    seats = SEATS + (32 if gate.passes_quiet else 0)
    engine = Engine(timing=TIMING, max_num_seqs=seats, in_order=gate.in_order)
    controller = make_gate(gate)
    quiet: list[Answer] = []
    flood: list[Answer] = []
    with engine.started():
        past = None if gate.passes_quiet else controller
        rng = random.Random(f"q{seed}")
        tasks = [asyncio.create_task(_arrive(load.quiet_rate, rng, "quiet", load, past, engine, quiet))]
        if has_flood:
            rate, rng = load.quiet_rate * load.times, random.Random(f"f{seed}")
            tasks.append(asyncio.create_task(_arrive(rate, rng, "flood", load, controller, engine, flood)))
        await asyncio.sleep(load.seconds / 10)
        before = engine.tokens_out + engine.tokens_in
        await asyncio.sleep(load.seconds * 9 / 10)
        tokens_s = (engine.tokens_out + engine.tokens_in - before) / (load.seconds * 9 / 10)
        await end(tasks)
    # One that has not begun when the run ends counts with what it had waited by then.
    counted = [a for a in quiet if load.seconds / 10 <= a.asked < load.seconds * 0.95]
    return [(load.seconds if a.first is None else a.first) - a.asked for a in counted], tokens_s


def noisy(load: Load) -> Iterator[Row]:
    """A quiet tenant alone, and beside a flood."""
    gates = {"solo": Gate(LIMITS), **NOISY_GATES}.items()
    for (kind, each), seed, (name, gate) in itertools.product(_loads(load).items(), range(load.seeds), gates):
        ttft_s, tokens_s = run_virtual(_noisy(gate, each, seed, has_flood=name != "solo"))
        ttft_ms = [round(1000 * value, 1) for value in ttft_s]
        row = {"gate": name, "seed": seed, "tokens_s": round(tokens_s), "ttft_ms": ttft_ms}
        yield {"case": "noisy", "load": kind, **row}


async def _shares(gate: Gate, weights: dict[str, float], seconds: float) -> dict[str, float]:
    engine = Engine(timing=TIMING, max_num_seqs=SEATS, in_order=gate.in_order)
    controller = make_gate(gate, weights)
    answers: list[Answer] = []
    rng = random.Random(0)
    load = Load()

    async def client(tenant: str) -> None:
        while True:
            prompt, output = draw(rng, load.prompts), draw(rng, load.outputs)
            await ask(controller, engine, Request(tenant, None, prompt, 1000), output=output, note=answers.append)

    with engine.started():
        whole = sum(weights.values())
        counts = {tenant: 4 + round(2 * SEATS * weight / whole) for tenant, weight in weights.items()}
        tasks = [asyncio.create_task(client(tenant)) for tenant, count in counts.items() for _ in range(count)]
        await asyncio.sleep(seconds / 5)
        before = service(answers)
        await asyncio.sleep(seconds * 4 / 5)
        got = service(answers) - before
        await end(tasks)
    total = sum(got.values())
    return {tenant: got[tenant] / total / (weight / whole) for tenant, weight in weights.items()}


def shares(seconds: float) -> Iterator[Row]:
    """Backlogged tenants with weights 1 to 4."""
    for count in (2, 4, 8, 16, 32, 64):
        weights = {f"t{n}": 1.0 + n % 4 for n in range(count)}
        for name, gate in SHARE_GATES.items():
            got = run_virtual(_shares(gate, weights, seconds))
            of_fair = {tenant: round(value, 4) for tenant, value in got.items()}
            yield {"case": "shares", "gate": name, "tenants": count, "of_fair": of_fair}


async def _adapters(gate: Gate, load: Load, *, is_closed: bool) -> Row:
    engine = Engine(timing=TIMING, max_num_seqs=SEATS, slots=8)
    controller = make_gate(gate)
    names = tuple(f"a{n}" for n in range(16))
    answers: list[Answer] = []
    rng = random.Random(0)

    async def client(adapter: str) -> None:
        while True:
            prompt, output = draw(rng, load.prompts), draw(rng, load.outputs)
            request = Request(adapter, adapter, prompt, 1000)
            await ask(controller, engine, request, output=output, note=answers.append)

    with engine.started():
        clients = [client(name) for name in names for _ in range(32)] if is_closed else []
        coming = [] if is_closed else [_arrive(30.0, rng, "t", load, controller, engine, answers, names)]
        tasks = [asyncio.create_task(work) for work in (*clients, *coming)]
        await asyncio.sleep(load.seconds)
        tokens_s = (engine.tokens_out + engine.tokens_in) / load.seconds
        await end(tasks)
    waits = [(load.seconds if a.first is None else a.first) - a.asked for a in answers]
    runs = [(a.ended or load.seconds) - a.admitted for a in answers if a.admitted is not None]
    served = {a.request.adapter for a in answers if a.first is not None}
    return {
        "tokens_s": round(tokens_s),
        "never_served": len(names) - len(served),
        "longest_run_s": round(max(runs), 3),
        "ttft_ms": [round(1000 * value, 1) for value in waits],
    }


def adapters(load: Load) -> Iterator[Row]:
    """Sixteen adapters on eight slots, saturated by clients that ask again at once, and at about half of that load."""
    for kind in ("saturated", "30 requests/s"):
        for name, gate in ADAPTER_GATES.items():
            row = run_virtual(_adapters(gate, load, is_closed=kind == "saturated"))
            yield {"case": "adapters", "load": kind, "gate": name, **row}


async def _overhead(tenants: int, waiting: int, rounds: int) -> float:
    """Return the real microseconds of one request through the gate while `waiting` others wait."""
    limits = Limits(max_waiting=10**6, max_waiting_per_tenant=10**6)
    controller = AdmissionController(capacity=lambda: Capacity(1), limits=limits)
    left, entered = rounds, 0

    async def one(n: int) -> None:
        nonlocal left, entered
        while left > 0:
            left -= 1
            async with controller.admit(Request(f"t{n % tenants}", f"a{n % 16}", 100, 100)) as grant:
                entered += 1
                grant.charge(output_tokens=n % 50)
                await asyncio.sleep(0)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(waiting + 1):
            group.create_task(one(n))
    return 1e6 * (time.perf_counter() - began) / entered


def overhead() -> Iterator[Row]:
    """The gate's own cost, in real time, event loop included."""
    for waiting in (0, 10, 100, 1000, 10_000):
        taken = [asyncio.run(_overhead(64, waiting, 50_000)) for _ in range(3)]
        yield {"case": "overhead", "waiting": waiting, "us": [round(value, 2) for value in taken]}


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(rows: list[Row]) -> bool:
    """Print the tables, and return whether the bounds are met by one setting of the fair gate."""
    kinds = dict.fromkeys(str(row["load"]) for row in _of(rows, "noisy"))
    results = [*(_report_noisy(rows, kind) for kind in kinds), _report_shares(rows)]
    _report_adapters(rows)
    print("\nThe gate's own cost: real microseconds for one request to enter and leave, median of 3")
    for row in _of(rows, "overhead"):
        print(f"{row['waiting']:>8} waiting{statistics.median(row['us']):10.1f}")  # type: ignore[arg-type]
    return all(results)


def _of(rows: list[Row], case: str) -> list[Row]:
    return [row for row in rows if row.get("case") == case]


def _report_noisy(rows: list[Row], kind: str) -> bool:
    print(f"A quiet tenant beside a flood of 100 times its rate, {kind}: time to first token in ms, all seeds together")
    print(f"{'':32}{'requests':>10}{'p50':>10}{'p99':>10}{'of solo':>10}{'tokens/s':>10}{'of fifo':>10}")
    by_gate: dict[str, list[Row]] = {}
    for row in _of(rows, "noisy"):
        if row["load"] == kind:
            by_gate.setdefault(str(row["gate"]), []).append(row)
    mean = {name: statistics.mean(row["tokens_s"] for row in of) for name, of in by_gate.items()}  # type: ignore[misc]
    is_met = False
    solo = 0.0
    for name, of in by_gate.items():
        times = [value for row in of for value in row["ttft_ms"]]  # type: ignore[attr-defined]
        p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
        solo = p99 if name == "solo" else solo
        share = mean[name] / mean["fifo"]
        is_good = name.startswith("vtc") and p99 / solo <= TTFT_BOUND and share >= THROUGHPUT_BOUND
        is_met = is_met or is_good
        line = f"{name:32}{len(times):10}{p50:10.1f}{p99:10.1f}{p99 / solo:9.2f}x{mean[name]:10.0f}{share:10.1%}"
        print(line + ("  met" if is_good else ""))
    print(f"bounds {TTFT_BOUND}x and {THROUGHPUT_BOUND:.0%}: {'met' if is_met else 'MISSED'}\n")
    return is_met


def _report_shares(rows: list[Row]) -> bool:
    print(f"Backlogged tenants with weights 1 to 4: worst distance from the fair share, bound {SHARE_BOUND:.0%}")
    is_met = True
    for row in _of(rows, "shares"):
        worst = max(abs(value - 1) for value in row["of_fair"].values())  # type: ignore[attr-defined]
        is_met = is_met and worst <= SHARE_BOUND
        verdict = "met" if worst <= SHARE_BOUND else "MISSED"
        print(f"{row['tenants']:>8} tenants  {row['gate']!s:30}{worst:8.2%}  {verdict}")
    return is_met


def _report_adapters(rows: list[Row]) -> None:
    print("\n16 adapters on 8 slots: time to first token in s; one not served yet counts with its wait so far")
    print(f"{'':26}{'p50':>8}{'p99':>8}{'most':>8}{'never served':>14}{'tokens/s':>10}{'slot bound':>12}")
    for row in _of(rows, "adapters"):
        times = [value / 1000 for value in row["ttft_ms"]]  # type: ignore[attr-defined]
        longest = float(row["longest_run_s"])  # type: ignore[arg-type]
        bound = wait_bound_s(slots=8, seats=SEATS, waiting_adapters=8, patience_s=PATIENCE_S, longest_s=longest)
        p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
        print(
            f"{row['load']!s:16}{row['gate']!s:10}{p50:8.2f}{p99:8.2f}{max(times):8.2f}{row['never_served']!s:>14}"
            f"{row['tokens_s']:10}{f'{bound:.1f}' if row['gate'] == 'vtc' else 'none':>12}"
        )


def conditions(load: Load) -> Row:
    """Return what a reader of the rows has to know."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "load": asdict(load),
        "timing": asdict(TIMING),
        "seats": SEATS,
        "limits": asdict(LIMITS),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
    }


def run(load: Load) -> Iterator[Row]:
    """Yield every row."""
    yield conditions(load)
    for rows in (noisy(load), shares(load.share_seconds), adapters(load), overhead()):
        for row in rows:
            print(
                " ".join(str(value) for key, value in row.items() if key not in ("ttft_ms", "of_fair")), file=sys.stderr
            )
            yield row


def main() -> int:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--seeds", type=int, default=Load.seeds)
    parser.add_argument("--seconds", type=float, default=Load.seconds, help="virtual length of a run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.report:
        with gzip.open(options.report, "rt") as file:
            return 0 if report([json.loads(line) for line in file]) else 1
    rows = list(run(Load(seeds=options.seeds, seconds=options.seconds)))
    options.out.parent.mkdir(exist_ok=True)
    with gzip.open(options.out, "wt") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
