"""Write docs/benchmarks-kernels.md and its plots from the raw rows: ``python kernels/benchmarks/report.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import report_engine
import report_layer
from rows import Row, read

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "kernels" / "benchmarks" / "results"

HEAD = """# Kernel benchmarks

Every number here is computed from raw rows in `kernels/benchmarks/results/` by `make bench-kernels-report`; nothing is
typed by hand. For each model the last run that has it counts, and runs are never mixed. `kernels/NOTES.md` in the
repository says what was tried and what holds each number back.
"""

LOSSES = """
## Where we lose
"""


def page(layer: list[Row], engine: list[Row]) -> str:
    """Return the page."""
    text = HEAD + report_layer.section(layer) + report_engine.section(engine)
    if layer or engine:
        text += (
            LOSSES + (report_layer.losses(layer) if layer else "") + (report_engine.losses(engine) if engine else "")
        )
    return text


def plots(layer: list[Row], engine: list[Row]) -> dict[str, str]:
    """Return the plots by file name."""
    return report_layer.plots(layer) | report_engine.plots(engine)


def main() -> int:
    """Write the page and its plots, and remove plots that no page shows."""
    layer, engine = (read(RESULTS / name) for name in ("layer.jsonl.gz", "engine.jsonl"))
    (ROOT / "docs" / "benchmarks-kernels.md").write_text(page(layer, engine), encoding="utf-8")
    folder = ROOT / "docs" / "assets" / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(layer, engine)
    for file in folder.glob("*.svg"):
        if file.name not in drawn:
            file.unlink()
    for name, text in drawn.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
