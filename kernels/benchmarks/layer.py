"""Time the adapters of one layer, our kernels beside vLLM's own, in one process.

Run with ``kernels`` on PYTHONPATH, a CUDA GPU and vLLM. Every case is held against float64 first and replayed in a CUDA
graph with a cold L2 cache. Rows are written as they come; the whole matrix is walked once for each repeat. With
``--compile-workers`` other processes first run each case once, to fill Triton's cache on disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from rows import opened
from summary import summary_lines

from loractl_kernels.bench import (
    TOKENS,
    Batch,
    GateError,
    GraphTimer,
    LayerBackend,
    LayerCase,
    LoractlBackend,
    Timing,
    Workspace,
    matrix,
    time_case,
)
from loractl_kernels.shapes import MEASURED, MoeShape, shape_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "kernels" / "benchmarks" / "results" / "layer.jsonl.gz"

Row = dict[str, object]


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
        groups: Shapes with one rank and its cases; a group shares its operands.
        budget_s: When to stop, in seconds from the start.
    """

    groups: tuple[tuple[MoeShape, int, tuple[LayerCase, ...]], ...]
    repeats: int
    reps: int
    budget_s: float
    bytes_per_second: float


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, measure, print; return 1 if a gate was red."""
    options = parse(argv)
    plan = plan_of(options)
    device = torch.device("cuda")
    if options.compile_share:
        compile_share(plan, options.compile_share, [new(device) for new in _factories(options)], device)
        return 0
    start = time.monotonic()
    if options.compile_workers:
        _compile_elsewhere(options.compile_workers, sys.argv[1:] if argv is None else argv)
        sys.stdout.write(f"compiled in {time.monotonic() - start:.0f} s\n")
    backends = [new(device) for new in _factories(options)]
    facts = facts_of(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with opened(options.out, "at") as out:
        run = Run(plan, backends, facts, out, device, start)
        run.walk(GraphTimer(device))
    sys.stdout.write("\n".join([*summary_lines(run.rows), *run.complaints()]) + "\n")
    return int(bool(run.red))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="*",
        default=list(MEASURED),
        metavar="NAME[:RANK]",
        help="default: those of the published table",
    )
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    parser.add_argument("--backends", nargs="*", default=["loractl", "vllm"], choices=["loractl", "vllm"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--time-budget", type=float, default=float("inf"), metavar="S", help="seconds, compiling included"
    )
    parser.add_argument("--repeats", type=int, default=2, help="walk the matrix this often")
    parser.add_argument("--reps", type=int, default=30, help="replays of a graph")
    parser.add_argument("--tb-per-second", type=float, default=4.3, help="memory bandwidth that floors are made of")
    parser.add_argument("--thin", action="store_true", help="only 1 and 8 adapters of 8 slots, no base rows, no skew")
    parser.add_argument("--commit", help="default: what git says")
    parser.add_argument("--run-id", help="default: a new one")
    parser.add_argument("--compile-workers", type=int, default=0, metavar="N", help="processes that compile first")
    parser.add_argument("--compile-share", metavar="I/N", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def plan_of(options: argparse.Namespace) -> Plan:
    """Return what `options` ask for."""
    groups: list[tuple[MoeShape, int, tuple[LayerCase, ...]]] = []
    for word in options.models:
        name, _, rank_text = word.partition(":")
        shape = shape_of(name)
        for rank in (int(rank_text),) if rank_text else shape.ranks:
            cases = tuple(case for case in matrix(shape, rank, options.tokens) if not options.thin or _is_thin(case))
            groups.append((shape, rank, cases))
    return Plan(tuple(groups), options.repeats, options.reps, options.time_budget, options.tb_per_second * 1e12)


def _is_thin(case: LayerCase) -> bool:
    return case.max_loras == 8 and case.adapters != 2 and not case.base_share and case.skew == "uniform"


def _factories(options: argparse.Namespace) -> list[Callable[[torch.device], LayerBackend]]:
    def vllm(device: torch.device) -> LayerBackend:
        from peer import VllmBackend  # vLLM takes seconds to import, and --backends may leave it out

        return VllmBackend(max(options.tokens), device)

    known: dict[str, Callable[[torch.device], LayerBackend]] = {"loractl": lambda _: LoractlBackend(), "vllm": vllm}
    return [known[name] for name in options.backends]


class Run:
    """One walk after another through the matrix, each row written at once."""

    def __init__(
        self, plan: Plan, backends: Sequence[LayerBackend], facts: Row, out: TextIO, device: torch.device, start: float
    ) -> None:
        self._plan, self._backends, self._facts, self._out, self._device = plan, backends, facts, out, device
        self._start = start
        self.rows: list[Row] = []
        self.red: list[str] = []
        self._failed: list[str] = []
        self._left_out = 0

    def walk(self, timer: GraphTimer) -> None:
        """Measure until the matrix or the time is at its end."""
        for repeat in range(self._plan.repeats):
            for shape, rank, cases in self._plan.groups:
                if self._is_late():
                    self._left_out += len(cases)
                    continue
                self._group(timer, shape, rank, cases, repeat)

    def _group(self, timer: GraphTimer, shape: MoeShape, rank: int, cases: tuple[LayerCase, ...], repeat: int) -> None:
        start = time.monotonic()
        workspace = _workspace(shape, rank, cases, self._device)
        for done, case in enumerate(cases):
            if self._is_late():
                self._left_out += len(cases) - done
                break
            batch = workspace.batch(case)
            for backend in self._backends:
                try:
                    timing = time_case(backend, workspace, batch, timer, reps=self._plan.reps)
                except GateError as error:
                    self.red.append(str(error))
                except Exception as error:  # noqa: BLE001  # one case that cannot run must not cost the others
                    self._failed.append(f"{backend.name}: {case}: {type(error).__name__}: {str(error)[:200]}")
                else:
                    self._write(row_of(batch, backend.name, timing, self._plan.bytes_per_second) | {"repeat": repeat})
        del workspace
        torch.cuda.empty_cache()
        sys.stdout.write(f"{shape.name} r{rank} repeat {repeat}: {time.monotonic() - start:.1f} s\n")
        sys.stdout.flush()

    def _write(self, row: Row) -> None:
        row |= self._facts
        self.rows.append(row)
        self._out.write(json.dumps(row) + "\n")
        self._out.flush()

    def _is_late(self) -> bool:
        return time.monotonic() - self._start > self._plan.budget_s

    def complaints(self) -> Iterator[str]:
        """Yield what was not measured, and why."""
        yield from (f"RED GATE, no number: {text}" for text in self.red[:20])
        yield from (f"failed: {text}" for text in self._failed[:20])
        hidden = max(0, len(self.red) - 20) + max(0, len(self._failed) - 20)
        if hidden:
            yield f"and {hidden} more that are red or failed"
        if self._left_out:
            yield f"the time was up: {self._left_out} cases were left out"


def row_of(batch: Batch, backend: str, timing: Timing, bytes_per_second: float) -> Row:
    """Return one measured point as it is kept."""
    case, floors = batch.case, batch.floors()
    return {
        "bench": "layer",
        "model": case.shape.name,
        "backend": backend,
        "M": case.tokens,
        "adapters": case.adapters,
        "max_loras": case.max_loras,
        "rank": case.rank,
        "base_rows": int(case.tokens * case.base_share),
        "skew": case.skew.value,
        "p20_us": round(timing.p20_us, 2),
        "p50_us": round(timing.p50_us, 2),
        "p80_us": round(timing.p80_us, 2),
        "bytes": floors.seam,
        "floor_us": round(floors.seam_us(bytes_per_second), 2),
        "weights_floor_us": round(floors.weights_us(bytes_per_second), 2),
    }


def facts_of(options: argparse.Namespace) -> Row:
    """Return what every row names: the machine, the versions and the run."""
    import triton  # only where there is a GPU

    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "vllm": _vllm_version() if "vllm" in options.backends else None,
        "commit": options.commit or _said_by("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "run_id": options.run_id or uuid.uuid4().hex[:12],
    }


def _vllm_version() -> str:
    import vllm  # as above

    return str(vllm.__version__)


def _said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def compile_share(plan: Plan, share: str, backends: Sequence[LayerBackend], device: torch.device) -> None:
    """Run this worker's part of the cases once."""
    index, count = map(int, share.split("/"))
    for shape, rank, cases in plan.groups:
        workspace = _workspace(shape, rank, cases, device)
        for case in cases[index::count]:
            batch = workspace.batch(case)
            for backend in backends:
                try:
                    backend.prepare(batch)()
                    torch.cuda.synchronize()
                except Exception as error:  # noqa: BLE001  # the run that measures tells it
                    sys.stderr.write(f"compiling {backend.name}: {case}: {type(error).__name__}\n")
        del workspace
        torch.cuda.empty_cache()


def _workspace(shape: MoeShape, rank: int, cases: Sequence[LayerCase], device: torch.device) -> Workspace:
    largest = max((case.tokens for case in cases), default=1)
    return Workspace(shape, rank, device, max_tokens=largest, max_loras=max((c.max_loras for c in cases), default=1))


def _compile_elsewhere(workers: int, argv: Sequence[str]) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), *argv, "--compile-share"]
    running = [subprocess.Popen([*command, f"{index}/{workers}"]) for index in range(workers)]
    for process in running:
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
