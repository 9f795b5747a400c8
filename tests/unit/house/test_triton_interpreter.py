"""Triton's interpreter runs kernel source on CPU tensors, from a folder that nothing else has on its path."""

import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
import torch
import triton
import triton.language as tl


@triton.jit
def _scale_add_kernel(x_ptr, y_ptr, out_ptr, size, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < size)
    y = tl.load(y_ptr + at, mask=at < size)
    tl.store(out_ptr + at, x * scale + y, mask=at < size)


x, y = torch.randn(33), torch.randn(33)
out = torch.full((33,), float("nan"))
_scale_add_kernel[(3,)](x, y, out, 33, 0.5, BLOCK=16)
torch.testing.assert_close(out, x * 0.5 + y)
"""


def test_interpreter_runs_a_kernel_on_cpu_tensors(tmp_path):
    source = tmp_path / "kernel.py"
    source.write_text(KERNEL)
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(sys.prefix) / "triton")}

    finished = subprocess.run([sys.executable, source], env=environment, capture_output=True, text=True)

    assert finished.returncode == 0, finished.stderr
