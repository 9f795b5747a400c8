"""What trust costs: at the start of a server, and in every command: ``make bench-trust``.

The first part times, in processes of their own and taking turns, what `serve` checks of 100 live adapters before it
starts an engine, against hashing the same files alone; what `serve` has imported by then is imported before the clock
starts. The second times whole commands on a home with 100 promoted versions and on one with 10 000 signed ones, with
the note of what was verified (warm) and without (cold). The file cache is warm. Raw rows go to
``benchmarks/results/trust.jsonl``. On a machine that has other work, run it under ``chrt -f 10``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli import LORACTL, ROOT, environment_of, home_of, machine, workspace

sys.path.insert(0, str(ROOT / "tests"))

from support.registry import BaseShape, adapter_config, attention_shapes, write_adapter, write_base

from loractl_registry import Ref, Registry, Stage

RESULTS = ROOT / "benchmarks" / "results" / "trust.jsonl"
SHAPE = BaseShape(hidden=2048, heads=16, kv_heads=16, head_dim=128, layers=48)
RANK, LAYERS = 64, {1: 1, 10: 10, 50: 48}
"""Megabytes of an adapter, and over how many layers it goes."""
ADAPTERS, SERVE_BOUND = 100, 0.15
NOTES = ("verified.json", "keys/verified-secret")
COLD, WARM = "cold", "warm"

PROBE = """
import gc, sys, time
from pathlib import Path
gc.set_threshold(100_000, 50, 50)  # as the command line does
import loractl.serving.launch, loractl_registry.serving, loractl_registry.checking
from loractl_registry import Registry
way, home = sys.argv[1], Path(sys.argv[2])
with Registry.open(home, must_exist=True) as registry:
    versions = registry.versions()
    contents = [(version.digest, registry.manifest(version.ref)) for version in versions]
    started = time.perf_counter()
    if way == "hashing":
        assert not any(registry._context.contents.verify(digest, manifest) for digest, manifest in contents)
    else:
        served = registry.snapshot("wide").versions
        assert len(served) == len(contents)
        assert all(one.is_intact for one in registry.verify_bytes(served))
    print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Command:
    """One command; what may not be done twice to a version takes another each time.

    Attributes:
        budget_ms: What the median may take, None if nothing was promised.
        reads_chain: Whether the note makes a difference, so that both states are worth measuring.
    """

    name: str
    argv: Callable[[int], Sequence[str]]
    budget_ms: float | None
    reads_chain: bool = True


def main() -> None:
    """Measure, keep, print; or print what was kept."""
    options = _options()
    if options.report is not None:
        print(report(_rows(options.report)))
        return
    kept = _rows(RESULTS) if RESULTS.exists() else []
    with workspace(options.keep) as folder:
        measured = {
            part: list(measure(folder)) if part in options.parts else [row for row in kept if row["part"] == part]
            for part, measure in (
                ("serve", lambda folder: _serve_rows(folder, options.rounds)),
                ("command", lambda folder: _command_rows(folder, options.runs)),
            )
        }
    rows = [row for part in measured.values() for row in part]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(report(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of each way to check 100 adapters")
    parser.add_argument("--runs", type=int, default=9, help="of each command in each state")
    parser.add_argument("--parts", nargs="+", choices=["serve", "command"], default=["serve", "command"])
    parser.add_argument("--keep", type=Path, help="folder to build in, and to find the homes in again")
    parser.add_argument("--report", type=Path, help="print the tables of these rows and measure nothing")
    return parser.parse_args()


# Serve start


def _serve_rows(folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    for megabytes in LAYERS:
        home = _serving_home(folder, megabytes)
        times: dict[str, list[float]] = {"hashing": [], "everything": []}
        facts = machine()
        for number in range(-1, rounds):
            for way, taken in times.items():
                seconds = _probe(way, home)
                if number >= 0:
                    taken.append(round(seconds, 4))
        load = round(os.getloadavg()[0], 2)
        about = {"part": "serve", "adapters": ADAPTERS, "megabytes": megabytes, "statements": _statements(home)}
        yield facts | about | {"load_after": load, "s": times}
        _remove(home.parent)


def _serving_home(folder: Path, megabytes: int) -> Path:
    """Return a home with 100 live adapters of that size."""
    place = folder / f"serve-{megabytes}"
    write_base(place / "base", shape=SHAPE)
    with Registry.open(place / "home") as registry:
        registry.add_base("wide", str(place / "base"), actor="bench")
        for index in range(ADAPTERS):
            name, source = f"adapter-{index:03d}", _write_sized(place / "source", LAYERS[megabytes], seed=index)
            registry.add(name, str(source), actor="bench")
            registry.promote(Ref(name, 1), actor="bench", to=Stage.LIVE)
    return place / "home"


def _write_sized(folder: Path, layers: int, *, seed: int) -> Path:
    """Write an adapter over `layers` layers whose bytes no file system can squeeze."""
    folder.mkdir(exist_ok=True)
    shapes, header, offset = attention_shapes(replace(SHAPE, layers=layers), RANK), dict[str, object](), 0
    for name, (height, width) in shapes.items():
        size = 2 * height * width
        header[name] = {"dtype": "BF16", "shape": [height, width], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Without 0x7f and 0xff, every number is finite.
    data = hashlib.shake_128(f"{seed} {layers}".encode()).digest(offset)
    data = data.replace(b"\x7f", b"\x3f").replace(b"\xff", b"\xbf")
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(RANK, "wide", ["q_proj", "v_proj"])))
    return folder


def _probe(way: str, home: Path) -> float:
    done = subprocess.run([sys.executable, "-c", PROBE, way, str(home)], capture_output=True, text=True, check=True)
    return float(done.stdout)


# Commands


def _command_rows(folder: Path, runs: int) -> Iterator[dict[str, Any]]:
    for versions, home in ((100, _promoted_home(folder)), (10_000, home_of(folder, 10_000))):
        candidates = _candidates(home, folder, 4 * (runs + 1))
        environment, sources = environment_of(home), folder / "new"
        for command in _commands(candidates, sources, versions):
            facts, states = machine(), (COLD, WARM) if command.reads_chain else (WARM,)
            times = _timed(command, states, home, environment, runs)
            held = _statements(home)
            load = round(os.getloadavg()[0], 2)
            for state in states:
                about = {"versions": versions, "statements": held, "state": state, "budget_ms": command.budget_ms}
                yield facts | about | {"part": "command", "case": command.name, "load_after": load, "ms": times[state]}


def _commands(candidates: Sequence[str], sources: Path, versions: int) -> list[Command]:
    def added(index: int) -> Sequence[str]:
        source = write_adapter(sources / str(index), seed=1_000_000 + versions + index, rank=2)
        return ["add", f"new-{versions}", str(source)]

    approved, promoted = candidates[: len(candidates) // 2], candidates[len(candidates) // 2 :]
    return [
        Command("Tab: show REF", lambda _: ["__complete", "line", "loractl show "], 100, reads_chain=False),
        Command("loractl list", lambda _: ["list"], 400, reads_chain=False),
        Command("loractl show", lambda _: ["show", "adapter-0001@1"], None),
        Command("loractl policy explain", lambda _: ["policy", "explain", "adapter-0001@1"], 700),
        Command("loractl approvals", lambda _: ["approvals", "adapter-0001@1"], 700),
        Command("loractl review", lambda _: ["review"], None),
        Command("loractl approve", lambda index: ["approve", approved[index], "--reason", "measured"], 700),
        Command("loractl promote", lambda index: ["promote", promoted[index]], 600),
        Command("loractl add", added, None),
    ]


def _timed(
    command: Command, states: Sequence[str], home: Path, environment: Mapping[str, str], runs: int
) -> dict[str, list[float]]:
    """Return milliseconds by state; the states take turns, and the first run of each is not counted."""
    times: dict[str, list[float]] = {state: [] for state in states}
    for number in range(-1, runs):
        for place, state in enumerate(states):
            argv = [str(LORACTL), *command.argv((number + 1) * len(states) + place)]
            if state == COLD:
                for name in NOTES:
                    (home / name).unlink(missing_ok=True)
            started = time.perf_counter()
            done = subprocess.run(argv, env=dict(environment), capture_output=True, check=False)
            elapsed = (time.perf_counter() - started) * 1000
            if done.returncode:
                raise SystemExit(f"{argv} failed: {done.stderr.decode()}")
            if number >= 0:
                times[state].append(round(elapsed, 1))
    return times


def _promoted_home(folder: Path) -> Path:
    """Return a home in which 100 versions of 2 adapters were promoted to live, one after the other."""
    home = folder / "promoted-100"
    if (home / "complete").exists():
        return home
    write_base(folder / "base")
    with Registry.open(home) as registry:
        registry.add_base("tiny-moe", str(folder / "base"), actor="bench")
        for index in range(100):
            name = f"adapter-{index // 50:04d}"
            added = registry.add(name, str(write_adapter(folder / "source", seed=index, rank=2)), actor="bench")
            registry.promote(Ref(name, added.version.ref.number), actor="bench", to=Stage.LIVE)
    (home / "complete").touch()
    return home


def _candidates(home: Path, folder: Path, count: int) -> list[str]:
    """Add `count` versions on top and make them candidates, which can be approved or promoted."""
    name = f"fresh-{int(time.time())}"
    with Registry.open(home) as registry:
        for index in range(count):
            source = write_adapter(folder / "source", seed=int(time.time()) + index, rank=2)
            registry.add(name, str(source), actor="bench")
            registry.promote(Ref(name, index + 1), actor="bench")
    return [f"{name}@{index + 1}" for index in range(count)]


def _statements(home: Path) -> int:
    with contextlib.closing(sqlite3.connect(home / "registry.db")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM statement").fetchone()
    return int(count)


def _remove(folder: Path) -> None:
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
    shutil.rmtree(folder)


# Report


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of `rows`."""
    serve = [row for row in rows if row["part"] == "serve"]
    commands = [row for row in rows if row["part"] == "command"]
    lines = [
        "seconds for 100 live adapters, medians and least .. most",
        f"{'':12}{'hashing':>22}{'everything':>22}   added",
    ]
    lines += [_serve_line(row) for row in serve]
    lines += [
        "",
        "milliseconds for whole commands, medians and least .. most",
        f"{'':36}{'cold':>20}{'warm':>20}  budget",
    ]
    for versions in sorted({row["versions"] for row in commands}):
        held = [row for row in commands if row["versions"] == versions]
        what = "promoted" if versions == 100 else "signed"
        lines.append(f"{versions} {what} versions, {held[0]['statements']} statements and more")
        lines += [_command_line(name, held) for name in dict.fromkeys(row["case"] for row in held)]
    return "\n".join(lines)


def _serve_line(row: dict[str, Any]) -> str:
    hashing, everything = row["s"]["hashing"], row["s"]["everything"]
    added = statistics.median(everything) / statistics.median(hashing) - 1
    verdict = "met" if added <= SERVE_BOUND else "MISSED"
    spread = [
        f"{statistics.median(taken):.3f} ({min(taken):.3f} .. {max(taken):.3f})" for taken in (hashing, everything)
    ]
    return (
        f"{row['megabytes']:>4} MB each{spread[0]:>24}{spread[1]:>24}{added:>7.1%}; bound {SERVE_BOUND:.0%}: {verdict}"
    )


def _command_line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    held = {row["state"]: row for row in rows if row["case"] == name}
    cells = [_spread(held[state]["ms"]) if state in held else "" for state in (COLD, WARM)]
    budget = held[WARM]["budget_ms"]
    told = ""
    if budget is not None:
        verdicts = [f"{state} {_verdict(held[state]['ms'], budget)}" for state in (COLD, WARM) if state in held]
        told = f"{budget:8.0f}: {', '.join(verdicts)}"
    return f"  {name:34}{cells[0]:>20}{cells[1]:>20}{told}".rstrip()


def _spread(taken: Sequence[float]) -> str:
    return f"{statistics.median(taken):.0f} ({min(taken):.0f} .. {max(taken):.0f})"


def _verdict(taken: Sequence[float], budget: float) -> str:
    return "met" if statistics.median(taken) <= budget else "MISSED"


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
