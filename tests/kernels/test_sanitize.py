"""The program that compute-sanitizer watches: under Triton's interpreter it is right, and it runs every kernel."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "kernels" / "benchmarks"
BOUNDS = {
    "BY_PAIR": 4, "FEW_PAIRS": 8, "_RANKED_FEW": 10, "RANKED_PAIRS": 16, "SMALL_PAIRS": 24, "HIST_PAIRS": 8,
    "SMALL_TOKENS": 16, "SPLIT_TOKENS": 24,
}  # fmt: skip
"""Up to how many pairs or tokens a batch is run in which way under the interpreter, whose time grows with them."""
ONE_WAY = {"shrink_tiled BY_PAIR"}
"""Besides USE_PDL, which is Hopper's: a batch that is large enough for whole tiles has a plan."""


def run_interpreted() -> int:
    """Run it in this process, whose interpreter was chosen before triton was imported; print what was launched."""
    import sanitize
    import torch
    from kernels.interpreting import mend_bfloat16, spare_searches
    from triton.runtime.interpreter import InterpretedFunction

    from loractl_kernels import dense, grouped, operands
    from loractl_kernels._triton import dense as dense_kernels
    from loractl_kernels._triton import moe

    launched: dict[str, dict[str, list[bool]]] = {}
    run = InterpretedFunction.run

    def noting(kernel, *args, **options):
        seen = launched.setdefault(kernel.fn.__name__, {})
        for name, value in options.items():
            if name.isupper() and isinstance(value, bool) and value not in seen.setdefault(name, []):
                seen[name].append(value)
        return run(kernel, *args, **options)

    InterpretedFunction.run = noting
    torch.set_num_threads(1)
    mend_bfloat16()
    spare_searches()
    for module in (operands, moe, dense, dense_kernels, grouped):
        for name in BOUNDS.keys() & vars(module).keys():
            setattr(module, name, BOUNDS[name])
    code = sanitize.main([], "cpu")
    print(json.dumps(launched))
    return code


def kernels_in_sources() -> set[str]:
    """Return the names of what is launched somewhere: ``name[grid](...)``."""
    sources = (ROOT / "kernels" / "loractl_kernels" / "_triton").glob("*.py")
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    calls = [node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)]
    return {ast.unparse(call.value).rpartition(".")[2] for call in calls}


@pytest.fixture(scope="module")
def finished() -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (Path(sys.prefix) / "triton", ROOT / "tests", BENCHMARKS)))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)


@pytest.fixture
def launched(finished) -> dict[str, dict[str, list[bool]]]:
    assert finished.stdout, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_every_case_is_right(finished):
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "WRONG" not in finished.stdout


def test_every_kernel_is_launched(launched):
    assert launched.keys() == kernels_in_sources()


def test_every_switch_of_every_kernel_is_run_both_ways(launched):
    found = {f"{kernel} {switch}": values for kernel, seen in launched.items() for switch, values in seen.items()}

    assert {switch for switch, values in found.items() if len(values) == 1} == ONE_WAY | {
        f"{kernel} USE_PDL" for kernel in launched if kernel != "gemm_with_deltas"
    }


@pytest.fixture
def sanitize(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sanitize")


def test_words_choose_cases(sanitize, monkeypatch, capsys):
    wrong = {"moe by-pair": list, "moe tiled": lambda: ["total"], "dense": list}
    monkeypatch.setattr(sanitize, "cases", lambda device: wrong)

    codes = [sanitize.main(words, "cpu") for words in (["by-pair", "dense"], ["tiled"])]

    assert codes == [0, 1]
    assert capsys.readouterr().out == "right moe by-pair\nright dense\nWRONG moe tiled: total\n"


def test_words_that_choose_no_case_are_refused(sanitize, capsys):
    with pytest.raises(SystemExit, match="2"):
        sanitize.main(["nothing"], "cpu")

    assert "no case has any of ['nothing'] in its name" in capsys.readouterr().err


if __name__ == "__main__":
    sys.exit(run_interpreted())
