"""How much an adapter changes each module: the Frobenius norm of the difference between two of its versions.

What an adapter adds to a weight is ``scale * B @ A``. The difference of two such products is one product of stacked
factors, ``[s1 B1, -s2 B2] @ [A1; A2]``, whose norm follows from the Gram matrices of the factors. So the product, which
is as large as the weight, is never formed, the ranks may differ, and a tensor is read some thousand columns at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry.adapter_config import read_adapter_config
from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.home_errors import os_errors_named
from loractl_registry.preflight.base_shape import BaseShape, read_base_shape
from loractl_registry.preflight.layout import Side, Target
from loractl_registry.preflight.placing import place
from loractl_registry.records import ExpertLayout
from loractl_registry.safetensors_header import TensorInfo, open_safetensors_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Raw = NDArray[np.generic]

CHUNK = 4096
"""Columns of A, or rows of B, that are in memory as float64 at once."""

GATE_AND_UP_INTERLEAVED = frozenset({"gpt_oss"})
"""Model types whose fused experts alternate rows of gate and up; the others have all of gate before all of up."""

_WORDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Bits of the exponent, bits of the mantissa, bias.
_BYTES = {"F8_E5M2": (5, 2, 15), "F8_E4M3": (4, 3, 7), "F8_E5M2FNUZ": (5, 2, 16), "F8_E4M3FNUZ": (4, 3, 8)}


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """How one module differs between two versions; experts of a layer count together.

    Attributes:
        module: Its path in the base, with the projection behind the experts: ``model.layers.0.mlp.experts.up_proj``.
        before, after: Frobenius norm of what each version adds to the weight; 0 where it does not adapt the module.
        change: Frobenius norm of the difference.
    """

    module: str
    before: float
    after: float
    change: float


@dataclass(frozen=True, slots=True)
class Factor:
    """One expert's projection, or one module: where its A and B lie.

    Attributes:
        a_rows, b_rows, b_columns: The part of the tensors that is its own.
    """

    pair: str
    target: Target
    scale: float
    a_rows: slice
    b_rows: slice
    b_columns: slice


@dataclass(frozen=True, slots=True)
class _Adapter:
    path: Path
    tensors: Mapping[str, TensorInfo]
    data_offset: int
    factors: Mapping[tuple[str, int], Factor]

    def raw(self, factor: Factor, side: Side) -> tuple[Raw, str]:
        """Map the part of a tensor that is the factor's: [rank, in] or, of B, [out, rank]; and its dtype."""
        import numpy as np  # slow to import, and few operations look at numbers

        info = self.tensors[factor.target.tensor_of(factor.pair, side)]
        word = _WORDS.get(info.dtype, "u1")
        offset = self.data_offset + info.start
        mapped: Raw = np.memmap(self.path, dtype=word, mode="r", offset=offset, shape=info.shape)
        part = mapped[factor.a_rows] if side is Side.A else mapped[factor.b_rows, factor.b_columns]
        return part, info.dtype


def changes_of_modules(before: Path | None, after: Path, base_config: Mapping[str, object]) -> tuple[ModuleChange, ...]:
    """Compare the adapters in two folders, module by module, in the order of their names.

    Args:
        before: None compares with the base itself, to which nothing is added.
        after: The newer one.
        base_config: Of the base that both belong to.

    Raises:
        PreflightRefusedError: A tensor has no place in that base.
        RegistryError: The files are malformed, or the operating system refused.
    """
    shape = read_base_shape(base_config)
    sides = [None if before is None else _read(before, shape), _read(after, shape)]
    keys = sorted({key for side in sides if side is not None for key in side.factors})
    squares: dict[str, tuple[float, float, float]] = {}
    for key in keys:
        found = _squares(sides, key)
        held = squares.get(key[0], (0.0, 0.0, 0.0))
        squares[key[0]] = (held[0] + found[0], held[1] + found[1], held[2] + found[2])
    return tuple(ModuleChange(name, *(math.sqrt(max(one, 0.0)) for one in held)) for name, held in squares.items())


def _read(folder: Path, shape: BaseShape) -> _Adapter:
    path = folder / WEIGHTS
    with os_errors_named(path):
        header = open_safetensors_header(path)
        config = read_adapter_config(folder)
    factors: dict[tuple[str, int], Factor] = {}
    for pair, target in place(header.tensors, shape).items():
        a = header.tensors[target.tensor_of(pair, Side.A)]
        for key, a_rows, b_rows, b_columns in _parts(target, a.shape[0], shape):
            factors[key] = Factor(pair, target, config.scaling_of(pair), a_rows, b_rows, b_columns)
    return _Adapter(path, header.tensors, header.data_offset, factors)


_Part = tuple[tuple[str, int], slice, slice, slice]


def _parts(target: Target, rows_of_a: int, shape: BaseShape) -> Iterator[_Part]:
    """Yield the name and the place of each factor in a pair: all of it, or one projection of one of its experts."""
    whole = slice(None)
    match target.layout:
        case ExpertLayout.NONE:
            yield (target.module, -1), whole, whole, whole
        case ExpertLayout.PER_EXPERT:
            name = target.part.rpartition(".")[2]
            yield (f"{target.module}.{name}", target.expert or 0), whole, whole, whole
        case ExpertLayout.FUSED:
            rank = rows_of_a // target.stacked
            for name, b_rows in _projections(target, shape):
                for expert in range(target.stacked):
                    a_rows, b_columns = slice(expert * rank, (expert + 1) * rank), slice(expert, None, target.stacked)
                    yield (f"{target.module}.{name}", expert), a_rows, b_rows, b_columns


def _projections(target: Target, shape: BaseShape) -> Sequence[tuple[str, slice]]:
    """Return the projections in a fused pair by the base's names for them, and the rows of B that are theirs."""
    gate, up, down = dict.fromkeys(each.name for each in shape.experts[target.module].projections.values())
    if not target.part.endswith("gate_up"):
        return ((down, slice(None)),)
    half = target.out_features // 2
    if shape.model_type in GATE_AND_UP_INTERLEAVED:
        return ((gate, slice(0, None, 2)), (up, slice(1, None, 2)))
    return ((gate, slice(0, half)), (up, slice(half, None)))


def _squares(sides: Sequence[_Adapter | None], key: tuple[str, int]) -> tuple[float, float, float]:
    """Return the squared norms of what either side adds, and of the difference."""
    import numpy as np  # as above

    pairs: list[tuple[float, tuple[Raw, str], tuple[Raw, str]]] = []
    ranks = [0, 0]
    for place_of, (side, sign) in enumerate(zip(sides, (-1.0, 1.0), strict=True)):
        factor = None if side is None else side.factors.get(key)
        if side is not None and factor is not None:
            a, b = side.raw(factor, Side.A), side.raw(factor, Side.B)
            pairs.append((sign * factor.scale, a, b))
            ranks[place_of] = a[0].shape[0]
    a_gram = _gram([(a, dtype) for _, (a, dtype), _ in pairs])
    b_gram = _gram([(b.T, dtype) for _, _, (b, dtype) in pairs])
    scales = np.concatenate([np.full(a[0].shape[0], scale) for scale, a, _ in pairs])
    products: Numbers = a_gram * b_gram * np.outer(scales, scales)
    first = ranks[0]
    if len(pairs) == 2 and _is_same(pairs):
        return float(products[:first, :first].sum()), float(products[first:, first:].sum()), 0.0
    return float(products[:first, :first].sum()), float(products[first:, first:].sum()), float(products.sum())


def _is_same(pairs: Sequence[tuple[float, tuple[Raw, str], tuple[Raw, str]]]) -> bool:
    """Whether both sides hold the same bits; what is left of their difference would be rounding alone."""
    import numpy as np  # as above

    (scale, a, b), (other_scale, other_a, other_b) = pairs
    return (
        -scale == other_scale
        and (a[1], b[1]) == (other_a[1], other_b[1])
        and np.array_equal(a[0], other_a[0])
        and np.array_equal(b[0], other_b[0])
    )


def _gram(stacked: Sequence[tuple[Raw, str]]) -> Numbers:
    """Return ``X @ X.T`` of what is stacked along the rank, each [rank, n], in float64."""
    import numpy as np  # as above

    ranks = sum(part.shape[0] for part, _ in stacked)
    total: Numbers = np.zeros((ranks, ranks))
    for start in range(0, stacked[0][0].shape[1], CHUNK):
        chunk = np.concatenate([_numbers(part[:, start : start + CHUNK], dtype) for part, dtype in stacked])
        total += chunk @ chunk.T
    return total


def _numbers(raw: Raw, dtype: str) -> Numbers:
    import numpy as np  # as above

    if dtype == "BF16":
        return (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
    if dtype in _BYTES:
        return _table(*_BYTES[dtype])[raw.astype(np.intp)]
    return raw.astype(np.float64)


def _table(exponent_bits: int, mantissa_bits: int, bias: int) -> Numbers:
    """Return what each byte means in a format of 8 bits; the patterns that are no number do not occur here."""
    import numpy as np  # as above

    values: list[float] = []
    for byte in range(256):
        exponent = (byte >> mantissa_bits) & ((1 << exponent_bits) - 1)
        fraction = (byte & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
        size = math.ldexp(fraction, 1 - bias) if exponent == 0 else math.ldexp(1 + fraction, exponent - bias)
        values.append(-size if byte & 0x80 else size)
    return np.array(values)
