"""Time whole ``loractl`` processes on a registry of 10 000 versions: ``make bench-cli``.

Every number is the wall time of a process from its start to its end, as a user waits for it, with compiled bytecode and
a warm page cache. Raw rows go to ``benchmarks/results/cli.jsonl``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cli.jsonl"
LORACTL = Path(sys.executable).with_name("loractl")
sys.path.insert(0, str(ROOT / "tests"))

from support.registry import BaseShape, adapter_config, write_adapter, write_base  # noqa: E402

from loractl_registry import Ref, Registry, Stage  # noqa: E402

VERSIONS_PER_NAME = 50


@dataclass(frozen=True)
class Case:
    """One command, what it may take, and what has to be undone between two runs.

    Attributes:
        budget_ms: What the median may take, or None if it is there for comparison only.
    """

    name: str
    argv: Callable[[int], list[str]]
    budget_ms: float | None
    runs: int


def main() -> None:
    """Build, measure, print, keep."""
    options = _options()
    with workspace(options.keep) as folder:
        home = home_of(folder, options.versions)
        environment = environment_of(home)
        facts = machine() | {"versions": options.versions}
        rows = [_measure(case, environment) for case in _cases(options.runs)]
        rows += _measure_add(folder, environment, options.adapter_mb, options.add_runs)
    facts["load_after"] = round(os.getloadavg()[0], 2)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(facts | row) + "\n" for row in rows)
    _print(rows, facts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--adapter-mb", type=int, default=700)
    parser.add_argument("--add-runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder to build in, and to find the registry in again")
    return parser.parse_args()


@contextmanager
def workspace(keep: Path | None) -> Iterator[Path]:
    """Give the folder `keep`, or one that is gone at the end."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="loractl-bench-"))
    try:
        yield folder
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
        shutil.rmtree(folder)


def home_of(folder: Path, count: int) -> Path:
    """Return a home with `count` versions, one adapter in 50 with a live version."""
    home = folder / f"home-{count}"
    if (home / "complete").exists():
        return home
    write_base(folder / "base")
    started = time.perf_counter()
    with Registry.open(home) as registry:
        registry.add_base("tiny-moe", str(folder / "base"), actor="bench")
        for index in range(count):
            name = f"adapter-{index // VERSIONS_PER_NAME:04d}"
            source = write_adapter(folder / "source", seed=index, rank=2)
            added = registry.add(name, str(source), actor="bench").version
            if index % VERSIONS_PER_NAME == 0:
                registry.promote(Ref(name, added.ref.number), actor="bench", to=Stage.LIVE)
            if index % 1000 == 999:
                print(f"  {index + 1} versions after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    (home / "complete").touch()
    return home


def _cases(runs: int) -> list[Case]:
    def number(index: int) -> str:
        # Another draft every time: promoting the same one again would do nothing.
        return f"adapter-{index % 200:04d}@{2 + (int(time.time()) + index // 200) % 48}"

    return [
        Case("python -c ''", lambda _: ["-c", ""], None, runs),
        Case("Tab: command", lambda _: ["__complete", "line", "loractl pro"], 100, runs),
        Case("Tab: promote REF", lambda _: ["__complete", "line", "loractl promote adapter-01"], 100, runs),
        Case("Tab: show REF", lambda _: ["__complete", "line", "loractl show "], 100, runs),
        Case("loractl --help", lambda _: ["--help"], 150, runs),
        Case("loractl promote --help", lambda _: ["promote", "--help"], 150, runs),
        Case("loractl list", lambda _: ["list"], 400, runs),
        Case("loractl list --json", lambda _: ["list", "--json"], 400, runs),
        Case("loractl promote (preflight)", lambda index: ["promote", number(index)], 600, runs),
        Case("loractl promote --to live", lambda index: ["promote", number(index + 7919), "--to", "live"], 600, runs),
    ]


def _measure(case: Case, environment: dict[str, str]) -> dict[str, object]:
    times = []
    for index in range(-2, case.runs):
        command = [sys.executable if case.name.startswith("python") else str(LORACTL), *case.argv(index + 2)]
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        elapsed_ms = (time.perf_counter() - started) * 1000
        if done.returncode and b"already" not in done.stdout:
            raise SystemExit(f"{command} failed: {done.stderr.decode()}")
        if index >= 0:
            times.append(elapsed_ms)
    return {"case": case.name, "budget_ms": case.budget_ms, "times_ms": [round(each, 2) for each in times]}


def _measure_add(folder: Path, environment: dict[str, str], megabytes: int, runs: int) -> list[dict[str, object]]:
    """Time ``add`` of a large adapter against hashing and copying its file with nothing around it."""
    large = folder / "large"
    rows: list[dict[str, object]] = []
    for run in range(runs):
        weights = _write_large(large, megabytes, seed=run)
        plain_s = _hash_and_copy(weights, folder / "copy")
        started = time.perf_counter()
        argv = [str(LORACTL), "add", "large", str(large), "--json"]
        done = subprocess.run(argv, env=environment, capture_output=True, check=False)
        add_s = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"add failed: {done.stderr.decode()}")
        rows.append({"case": "add", "megabytes": megabytes, "plain_s": round(plain_s, 3), "add_s": round(add_s, 3)})
    with Registry.open(Path(environment["LORACTL_HOME"])) as registry:
        for version in registry.versions(name="large"):
            registry.revoke(Ref("large", version.ref.number), actor="bench", reason="measured")
        registry.gc(dry_run=False, actor="bench")
    return rows


def _write_large(folder: Path, megabytes: int, *, seed: int) -> Path:
    """Write an adapter whose one pair of tensors has `megabytes` of data that no file system can squeeze."""
    folder.mkdir(exist_ok=True)
    rank, hidden = 64, BaseShape().hidden
    rows = megabytes * 1_000_000 // (2 * rank)
    shapes = {"lora_A": (rank, hidden), "lora_B": (rows, rank)}
    header: dict[str, object] = {}
    offset = 0
    for side, (height, width) in shapes.items():
        size = 2 * height * width
        name = f"base_model.model.model.layers.0.self_attn.q_proj.{side}.weight"
        header[name] = {"dtype": "BF16", "shape": [height, width], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(rank, "tiny-moe", ["q_proj"])))
    weights = folder / "adapter_model.safetensors"
    block = hashlib.shake_128(str(seed).encode()).digest(1 << 20).replace(b"\x7f", b"\x3f").replace(b"\xff", b"\x3f")
    with weights.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        while offset > 0:
            stream.write(block[: min(offset, len(block))])
            offset -= len(block)
        stream.flush()
        os.fsync(stream.fileno())
    return weights


def _hash_and_copy(source: Path, target: Path) -> float:
    """Return how long one pass takes that reads, hashes, writes and syncs the file, one block after the other."""
    started = time.perf_counter()
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    elapsed = time.perf_counter() - started
    target.unlink()
    return elapsed


def environment_of(home: Path) -> dict[str, str]:
    """Return the variables of a command on `home`, as a user has them."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "COLUMNS")}
    return kept | {"LORACTL_HOME": str(home), "LORACTL_ACTOR": "bench"}


def machine() -> dict[str, object]:
    """Return when, of what and on what something is measured."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "is_real_time": os.sched_getscheduler(0) == os.SCHED_FIFO,
        "load": round(os.getloadavg()[0], 2),
    }


def _print(rows: list[dict[str, object]], facts: dict[str, object]) -> None:
    load = f"load {facts['load']} to {facts['load_after']}"
    print(f"{facts['versions']} versions, {facts['cores']} cores, {load}, Python {facts['python']}")
    print(f"{'':30} {'p20':>7} {'p50':>7} {'p80':>7} {'budget':>7}")
    for row in rows:
        times = row.get("times_ms")
        if isinstance(times, list):
            p20, p50, p80 = (statistics.quantiles(times, n=10)[index] for index in (1, 4, 7))
            budget = row["budget_ms"] or ""
            print(f"{row['case']:30} {p20:7.0f} {p50:7.0f} {p80:7.0f} {budget:>7}")
    added = [row for row in rows if row["case"] == "add"]
    if added:
        share = statistics.median(float(str(row["plain_s"])) / float(str(row["add_s"])) for row in added)
        size = added[0]["megabytes"]
        plain, add = (statistics.median(float(str(row[key])) for row in added) for key in ("plain_s", "add_s"))
        print(f"add of {size} MB: {add:.2f} s, hashing and copying alone: {plain:.2f} s, {share:.0%} (budget 70 %)")


if __name__ == "__main__":
    main()
