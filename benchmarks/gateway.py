"""How much latency the gateway adds at 200 concurrent streams, over a fake engine.

Two servers run side by side: the fake engine's own, and the same behind the gateway with everything on: a key to check,
limits to count against and save, fair turns, metrics, and a record of every request. Each of 200 clients keeps one
stream going after another; blocks of load on the one and on the other alternate, so that whatever else the machine does
meets both. Every block is one row of the raw file, with the times of each of its requests; the table is computed from
the rows alone.

On a machine that has other work, run it as `chrt -f 10 python benchmarks/gateway.py`: while something else has the
core, a server and its threads wait for each other many times as long as what is measured here.

    python benchmarks/gateway.py                  # run, write results/gateway.jsonl.gz, print the table
    python benchmarks/gateway.py --report FILE    # print the table of rows that are there
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import itertools
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn

from loractl.engine.fake import FakeEngine, FakeServer
from loractl.engine.ports import EngineAdapter
from loractl.gateway import ReconcilerTimes
from loractl.gateway.asgi import Receive, Scope, Send
from loractl.gateway.keeping import Keeping
from loractl.observability.metrics import Metrics
from loractl.observability.records import RecordWriter
from loractl.quotas import CounterFile, CounterSaving, Quotas
from loractl_registry import Stage, VersionRef
from loractl_registry.tenancy import Limits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RESULTS = Path(__file__).parent / "results" / "gateway.jsonl.gz"
VARIANTS = ("direct", "gateway")
TIMES = ("first_ms", "gap_ms", "worst_gap_ms")
P50_BOUND_MS, P99_BOUND_MS = 1.0, 5.0
_BOOTSTRAPS = 400


@dataclass(frozen=True)
class Load:
    """What every client does.

    Attributes:
        streams: Concurrent streams.
        tokens: Tokens of an answer, one event each, on average; each answer draws between half and one and a half as
            many, and each client a pause of up to one token before it asks again. Otherwise every stall would put the
            streams into step for good, and bursts would be measured that no real clients make.
        token_s: Time that the fake engine takes for each.
        prompt_bytes: Size of the prompt.
        block_s: Length of a block of load on one server.
        warmup_s: Beginning of a block whose requests are not counted.
        rounds: Pairs of blocks.
    """

    streams: int = 200
    tokens: int = 20
    token_s: float = 0.1
    prompt_bytes: int = 2000
    block_s: float = 5.0
    warmup_s: float = 2.0
    rounds: int = 16


@dataclass(frozen=True)
class Server:
    """One that runs, and the header that opens it."""

    port: int
    key: str


@dataclass(frozen=True)
class Row:
    """One request: time to the first event, and the median and the largest gap between events."""

    variant: str
    block: int
    first_ms: float
    gap_ms: float
    worst_gap_ms: float


def serve(variant: str, token_s: float, port_file: Path) -> None:
    """Run one server until it is told to end."""
    from support.gateway import make_house

    with tempfile.TemporaryDirectory() as folder:
        metrics, file = Metrics(), CounterFile.open(Path(folder) / "quotas.db")
        records, quotas = RecordWriter(Path(folder) / "requests.db", counters=metrics), Quotas()
        house = make_house(
            Path(folder),
            engine=FakeEngine(token_s=token_s),
            times=ReconcilerTimes(),
            keeping=Keeping(quotas, CounterSaving(quotas, file), records),
            records=records,
            metrics=metrics,
        )
        house.server.is_recording = False
        plenty = Limits(requests_per_minute=10**6, tokens_per_minute=10**9, concurrent=10**4, tokens_per_day=10**12)
        key = house.registry.tenancy.add("acme", "poet", limits=plenty)["authorization"]
        for number in range(1, 4):
            house.registry.set(f"poet@{number}", Stage.LIVE)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        port_file.with_suffix(".tmp").write_text(f"{listener.getsockname()[1]}\n{key}")
        port_file.with_suffix(".tmp").rename(port_file)
        app: object = house.gateway if variant == "gateway" else _Admitting(house.server, Path(folder) / "poet@3")
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", backlog=1024)  # type: ignore[arg-type]
        # As vLLM's server does when it is up; otherwise collections of everything that was imported would be measured.
        gc.collect()
        gc.freeze()
        uvicorn.Server(config).run(sockets=[listener])


class _Admitting:
    """The engine's own server, holding the one adapter that is asked for: what the gateway's engine holds by itself."""

    def __init__(self, server: FakeServer, folder: Path) -> None:
        self._server = server
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._server.engine.admit(EngineAdapter(VersionRef("poet", 3), self._folder, is_fused=True))
        await self._server(scope, receive, send)


def request_of(load: Load, num_tokens: int, key: str) -> bytes:
    """Return the bytes of one request, alike for both servers: they name the exact version and carry a key."""
    body = {"model": "poet@3", "prompt": "x" * load.prompt_bytes, "max_tokens": num_tokens, "stream": True}
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-length: {len(raw)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + raw


async def one_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> list[float]:
    """Send `request` and return when it was sent and when each event came."""
    times = [time.perf_counter()]
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {head!r}")
    while (size := int(await reader.readline(), 16)) > 0:
        await reader.readexactly(size + 2)
        times.append(time.perf_counter())
    await reader.readline()
    return times


async def client(server: Server, load: Load, rng: random.Random, began: float) -> list[list[float]]:
    """Keep one stream going after another, and return the times of those that began after the warm-up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await asyncio.sleep(began + rng.random() * load.tokens * load.token_s - time.perf_counter())
    answers: list[list[float]] = []
    while time.perf_counter() < began + load.block_s:
        num_tokens = rng.randint(load.tokens // 2, load.tokens * 3 // 2)
        times = await one_stream(reader, writer, request_of(load, num_tokens, server.key))
        if times[0] >= began + load.warmup_s:
            answers.append(times)
        await asyncio.sleep(rng.random() * load.token_s)
    writer.close()
    return answers


async def block(variant: str, index: int, server: Server, load: Load, rng: random.Random) -> list[Row]:
    """Put one block of load on one server; the clients begin spread over the length of one answer."""
    began = time.perf_counter()
    clients = [client(server, load, random.Random(rng.random()), began) for _ in range(load.streams)]
    rows: list[Row] = []
    for answers in await asyncio.gather(*clients):
        for times in answers:
            # The last event is the closing mark, which follows the last token at once.
            gaps = [after - before for before, after in itertools.pairwise(times[1:-1])]
            first = times[1] - times[0]
            values = (first, statistics.median(gaps), max(gaps))
            rows.append(Row(variant, index, *(round(1000 * value, 2) for value in values)))
    return rows


def run(load: Load) -> list[Row]:
    """Start both servers, alternate the load between them, and return every row."""
    rng = random.Random(0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {variant: Path(folder) / variant for variant in VARIANTS}
        command = [sys.executable, __file__, "--token-s", str(load.token_s)]
        servers = [
            subprocess.Popen([*command, "--serve", name, "--port-file", str(file)]) for name, file in files.items()
        ]
        try:
            ready = {variant: _server(file) for variant, file in files.items()}
            for index in range(load.rounds):
                order = VARIANTS if index % 2 == 0 else VARIANTS[::-1]
                for variant in order:
                    rows += asyncio.run(block(variant, index, ready[variant], load, rng))
                    print(f"round {index + 1} of {load.rounds}: {variant}", file=sys.stderr)
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(10)
    return rows


def _server(file: Path) -> Server:
    deadline = time.monotonic() + 30
    while not file.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)
    port, key = file.read_text().splitlines()
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", int(port)), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return Server(int(port), key)
    raise RuntimeError("the server does not listen")


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(rows: list[Row]) -> bool:
    """Print what the gateway adds, and return whether it stays within its bounds."""
    print(f"{len(rows)} requests; milliseconds; medians over the rounds, and of the difference within each round")
    print(f"{'':20}{'direct':>10}{'gateway':>10}{'added':>10}{'95 % interval':>20}")
    is_good = True
    for label, field, share, bound in (
        ("first event, p50", "first_ms", 0.50, P50_BOUND_MS),
        ("first event, p99", "first_ms", 0.99, P99_BOUND_MS),
        ("median gap, p50", "gap_ms", 0.50, P50_BOUND_MS),
        ("median gap, p99", "gap_ms", 0.99, P99_BOUND_MS),
        ("largest gap, p50", "worst_gap_ms", 0.50, None),
        ("largest gap, p99", "worst_gap_ms", 0.99, None),
    ):
        pairs = by_round(rows, field, share)
        direct, gateway = (statistics.median(column) for column in zip(*pairs, strict=True))
        added, low, high = difference(pairs)
        verdict = "" if bound is None else f"  bound {bound:g}: {'met' if added <= bound else 'MISSED'}"
        is_good = is_good and (bound is None or added <= bound)
        print(f"{label:20}{direct:10.3f}{gateway:10.3f}{added:10.3f}{f'{low:.3f} .. {high:.3f}':>20}{verdict}")
    return is_good


def by_round(rows: list[Row], field: str, share: float) -> list[tuple[float, float]]:
    """Return the percentile of both servers in each round; the two blocks of a round are neighbours in time."""
    values: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        values.setdefault((row.block, row.variant), []).append(getattr(row, field))
    rounds = sorted({index for index, _ in values})
    return [(percentile(values[i, "direct"], share), percentile(values[i, "gateway"], share)) for i in rounds]


def difference(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the median difference over the rounds, and its interval when whole rounds are drawn again."""
    rng = random.Random(0)
    differences = [gateway - direct for direct, gateway in pairs]
    drawn = [statistics.median(rng.choices(differences, k=len(differences))) for _ in range(_BOOTSTRAPS)]
    return statistics.median(differences), percentile(drawn, 0.025), percentile(drawn, 0.975)


def packed(rows: list[Row]) -> Iterator[dict[str, object]]:
    """Yield one line a block, with a list for each time."""
    for (block, variant), members in itertools.groupby(rows, key=lambda row: (row.block, row.variant)):
        found = list(members)
        yield {"variant": variant, "block": block, **{name: [getattr(row, name) for row in found] for name in TIMES}}


def unpacked(line: dict[str, Any]) -> list[Row]:
    """Return the rows of one line."""
    times = zip(*(line[name] for name in TIMES), strict=True)
    return [Row(line["variant"], line["block"], *values) for values in times]


def conditions(load: Load) -> dict[str, object]:
    """Return what a reader of the rows has to know."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    packages = ("uvicorn", "uvloop", "httptools")
    return {
        "load": asdict(load),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "is_real_time": os.sched_getscheduler(0) == os.SCHED_FIFO,
        **{package: version(package) for package in packages},
    }


def main() -> int:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--rounds", type=int, default=Load.rounds)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--token-s", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--port-file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.token_s, options.port_file)
        return 0
    if options.report:
        with gzip.open(options.report, "rt") as file:
            lines = [json.loads(line) for line in file]
        return 0 if report([row for line in lines if "variant" in line for row in unpacked(line)]) else 1
    load = Load(rounds=options.rounds)
    before = conditions(load)
    rows = run(load)
    options.out.parent.mkdir(exist_ok=True)
    with gzip.open(options.out, "wt") as file:
        for line in (before, *packed(rows)):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
