from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loractl_registry import tensor_values
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


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if getattr(torch, dtype).itemsize <= 2])
def test_every_pattern_of_bits_is_told_as_torch_tells_it(tmp_path, dtype):
    kind = getattr(torch, dtype)
    words = torch.arange(2 ** (8 * kind.itemsize), dtype=torch.int32)
    numbers = words.to(torch.uint16 if kind.itemsize == 2 else torch.uint8).view(kind)
    # Which patterns are bad, and zero, is asked of the bits of one number each; a tensor of all of them has both.
    layout = tensor_values._FORMATS[next(name for name, torch_name in TORCH_NAMES.items() if torch_name == dtype)]
    size = kind.itemsize
    chunks = [bytearray(word.to_bytes(size, "little")) for word in range(len(numbers))]
    found = [tensor_values._is_finite(chunk, chunk[size - 1 :: size], layout) for chunk in chunks]
    zeros = [tensor_values._is_all_zero(chunk, chunk[size - 1 :: size], layout) for chunk in chunks]

    assert found == torch.isfinite(numbers.float()).tolist()
    assert zeros == (numbers.float() == 0).tolist()
    assert not _values(tmp_path, all=numbers)["all"].is_finite


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_halves_of_two_numbers_make_no_bad_one(tmp_path, dtype):
    kind = getattr(torch, dtype)
    # The largest number has the highest byte of an infinity, and one and a half has the byte below it.
    large, below = torch.finfo(kind).max, -1.96875

    found = _values(tmp_path, mixed=torch.tensor([large, below, large, below], dtype=kind))

    assert found["mixed"].is_finite


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_bits_are_told_as_torch_tells_them(tmp_path, dtype):
    kind = getattr(torch, dtype)
    bits = torch.randint(
        0, 256, (64, 16 * kind.itemsize), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )
    bits[:, kind.itemsize - 1 :: kind.itemsize] |= 0x7F  # every highest byte is that of a bad number
    numbers = {f"t{row}": bits[row].clone().view(kind) for row in range(len(bits))}

    found = _values(tmp_path, **numbers)

    expected = {name: bool(torch.isfinite(tensor).all()) for name, tensor in numbers.items()}
    assert {name: each.is_finite for name, each in found.items()} == expected
