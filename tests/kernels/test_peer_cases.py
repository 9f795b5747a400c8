"""The cases of vLLM's own MoE-LoRA kernel test, at its tolerances: on a GPU all, else a few under the interpreter.

With no more than torch, triton and pytest installed: ``PYTHONPATH=kernels:tests python -m pytest -c /dev/null
--rootdir tests/kernels tests/kernels/test_peer_cases.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels.peer_cases import MATRIX, cases_on, share_of

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Compiling is what takes long; a process that compiles needs a core, and on a GPU some GiB beside.
SHARES = min(12, os.cpu_count() or 1) if DEVICE == "cuda" else 1
pytestmark = pytest.mark.timeout(900)  # all cases run while the first test waits


@pytest.fixture(scope="module")
def differences() -> dict[str, str]:
    """Run all cases in processes of their own, each a share of them."""
    path = [str(ROOT / "tests"), str(ROOT / "kernels")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if DEVICE == "cpu":
        # The interpreter must be chosen before triton is imported.
        environment["TRITON_INTERPRET"] = "1"
        path.insert(0, str(Path(sys.prefix) / "triton"))
    environment["PYTHONPATH"] = os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])])
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "kernels.peer_cases", str(share), str(SHARES)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for share in range(SHARES)
    ]  # fmt: skip
    printed = [process.communicate()[0] for process in running]
    for process, output in zip(running, printed, strict=True):
        assert process.returncode == 0, output
    rows = [json.loads(line) for output in printed for line in output.splitlines() if line.startswith("{")]
    return {row["case"]: row["difference"] for row in rows}


@pytest.mark.parametrize("label", [case.label for case in cases_on(DEVICE)])
def test_kernels_are_within_the_peers_tolerance(differences, label):
    assert not differences[label]


def test_a_share_has_every_case_of_its_group_and_no_case_is_left_out():
    shares = [share_of(MATRIX, share, 5) for share in range(5)]

    assert sorted(case.label for share in shares for case in share) == sorted(case.label for case in MATRIX)
    groups = [{case.compiled_for for case in share} for share in shares]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_no_two_cases_have_one_label():
    assert len({case.label for case in MATRIX}) == len(MATRIX)
