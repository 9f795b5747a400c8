"""Raw rows of the benchmarks: reading them, the last run of each model, the best engine without LoRA."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO, cast

Row = dict[str, Any]


def read(file: Path) -> list[Row]:
    """Return the rows of `file`, oldest first; none if it is not there."""
    if not file.exists():
        return []
    with opened(file, "rt") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def opened(file: Path, mode: Literal["rt", "at"]) -> TextIO:
    """Open rows to read or to append to; a name that ends in .gz is compressed, which keeps a twentieth of them."""
    return cast("TextIO", (gzip.open if file.suffix == ".gz" else open)(file, mode, encoding="utf-8"))


def last_runs(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return, by model, the rows of the last run that has the model; a run is never mixed with another."""
    kept = list(rows)
    last = {row["model"]: row["run_id"] for row in kept}
    return {
        model: [r for r in kept if (r["model"], r["run_id"]) == (model, run)] for model, run in sorted(last.items())
    }


def best_base(rows: Iterable[Row]) -> dict[tuple[object, ...], float]:
    """Return, by `point`, what the best engine without LoRA reached: least for times, most for rates."""
    best: dict[tuple[object, ...], float] = {}
    for row in rows:
        if row["backend"] == "none" and row["adapters"] == 0:
            better = max if row["metric"].endswith("_tok_s") else min
            best[point(row)] = better(best.get(point(row), row["value"]), row["value"])
    return best


def point(row: Row) -> tuple[object, ...]:
    """Return what must be equal for an engine row to be compared with one of another engine."""
    return tuple(row.get(key) for key in ("run_id", "model", "layers", "metric", "streams", "prompt"))


def fill_best_base(file: Path, run_id: str) -> None:
    """Write `best_base_value` into the rows of a run, where an engine without LoRA measured the same point."""
    rows = read(file)
    best = best_base(rows)
    for row in rows:
        if row["run_id"] == run_id:
            row["best_base_value"] = best.get(point(row))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def machine(row: Row) -> str:
    """Return in words where a row was measured, and of which run it is."""
    versions = ", ".join(f"{name} {row.get(name)}" for name in ("driver", "torch", "triton", "vllm"))
    return f"{row.get('gpu')}, {versions}, commit `{str(row.get('commit'))[:10]}`, run {row['run_id']}"
