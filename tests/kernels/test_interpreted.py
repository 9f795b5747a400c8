"""The real Triton kernels on CPU tensors, under Triton's interpreter, by the checks of an installation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from kernels.cases import INTERPRETED, REAL_BOUNDS, UNPLANNED

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(900)  # one process runs all cases, while the first test waits
ACCURACY = tuple(f"accuracy of {output}" for output in ("w13", "activation", "w2", "total"))
CASES = UNPLANNED | INTERPRETED
CHECKS = (*ACCURACY, "base rows", "isolation", "scratch", "row_of_pair", "alone")


@lru_cache(maxsize=1)
def found() -> dict[str, dict[str, dict]]:
    """Run all cases in one process, for the interpreter must be chosen before triton is imported."""
    path = os.pathsep.join((str(Path(sys.prefix) / "triton"), str(TESTS)))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "kernels.interpreting", *REAL_BOUNDS, *CASES],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    findings = [json.loads(line) for line in finished.stdout.splitlines()]
    return {name: {f["name"]: f for f in findings if f["of"] == name} for name in (*REAL_BOUNDS, *CASES)}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CASES)
def test_kernels_pass(name, check):
    finding = found()[name][check]

    assert finding["passed"], finding


@pytest.mark.parametrize("check", ACCURACY)
@pytest.mark.parametrize("name", REAL_BOUNDS)
def test_kernels_are_accurate_where_the_plan_changes(name, check):
    finding = found()[name][check]

    assert finding["passed"], finding


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_integer])
def test_kernels_are_exact_on_integers(name):
    finding = found()[name]["integers"]

    assert finding["passed"], finding
