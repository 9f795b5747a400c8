"""The benchmark page and its plots are what the kept rows give, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def benchmarks(monkeypatch):
    """Import a script of benchmarks/, under a name that those of kernels/benchmarks/ do not have."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_page_and_plots_are_made_of_the_rows(benchmarks):
    for path, text in benchmarks("report").pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run python benchmarks/report.py"


def test_tail_says_which_share_took_at_least_so_long(benchmarks):
    tail = benchmarks("plots").tail([*range(1, 101)])

    assert (tail[0], tail[-1]) == ((1, 1.0), (100, pytest.approx(0.01)))
    for time, share in tail:
        assert sum(value >= time for value in range(1, 101)) / 100 == pytest.approx(share, abs=0.011)


def test_tail_ends_with_the_longest_of_a_few(benchmarks):
    assert benchmarks("plots").tail([3.0, 1.0, 2.0, 4.0])[-1] == (4.0, pytest.approx(0.25))


def test_plot_of_nothing_is_refused(benchmarks):
    with pytest.raises(LookupError, match="no row has"):
        benchmarks("plots")._all([{"kind": "solo", "ttft_ms": [1.0]}], "ttft_ms", kind="flooded")
