"""Whether the numbers of a safetensors file are finite, and whether any is not zero."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.progress import SILENT, Progress
from loractl_registry.safetensors_header import TensorFile, TensorInfo, open_safetensors_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

CHUNK_BYTES = 2**18
"""Small enough that the second look at a chunk finds it in the core's own cache."""


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What one tensor's numbers are like; minus zero is zero."""

    is_finite: bool
    is_all_zero: bool


@dataclass(frozen=True, slots=True)
class _Format:
    """The bits of a floating format, of which the lowest `magnitude` without the sign tell what we ask.

    A number is not finite if its magnitude is at least `first_bad`, and zero if its magnitude is zero. Formats without
    infinities name their NaN by one pattern: `only_bad`, sign included.
    """

    word: str
    magnitude: int
    first_bad: int | None
    only_bad: int | None = None


_FORMATS: Mapping[str, _Format] = {
    "F64": _Format("<u8", 2**63 - 1, 0x7FF << 52),
    "F32": _Format("<u4", 2**31 - 1, 0xFF << 23),
    "F16": _Format("<u2", 2**15 - 1, 0x1F << 10),
    "BF16": _Format("<u2", 2**15 - 1, 0xFF << 7),
    "F8_E5M2": _Format("u1", 2**7 - 1, 0x1F << 2),
    "F8_E4M3": _Format("u1", 2**7 - 1, 0x7F),
    # These two have one zero, and their NaN is where minus zero would be.
    "F8_E4M3FNUZ": _Format("u1", 2**8 - 1, None, only_bad=0x80),
    "F8_E5M2FNUZ": _Format("u1", 2**8 - 1, None, only_bad=0x80),
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
    import numpy as np  # slow to import, and few operations look at numbers

    layout = _FORMATS[info.dtype]
    buffer = bytearray(min(CHUNK_BYTES, info.size_bytes))
    scratch = np.empty(len(buffer), dtype="u1").view(layout.word)
    is_finite, is_all_zero = True, True
    position, end = data_offset + info.start, data_offset + info.end
    while position < end:
        part = memoryview(buffer)[: end - position]
        _read_exactly(handle, part, position, path)
        words: Words = np.frombuffer(part, dtype=layout.word)
        magnitudes = np.bitwise_and(words, layout.magnitude, out=scratch[: len(words)])
        largest = int(magnitudes.max())
        is_finite = is_finite and _is_finite(words, largest, layout)
        is_all_zero = is_all_zero and largest == 0
        position += len(part)
        progress.advance(len(part))
    return TensorValues(is_finite, is_all_zero)


def _read_exactly(handle: int, part: memoryview, position: int, path: Path) -> None:
    while part:
        taken = os.preadv(handle, [part], position)
        if taken == 0:
            raise ChangedWhileReadError(path.name)
        part, position = part[taken:], position + taken


def _is_finite(words: Words, largest: int, layout: _Format) -> bool:
    if layout.first_bad is None:
        return not bool((words == layout.only_bad).any())
    return largest < layout.first_bad
