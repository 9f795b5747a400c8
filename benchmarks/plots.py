"""Plots of benchmarks/report.py, from the same rows: how many requests took longer than a time."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.append(str(ROOT / "kernels" / "benchmarks"))

from svg import COLOURS, Series, chart  # noqa: E402

POINTS = 48
LEAST_SHARE = 0.01
"""Of a few hundred requests, a smaller share would be one or two of them."""


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a benchmark, its conditions first."""
    file = RESULTS / name
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        return [json.loads(line) for line in lines]


def plots() -> dict[str, str]:
    """Return every plot by file name."""
    model, engine, gateway = rows("fairness.jsonl.gz"), rows("neighbour.jsonl"), rows("gateway.jsonl.gz")
    first_token = "time to first token, ms"
    gates = {
        "solo": "alone",
        "fifo": "first come, first served",
        "vtc": "vtc",
        "vtc, reserve 16, in order": "vtc, reserve 16, in order",
    }
    kinds = {("solo", "vtc"): "alone", ("flooded", "off"): "flooded, off", ("flooded", "vtc"): "flooded, vtc"}
    return {
        "noisy-model.svg": tails(
            "A quiet tenant beside a flood, in a model of gpt-oss-20b on an H100",
            first_token,
            {said: _all(model, "ttft_ms", case="noisy", load="mixed", gate=gate) for gate, said in gates.items()},
        ),
        "noisy-engine.svg": tails(
            "A quiet tenant beside a flood, on vLLM with a tiny model on two cores",
            first_token,
            {said: _all(engine, "ttft_ms", kind=kind, policy=policy) for (kind, policy), said in kinds.items()},
        ),
        "slots-model.svg": tails(
            "16 adapters on 8 slots, 30 requests a second, in the model",
            first_token,
            {
                gate: _all(model, "ttft_ms", case="adapters", load="30 requests/s", gate=gate)
                for gate in ("alone", "fifo", "vtc")
            },
        ),
        "gateway.svg": tails(
            "First event at 200 streams: the engine alone, and behind the gateway",
            "first event, ms beyond the engine's 100",
            {
                variant: [max(0.1, value - 100) for value in _all(gateway, "first_ms", variant=variant)]
                for variant in ("direct", "gateway")
            },
        ),
    }


def tails(title: str, x_label: str, times: Mapping[str, Sequence[float]]) -> str:
    """Draw, for each name, which share of the requests took longer than so many milliseconds."""
    lines = [Series(name, tail(values), colour) for (name, values), colour in zip(times.items(), COLOURS, strict=False)]
    return chart(title, x_label, "share of requests that took longer", lines)


def tail(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return `POINTS` + 1 points (time, share that took at least so long), evenly spread over the shares' powers."""
    ordered = sorted(values)
    least = max(LEAST_SHARE, 1 / len(ordered))
    shares = [least ** (step / POINTS) for step in range(POINTS + 1)]
    return [(ordered[min(len(ordered) - 1, round((1 - share) * len(ordered)))], share) for share in shares]


def _all(found: Sequence[Mapping[str, Any]], column: str, **where: str) -> list[float]:
    """Return the values in `column` of all rows that have `where`.

    Raises:
        LookupError: There is none.
    """
    chosen = [row for row in found if all(row.get(name) == value for name, value in where.items())]
    if not chosen:
        raise LookupError(f"no row has {where}")
    return [value for row in chosen for value in row[column]]
