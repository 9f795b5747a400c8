"""Whether times tell one tenant what another has asked: the prefix cache of a real vLLM on this machine's CPU.

A prompt that the engine has in its prefix cache is answered sooner than one that it has to read. `loractl serve` gives
each tenant a salt of its own, so that a tenant finds its own prompts there and nobody else's. Each pair is one prompt
that was asked before and one that nobody has sent, both as long, asked by the same tenant in random order; a pair of
the arm `own` was asked before by that tenant, which is what a salt that both shared would make of it, and a pair of the
arm `other` by another tenant. Both arms alternate. A rank test over the pairs says whether times tell them apart: it
has to find the cache in `own`, or it could not find a leak in `other`.

    python benchmarks/cache_timing.py                  # run (minutes), write results/cache_timing.jsonl, the table
    python benchmarks/cache_timing.py --report FILE    # print the table of rows that are there
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from neighbour import Load, Row, Served, ask, conditions, serving

RESULTS = Path(__file__).parent / "results" / "cache_timing.jsonl"
ARMS = {"own": "quiet", "other": "flood"}
"""Arm -> the tenant that has asked before; it is always `quiet` that looks."""
FOUND, NOTHING = 1e-6, 0.01
WORDS = 60


def prompt_of(rng: random.Random) -> str:
    """Return a prompt that nobody has sent."""
    return " ".join(f"word{rng.randrange(10**9):09}" for _ in range(WORDS))


async def pair(served: Served, arm: str, rng: random.Random) -> tuple[float, float]:
    """Return the milliseconds to the answers of a prompt that was asked before and of one that was not."""
    before, fresh = prompt_of(rng), prompt_of(rng)
    await asked(served, ARMS[arm], before)
    order = [before, fresh] if rng.random() < 0.5 else [fresh, before]
    times = {prompt: await asked(served, "quiet", prompt) for prompt in order}
    return times[before], times[fresh]


async def asked(served: Served, tenant: str, prompt: str) -> float:
    """Ask for one token, and return the milliseconds to it."""
    took = await ask(served, tenant, "first", prompt, 1, stream=False)
    if took is None:
        raise RuntimeError(f"the server did not answer {tenant}")
    return round(1000 * took, 2)


async def measure(served: Served, pairs: int) -> list[Row]:
    """Return one row an arm."""
    rng = random.Random(0)
    times: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for _ in range(10):  # what is slow the first time is no part of the rows
        for arm in ARMS:
            await pair(served, arm, rng)
    for _ in range(pairs):
        for arm in ARMS:
            times[arm].append(await pair(served, arm, rng))
    return [
        {"arm": arm, "before_ms": [a for a, _ in found], "fresh_ms": [b for _, b in found]}
        for arm, found in times.items()
    ]


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, in its normal approximation; equal ranks are averaged."""
    left = sorted((abs(one), one > 0) for one in differences if one)
    count = len(left)
    ranks, at = [0.0] * count, 0
    while at < count:
        end = at
        while end < count and left[end][0] == left[at][0]:
            end += 1
        ranks[at:end] = [(at + 1 + end) / 2] * (end - at)
        at = end
    positive = sum(rank for rank, (_, is_positive) in zip(ranks, left, strict=True) if is_positive)
    spread = math.sqrt(sum(rank * rank for rank in ranks)) / 2
    return math.erfc(abs(positive - sum(ranks) / 2) / spread / math.sqrt(2)) if spread else 1.0


def report(rows: list[Row]) -> bool:
    """Print what was found, and return whether times tell a tenant about its own prompts alone."""
    print(f"{'asked before by':16}{'pairs':>7}{'before, ms':>12}{'fresh, ms':>11}{'sooner':>9}{'rank test, p':>14}")
    values: dict[str, float] = {}
    for row in rows:
        before, fresh = ([float(one) for one in row[name]] for name in ("before_ms", "fresh_ms"))  # type: ignore[attr-defined]
        differences = [late - soon for soon, late in zip(before, fresh, strict=True)]
        sooner = sum(one > 0 for one in differences) / len(differences)
        values[str(row["arm"])] = p = signed_rank_p(differences)
        who = "the same tenant" if row["arm"] == "own" else "another tenant"
        middles = f"{statistics.median(before):12.2f}{statistics.median(fresh):11.2f}"
        print(f"{who:16}{len(before):7}{middles}{sooner:9.1%}{p:14.2g}")
    can_find, finds = values["own"] < FOUND, values["other"] < NOTHING
    print(f"the test finds a tenant's own prompts (p below {FOUND:g}): {'yes' if can_find else 'NO'}")
    print(f"it finds another's (p below {NOTHING:g}): {'YES' if finds else 'no'}")
    return can_find and not finds


def main() -> int:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.report:
        _, *rows = [json.loads(line) for line in options.report.read_text().splitlines()]
        return 0 if report(rows) else 1
    before = conditions(Load())
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "vtc", Load()) as served:
        rows = asyncio.run(measure(served, options.pairs))
    with options.out.open("w") as file:
        for line in ({**before, "words": WORDS}, *rows):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
