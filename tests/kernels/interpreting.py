"""The real kernels on CPU tensors, in a process of its own: what each check finds, one JSON object a line.

Triton's interpreter must be chosen before triton is imported, and then holds for the process. It keeps bfloat16 as
bits: it would multiply those in a dot, and cuts them off in a cast where a GPU rounds to nearest; both are mended here.
So is a product's order of summation, which numpy chooses by the operands' shapes and a tensor core does not.
It also looks through all of triton.language at each call of a function, which we spare it.
"""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import asdict

import numpy as np
import torch
from kernels.cases import BOUNDS_HERE, INTERPRETED, REAL_BOUNDS, UNPLANNED
from triton import language as tl
from triton.runtime import interpreter

from loractl_kernels import operands
from loractl_kernels._triton import moe
from loractl_kernels.cases import make_layer
from loractl_kernels.ops import Backend
from loractl_kernels.selfcheck import check_accuracy, check_case, outputs_of

_Handle = interpreter.TensorHandle


def widened(handle):
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    wide = torch.from_numpy(handle.data.astype(np.int16)).view(torch.bfloat16).float().numpy()
    return _Handle(wide, tl.float32)


def mend_bfloat16(builder=interpreter.InterpreterBuilder):
    cast = builder.cast_impl

    def dot(self, a, b, d, *_):
        # In float64, so that a sum does not depend on how numpy blocks operands of one shape or another.
        total = widened(a).data.astype(np.float64) @ widened(b).data.astype(np.float64) + d.data
        return _Handle(total.astype(d.data.dtype), d.dtype.scalar)

    def rounding_cast(self, src, dst_type, *rest):
        if dst_type.scalar != tl.bfloat16 or src.dtype.scalar == tl.bfloat16:
            return cast(self, widened(src), dst_type)
        rounded = torch.from_numpy(np.ascontiguousarray(src.data, dtype=np.float32)).to(torch.bfloat16)
        return _Handle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)

    builder.create_dot, builder.cast_impl = dot, rounding_cast
    builder.create_fp_trunc = builder.create_fp_ext = builder.create_fp_to_fp = rounding_cast


def spare_searches():
    names: dict[object, list[str]] = {}

    def patch_builtin(package, builder, scope):
        if package not in names:
            names[package] = [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]
        for name in names[package]:
            member = getattr(package, name)
            if tl.core.is_builtin(member):
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch_builtin


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    mend_bfloat16()
    spare_searches()
    for name in names:
        if name in REAL_BOUNDS:
            layer = make_layer(REAL_BOUNDS[name])
            print_all(name, check_accuracy(layer, outputs_of(layer, Backend.TRITON)))
        if name in UNPLANNED:
            print_all(name, check_case(UNPLANNED[name], "cpu", Backend.TRITON))
    for bound, pairs in BOUNDS_HERE.items():
        for module in (operands, moe):
            if bound in vars(operands):
                setattr(module, bound, pairs)
    for name in names:
        if name in INTERPRETED:
            print_all(name, check_case(INTERPRETED[name], "cpu", Backend.TRITON))


def print_all(name: str, findings) -> None:
    for finding in findings:
        print(json.dumps({"of": name} | asdict(finding)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
