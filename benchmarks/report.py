"""Write docs/benchmarks.md from the raw rows: ``python benchmarks/report.py``."""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from plots import plots

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"

HEAD = """# Benchmarks

Every number here is computed from raw rows in `benchmarks/results/` by `python benchmarks/report.py`; nothing is
typed by hand. `make bench-cli`, `bench-trust`, `bench-gateway` and `bench-neighbour` measure
again. The budgets are those of a
two-core machine.
What adapters cost on a GPU stands in [Kernel benchmarks](benchmarks-kernels.md).
"""

COMMANDS = """
## Commands

Wall time of whole processes on a registry of {versions} signed versions, {runs} runs each, on {cores} cores {priority},
with a load of {load} before and {load_after} after (commit `{commit}`). Commands remember what they have verified of
its signatures; without that they take seconds longer, see [below](#what-trust-costs). Milliseconds.

| Command | Median | Least | Most | Budget | |
| --- | --- | --- | --- | --- | --- |
"""

ADDING = """
`add` of one adapter of {megabytes} MB, against hashing and copying the same file by itself, pair by pair; the budget
is 70 % of its speed: {pairs}. Median: **{share:.0f} %**.
"""

TRUST = """
## What trust costs

Before it starts an engine, `serve` verifies every signed statement, the signatures over the files of each adapter, and
every byte of them. Here are 100 live adapters, whose promotion took {signed} statements and 100 signatures over files,
against hashing the same files alone, {rounds} times each, in turns, with the files in memory. Asked for is at most 15 %
more. What is added is the same for small and large adapters, {added_least:.2f} to {added_most:.2f} s here.

Commands remember what was verified ([ADR 20](adr/0020-kept-verified-prefix.md)): *warm* finds the note, *cold* does not
and verifies everything. Whole processes, {runs} runs each, in turns. Asked for are 700 ms for approvals and
explanations, and what stands above for the others; `promote` here is the rung to approved, and `add` signs the files.

On {cores} cores, {priority}, with a load of {least:.1f} to {most:.1f} (commit `{commit}`, the commands
`{commands}`).

```
{table}
```
"""

GATEWAY = """
## Gateway

What the gateway adds to a fake engine at {streams} concurrent streams, with the clients, both servers and the fake
engine on the same {cpus} cores, at real-time priority (commit `{commit}`). Blocks of load alternate between the engine
alone and the engine behind the gateway. A bound of 1 ms at the median and 5 ms at the 99th percentile is asked for.

![First event, alone and behind the gateway](assets/benchmarks/gateway.svg)

```
{table}
```

The first event carries the reading, resolving and rewriting of a request. A gap between two tokens is what a stream
pays from then on.
"""

MEMORY = """
## Memory of the gateway

What a process with the gateway, everything on, and a fake engine has resident, and of that what loractl's own code has
allocated, after so many requests: streams, whole answers, clients that leave, unknown keys and models, and bodies that
are no JSON (commit `{commit}`). The slopes leave out the first {warm} requests.

```
{table}
```
"""

NEIGHBOUR = """
## A noisy neighbour on a real engine

A quiet tenant asks a real vLLM, with a tiny model on the CPU and 32 seats, {quiet:g} times a second, alone and beside a
tenant that asks a hundred times as often (commit `{commit}`, vLLM {vllm}). The load average was {load:.1f} on {cpus}
cores before it began, and clients, server and engine share them: where it was above their number, the machine had other
work, and the verdicts say little but for what is off by orders of magnitude. `turn` is the wait for a turn at the
engine, which the gateway decides; the rest of a time to first token is the tokenizer, the batch that the request
shares, and the machine. A refused request counts into `turn` alone. Asked for are 1.14 times the time to first token
alone, 95 % of the throughput without fairness, and shares within 5 % of the weights.

![Time to first token on a real engine](assets/benchmarks/noisy-engine.svg)

```
{table}
```
"""

FAIRNESS = """
## Fair turns, in a model of an engine

What fair admission does in virtual time, over a model of gpt-oss-20b on an H100 (commit `{commit}`): decode, prefill
and times to first token are those of the [kernel benchmarks](benchmarks-kernels.md); nobody measured steps that mix
prompts with a full batch. A quiet tenant asks {quiet:g} times a second, alone and beside a tenant that asks a hundred
times as often. Asked for are a 99th percentile of at most 1.14 times that alone, at 95 % of the throughput without
fairness. `reserve` is how many of the {seats} seats are kept for tenants with little in flight; with `in order` the
engine begins prompts in fair order ([ADR 25](adr/0025-prompts-in-fair-order.md)), else as they come; `prompts` is the
most prompt tokens that are in the engine without a first token, and `floor` lets the quiet tenant past the gate.
`loractl serve` is `reserve 16, in order`.

![Time to first token in the model](assets/benchmarks/noisy-model.svg)

![16 adapters on 8 slots](assets/benchmarks/slots-model.svg)

```
{table}
```

No setting meets the bound, for the batch alone costs more: whoever arrives waits for the step that runs, and shares the
next one, which take 9.6 ms and more with {seats} sequences, and 3.2 ms alone. Half the seats do not help, since the
quiet tenant then waits for one of its own. Fair order helps where prompts are long, and costs nothing. Bounding prompts
helps more, and costs a sixth of the throughput where they are long; of an answer that comes whole the gateway does not
see the first token, so `serve` bounds none.
"""

CACHE = """
## What times tell of another tenant's prompts

An answer to a prompt of which the engine has the prefix in its cache comes sooner. On a real vLLM with a tiny model on
the CPU (commit `{commit}`, vLLM {vllm}, load average {load:.1f} before it began), one tenant asks, in random order, a
prompt that was asked before and one that nobody has sent; it was asked before by itself, which is what a salt that
tenants shared would come to, or by another tenant. Wilcoxon's signed-rank test over the pairs says whether times tell
the two apart.

```
{table}
```
"""

SHARE = """
## The gateway's share of a real engine's throughput

Output tokens a second, as the engine counts them: `loractl serve` with a tenant's key and limits, records and fair
turns, against the same vLLM by the same command without the middleware. Both are up, and blocks of load alternate. At
most 1 % may be lost. The process that listens is vLLM's API server with the gateway in it; what it takes of a CPU costs
throughput where its core is full, or the whole machine, as here.
"""
SHARE_OF = """
On {where} (commit `{commit}`, vLLM {vllm}, load average {load:.1f} before it began, blocks of {seconds:g} s):

```
{table}
```
"""


def main() -> int:
    """Write the page and its plots."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def pages() -> dict[Path, str]:
    """Return the page and its plots, by the files that they belong in."""
    page = HEAD + commands() + trust() + gateway() + memory() + neighbour() + fairness() + cache() + share()
    drawn = {DOCS / "assets" / "benchmarks" / name: text for name, text in plots().items()}
    return {DOCS / "benchmarks.md": page, **drawn}


def commands() -> str:
    """Return the section on whole commands."""
    rows = [json.loads(line) for line in (RESULTS / "cli.jsonl").read_text().splitlines()]
    timed = [row for row in rows if "times_ms" in row]
    first = timed[0]
    loads = [row["load"] for row in timed]
    about = {
        **first,
        "least_load": min(loads),
        "most_load": max(loads),
        "runs": len(first["times_ms"]),
        "commit": first["commit"][:10],
        "priority": priority_of(first),
    }
    text = COMMANDS.format(**about)
    for row in timed:
        times, budget = row["times_ms"], row["budget_ms"]
        middle = statistics.median(times)
        verdict = "" if budget is None else "met" if middle <= budget else "**missed**"
        text += (
            f"| `{row['case']}` | {middle:.0f} | {min(times):.0f} | {max(times):.0f} | {budget or ''} | {verdict} |\n"
        )
    added = [row for row in rows if row["case"] == "add"]
    shares = [100 * row["plain_s"] / row["add_s"] for row in added]
    pairs = ", ".join(f"{row['add_s']:.1f} s against {row['plain_s']:.1f} s" for row in added)
    return text + ADDING.format(megabytes=added[0]["megabytes"], pairs=pairs, share=statistics.median(shares))


def trust() -> str:
    """Return the section on what trust costs; a bound that was missed stands there as such."""
    about, table = reported("trust.jsonl")
    rows = [json.loads(line) for line in (RESULTS / "trust.jsonl").read_text().splitlines()]
    loads = [load for row in rows for load in (row["load"], row["load_after"])]
    command = next(row for row in rows if row["part"] == "command")
    medians = [{way: statistics.median(s) for way, s in row["s"].items()} for row in rows if row["part"] == "serve"]
    added = [median["everything"] - median["hashing"] for median in medians]
    return TRUST.format(
        signed=about["statements"],
        rounds=len(about["s"]["hashing"]),
        added_least=min(added),
        added_most=max(added),
        runs=len(command["ms"]),
        cores=about["cores"],
        priority=priority_of(about),
        least=min(loads),
        most=max(loads),
        commit=about["commit"][:10],
        commands=command["commit"][:10],
        table=table,
    )


def gateway() -> str:
    """Return the section on the gateway, with the table that its benchmark prints."""
    about, table = reported("gateway.jsonl.gz")
    return GATEWAY.format(streams=about["load"]["streams"], cpus=about["cpus"], commit=about["commit"], table=table)


def memory() -> str:
    """Return the section on memory."""
    about, table = reported("gateway_memory.jsonl")
    return MEMORY.format(commit=about["commit"], warm=20_000, table=table)


def neighbour() -> str:
    """Return the section on the noisy neighbour; a bound that was missed stands there as such."""
    about, table = reported("neighbour.jsonl")
    facts = {"load": about["load_average"][0], **{name: about[name] for name in ("commit", "vllm", "cpus")}}
    return NEIGHBOUR.format(quiet=about["load"]["quiet_per_s"], table=table, **facts)


def fairness() -> str:
    """Return the section on the model of an engine."""
    about, table = reported("fairness.jsonl.gz")
    facts = {"commit": about["commit"], "quiet": about["load"]["quiet_rate"], "seats": about["seats"]}
    return FAIRNESS.format(table=table, **facts)


def priority_of(row: dict[str, Any]) -> str:
    """Say how what was measured competed with what else the machine did."""
    return "at real-time priority" if row["is_real_time"] else "at ordinary priority"


def cache() -> str:
    """Return the section on times across tenants."""
    about, table = reported("cache_timing.jsonl")
    return CACHE.format(commit=about["commit"], vllm=about["vllm"], load=about["load_average"][0], table=table)


def share() -> str:
    """Return the section on throughput, with one table for each machine that has rows."""
    found = (reported(file.name) for file in sorted(RESULTS.glob("engine_share*.jsonl")))
    texts = [_share(about, table) for about, table in found]
    return SHARE + "".join(texts) if texts else ""


def _share(about: dict[str, Any], table: str) -> str:
    where = about["gpu"] or f"{about['cpus']} cores of a CPU that clients, server and engine share, with a tiny model"
    facts = {"where": where, "seconds": about["load"]["seconds"], "load": about["load_average"][0]}
    return SHARE_OF.format(commit=about["commit"], vllm=about["vllm"], table=table, **facts)


def reported(name: str) -> tuple[dict[str, Any], str]:
    """Return the conditions of the benchmark whose rows the file `name` holds, and the table that it prints of them."""
    file = RESULTS / name
    script = ROOT / "benchmarks" / f"{name.partition('.')[0].partition('-')[0]}.py"
    command = [sys.executable, str(script), "--report", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(done.stderr)
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
        return json.loads(stream.readline()), done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
