"""Write docs/benchmarks.md from the raw rows: ``python benchmarks/report.py``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

HEAD = """# Benchmarks

Every number here is computed from raw rows in `benchmarks/results/` by `python benchmarks/report.py`; nothing is
typed by hand. `make bench-cli` and `make bench-gateway` measure again. The budgets are those of a two-core machine.
What adapters cost on a GPU stands in [Kernel benchmarks](benchmarks-kernels.md).
"""

COMMANDS = """
## Commands

Wall time of whole processes on a registry of {versions} versions, {runs} runs each, on {cores} cores with a load of
{load} before and {load_after} after (commit `{commit}`). Milliseconds.

| Command | Median | Least | Most | Budget | |
| --- | --- | --- | --- | --- | --- |
"""

ADDING = """
`add` of one adapter of {megabytes} MB, against hashing and copying the same file by itself, pair by pair; the budget
is 70 % of its speed: {pairs}. Median: **{share:.0f} %**.
"""

GATEWAY = """
## Gateway

What the gateway adds to a fake engine at {streams} concurrent streams, with the clients, both servers and the fake
engine on the same {cpus} cores, at real-time priority (commit `{commit}`). Blocks of load alternate between the engine
alone and the engine behind the gateway. A bound of 1 ms at the median and 5 ms at the 99th percentile is asked for.

```
{table}
```

The first event carries the reading, resolving and rewriting of a request. A gap between two tokens is what a stream
pays from then on.
"""


def main() -> int:
    """Write the page."""
    (ROOT / "docs" / "benchmarks.md").write_text(HEAD + commands() + gateway(), encoding="utf-8")
    return 0


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


def gateway() -> str:
    """Return the section on the gateway, with the table that its benchmark prints."""
    file = RESULTS / "gateway.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks" / "gateway.py"), "--report", str(file)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with file.open() as stream:
        about = json.loads(stream.readline())
    return GATEWAY.format(streams=about["load"]["streams"], cpus=about["cpus"], commit=about["commit"], table=table)


if __name__ == "__main__":
    sys.exit(main())
