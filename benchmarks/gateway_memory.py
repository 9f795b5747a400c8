"""Whether the gateway's memory stays flat over 100 000 requests, with everything on, over the fake engine.

One process serves itself through ASGI: keys of 16 tenants, quotas that are saved, fair turns, metrics and a record of
every request. Of 20 requests, 12 are streams, 4 whole answers, and one each leaves in the middle, has an unknown key,
asks for an unknown model, and is no JSON. After each 10 000, what the process has resident and what loractl's own code
has allocated are one row.

    python benchmarks/gateway_memory.py                  # run, write results/gateway_memory.jsonl, print the table
    python benchmarks/gateway_memory.py --report FILE    # print the table of rows that are there
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loractl.engine.fake import FakeEngine
from loractl.gateway import ReconcilerTimes
from loractl.gateway.keeping import Keeping
from loractl.observability.metrics import Metrics
from loractl.observability.records import RecordWriter
from loractl.quotas import CounterFile, CounterSaving, Quotas
from loractl_registry import Stage
from loractl_registry.tenancy import Limits

if TYPE_CHECKING:
    from support.gateway import Client, House

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RESULTS = Path(__file__).parent / "results" / "gateway_memory.jsonl"
REQUESTS, EVERY, WARM, TENANTS, AT_ONCE = 100_000, 10_000, 20_000, 16, 20
# Over 100 000 requests; a leak of 100 bytes a request is 10 MB.
TRACED_BOUND_MB, RESIDENT_BOUND_MB = 1.0, 8.0
_MB = 2**20


@dataclass(frozen=True)
class Row:
    """The memory after so many requests, in bytes.

    Attributes:
        resident: Of the process: Python's, SQLite's, and what allocators keep.
        traced: Allocated by code of loractl and not freed yet.
    """

    requests: int
    resident: int
    traced: int
    seconds: float


def furnished(folder: Path) -> tuple[House, list[Client]]:
    """Return a gateway with everything on, and a client for each tenant."""
    from support.gateway import make_house

    metrics, quotas = Metrics(), Quotas()
    records = RecordWriter(folder / "requests.db", counters=metrics)
    saving = CounterSaving(quotas, CounterFile.open(folder / "quotas.db"))
    house = make_house(
        folder,
        engine=FakeEngine(max_num_seqs=8),
        times=ReconcilerTimes(),
        keeping=Keeping(quotas, saving, records),
        records=records,
        metrics=metrics,
    )
    house.server.is_recording = False
    for number in range(1, 4):
        house.registry.set(f"poet@{number}", Stage.LIVE)
    plenty = Limits(requests_per_minute=10**6, tokens_per_minute=10**9, concurrent=10**4, tokens_per_day=10**12)
    keys = [house.registry.tenancy.add(f"tenant-{number}", "poet", limits=plenty) for number in range(TENANTS)]
    return house, [house.client.with_key(key) for key in keys]


async def one(house: House, client: Client, number: int) -> None:
    """Ask once; what is asked follows from `number`."""
    kind = number % AT_ONCE
    if kind < 12:
        await client.ask("poet", stream=True, max_tokens=8)
    elif kind < 16:
        await client.ask("poet@2", max_tokens=8)
    elif kind == 16:
        call = client.begin_stream("poet", max_tokens=1000)
        await call.begun(3)
        call.gone.set()
        assert call.task is not None
        await call.task
    elif kind == 17:
        await house.client.with_key({"authorization": f"Bearer lora_{number:012x}_{number:064x}"}).ask("poet")
    elif kind == 18:
        await client.ask(f"unknown-{number}")
    else:
        await client.post("/v1/completions", b"{" + str(number).encode())


async def run() -> list[Row]:
    """Ask `REQUESTS` times and return the rows."""
    from support.gateway import running

    rows: list[Row] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        house, clients = furnished(Path(folder))
        async with running(house):
            for begin in range(0, REQUESTS, AT_ONCE):
                if begin == EVERY:
                    tracemalloc.start()
                numbers = range(begin, begin + AT_ONCE)
                await asyncio.gather(*(one(house, clients[number % TENANTS], number) for number in numbers))
                if (begin + AT_ONCE) % EVERY == 0 and begin > EVERY:
                    rows.append(await measured(begin + AT_ONCE, began))
                    print(rows[-1], file=sys.stderr)
    return rows


async def measured(requests: int, began: float) -> Row:
    """Let what waits to be written be written, and look."""
    await asyncio.sleep(1)
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    ours = tracemalloc.Filter(inclusive=True, filename_pattern=f"{ROOT / 'loractl'}/*")
    traced = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
    gc.collect()
    return Row(requests, pages * os.sysconf("SC_PAGE_SIZE"), traced, round(time.monotonic() - began, 1))


def slope_of(rows: list[Row], field: str) -> float:
    """Return by how many bytes a request the least squares grow."""
    points = [(row.requests, getattr(row, field)) for row in rows]
    middle = [sum(column) / len(points) for column in zip(*points, strict=True)]
    spread = sum((at - middle[0]) ** 2 for at, _ in points)
    return sum((at - middle[0]) * (size - middle[1]) for at, size in points) / spread


def report(rows: list[Row]) -> bool:
    """Print the rows and the verdict, and return whether it is flat."""
    print(f"{'requests':>10}{'resident, MB':>16}{'loractl, KB':>16}")
    for row in rows:
        print(f"{row.requests:>10}{row.resident / _MB:>16.1f}{row.traced / 1024:>16.1f}")
    warm = [row for row in rows if row.requests > WARM]
    is_flat = True
    for label, field, bound in (("resident", "resident", RESIDENT_BOUND_MB), ("loractl", "traced", TRACED_BOUND_MB)):
        slope = slope_of(warm, field)
        growth = slope * REQUESTS / _MB
        is_flat = is_flat and growth <= bound
        print(f"{label}: {slope:+.2f} bytes a request, {growth:+.2f} MB in {REQUESTS} requests; bound {bound:g} MB")
    print(f"flat: {'yes' if is_flat else 'NO'}")
    return is_flat


def conditions() -> dict[str, object]:
    """Return what a reader of the rows has to know."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {"commit": commit.stdout.strip(), "python": platform.python_version(), "cpus": os.cpu_count()}


def main() -> int:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.report:
        lines = [json.loads(line) for line in options.report.read_text().splitlines()]
        return 0 if report([Row(**line) for line in lines if "resident" in line]) else 1
    before, rows = conditions(), asyncio.run(run())
    with options.out.open("w") as file:
        for line in (before, *map(asdict, rows)):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
