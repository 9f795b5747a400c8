"""Whether the numbers of a safetensors file are finite, and whether any is not zero."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.progress import SILENT, Progress
from loractl_registry.safetensors_header import TensorFile, TensorInfo, open_safetensors_header

CHUNK_BYTES = 2**18
"""Small enough that the second look at a chunk finds it in the core's own cache."""


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What one tensor's numbers are like; minus zero is zero."""

    is_finite: bool
    is_all_zero: bool


@dataclass(frozen=True, slots=True)
class _Format:
    """Where a floating format, little endian, shows that a number is not finite, and what its zeros are.

    Whole chunks are asked by their bytes: numpy would take longer to import than most adapters to look through.

    Attributes:
        size_bytes: Of one number.
        bad_tops: The highest byte of a number that is not finite is one of these.
        bad_next: And the byte below it is at least this; 0 where the highest byte alone tells.
        has_minus_zero: Whether a highest byte of 0x80 and zeros below are zero too.
    """

    size_bytes: int
    bad_tops: bytes
    bad_next: int = 0
    has_minus_zero: bool = True


_ALL_ONES_IN_5_BITS = bytes(byte for byte in range(256) if byte & 0x7C == 0x7C)
_FORMATS: Mapping[str, _Format] = {
    "F64": _Format(8, b"\x7f\xff", 0xF0),
    "F32": _Format(4, b"\x7f\xff", 0x80),
    "F16": _Format(2, _ALL_ONES_IN_5_BITS),
    "BF16": _Format(2, b"\x7f\xff", 0x80),
    "F8_E5M2": _Format(1, _ALL_ONES_IN_5_BITS),
    "F8_E4M3": _Format(1, b"\x7f\xff"),
    # These two have no infinities and one zero, and their NaN is where minus zero would be.
    "F8_E4M3FNUZ": _Format(1, b"\x80", has_minus_zero=False),
    "F8_E5M2FNUZ": _Format(1, b"\x80", has_minus_zero=False),
}


def read_tensor_values(
    path: Path, header: TensorFile | None = None, progress: Progress = SILENT
) -> Mapping[str, TensorValues]:
    """Read every number of the file at `path` once, and say per tensor whether all are finite and all are zero.

    Args:
        path: A safetensors file whose dtypes an adapter may have.
        header: Its header, if it was read already.
        progress: Told about every chunk.

    Raises:
        MalformedSafetensorsError: The header is malformed.
        ChangedWhileReadError: The file became shorter meanwhile.
        RegistryError: The operating system refused.
    """
    found = header or open_safetensors_header(path)
    with os_errors_named(path):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return {
                name: _values_of(handle, found.data_offset, info, path, progress)
                for name, info in found.tensors.items()
            }
        finally:
            os.close(handle)


def _values_of(handle: int, data_offset: int, info: TensorInfo, path: Path, progress: Progress) -> TensorValues:
    layout = _FORMATS[info.dtype]
    is_finite, is_all_zero = True, True
    position, end = data_offset + info.start, data_offset + info.end
    while position < end:
        chunk = bytearray(min(CHUNK_BYTES, end - position))
        _read_exactly(handle, memoryview(chunk), position, path)
        tops = chunk[layout.size_bytes - 1 :: layout.size_bytes]
        is_finite = is_finite and _is_finite(chunk, tops, layout)
        is_all_zero = is_all_zero and _is_all_zero(chunk, tops, layout)
        position += len(chunk)
        progress.advance(len(chunk))
    return TensorValues(is_finite, is_all_zero)


def _read_exactly(handle: int, part: memoryview, position: int, path: Path) -> None:
    while part:
        taken = os.preadv(handle, [part], position)
        if taken == 0:
            raise ChangedWhileReadError(path.name)
        part, position = part[taken:], position + taken


def _is_finite(chunk: bytearray, tops: bytearray, layout: _Format) -> bool:
    if not any(bad in tops for bad in layout.bad_tops):
        return True
    if not layout.bad_next:
        return False
    below = chunk[layout.size_bytes - 2 :: layout.size_bytes]
    # One byte a number, 1 where it is bad; as two long integers, because both must be so of the same number.
    top_marks = tops.translate(bytes(byte in layout.bad_tops for byte in range(256)))
    below_marks = below.translate(bytes(byte >= layout.bad_next for byte in range(256)))
    return not int.from_bytes(top_marks, "little") & int.from_bytes(below_marks, "little")


def _is_all_zero(chunk: bytearray, tops: bytearray, layout: _Format) -> bool:
    minus_zeros = tops.count(0x80) if layout.has_minus_zero else 0
    return chunk.count(0) + minus_zeros == len(chunk)
