from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loractl_registry.safetensors_header import TORCH_NAMES
from loractl_registry.tensor_values import CHUNK_BYTES, read_tensor_values

DTYPES = sorted(TORCH_NAMES.values())


def _values(tmp_path: Path, **tensors: torch.Tensor):
    path = tmp_path / "t.safetensors"
    save_file(tensors, path)
    return read_tensor_values(path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_ones_and_not_a_number_are_told_apart(tmp_path, dtype):
    kind = getattr(torch, dtype)
    numbers = {"zero": torch.zeros(7), "one": torch.tensor([0.0] * 6 + [1.0]), "nan": torch.tensor([1.0, float("nan")])}

    found = _values(tmp_path, **{name: tensor.to(kind) for name, tensor in numbers.items()})

    assert {name: (each.is_finite, each.is_all_zero) for name, each in found.items()} == {
        "zero": (True, True),
        "one": (True, False),
        "nan": (False, False),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinity_is_not_finite(tmp_path, dtype, value):
    assert not _values(tmp_path, t=torch.tensor([1.0, value]).to(getattr(torch, dtype)))["t"].is_finite


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_minus_zero_is_zero_and_the_largest_number_is_finite(tmp_path, dtype):
    kind = getattr(torch, dtype)

    found = _values(
        tmp_path,
        minus=torch.tensor([-0.0]).to(kind),
        most=torch.tensor([torch.finfo(kind).max], dtype=torch.float64).to(kind),
    )

    assert found["minus"].is_all_zero
    assert found["most"].is_finite


@pytest.mark.parametrize("at", [0, CHUNK_BYTES // 2 - 1, CHUNK_BYTES // 2, CHUNK_BYTES // 2 + 4])
def test_one_bad_number_is_found_in_any_chunk(tmp_path, at):
    numbers = torch.zeros(CHUNK_BYTES // 2 + 5, dtype=torch.bfloat16)
    numbers[at] = float("nan")

    assert not _values(tmp_path, t=numbers)["t"].is_finite
