"""Triton for an NVIDIA H100 accepts every kernel as it is launched; no GPU takes part.

The interpreter runs Python, and forgives what the compiler does not: two types of one value, above all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Compiler:
    """In place of a GPU's driver and of what compiles for it: the first step of it, which checks types."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", 90, 32)
        self.compiled = 0

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device):
        return 0

    def compile(self, source, target, options):
        from triton._C.libtriton import ir
        from triton.compiler.compiler import make_backend

        backend, context = make_backend(target), ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        parsed = backend.parse_options(options)
        source.make_ir(target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context)
        self.compiled += 1


def run_compiler() -> None:
    """Launch every case of the sanitizer's program, with programmatic dependent launch and without."""
    import sanitize
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from loractl_kernels._triton import dense, moe, sorting

    compiler, run = Compiler(), JITFunction.run

    def run_to_types(kernel, *args, warmup, **options):
        kernel.device_caches[0]  # made here, with Triton's own compiler in it
        kernel.compile = compiler.compile
        return run(kernel, *args, warmup=True, **options)

    driver.set_active(compiler)
    JITFunction.run = run_to_types
    for has_pdl in (False, True):
        for module in (moe, dense, sorting):
            if hasattr(module, "_has_pdl"):
                module._has_pdl = lambda _device, has_pdl=has_pdl: has_pdl
        for case in sanitize.cases("cpu").values():
            case()  # nothing was computed, so what it finds wrong means nothing
    print(compiler.compiled)


def test_compiler_takes_every_launch(tmp_path):
    path = os.pathsep.join(map(str, (Path(sys.prefix) / "triton", ROOT / "tests", ROOT / "kernels" / "benchmarks")))
    environment = os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)

    finished = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)

    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout.splitlines()[-1]) > 100


if __name__ == "__main__":
    run_compiler()
