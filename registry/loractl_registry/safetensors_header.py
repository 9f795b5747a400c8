"""Reading the header of a safetensors file, stricter than the format and without its tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.file_errors import MalformedSafetensorsError, shown
from loractl_registry.home_errors import os_errors_named
from loractl_registry.strict_json import StrictJsonError, as_list, as_object, parse_object

DTYPE_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip
"""Bits of one element, by the format's name of the dtype."""

TORCH_NAMES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""Torch's name of the floating dtypes that an adapter may have."""

_LENGTH_BYTES = 8
_KEYS = {"dtype", "shape", "data_offsets"}
_NAME = re.compile(r"[!-\[\]-~]+")  # printable ASCII without blank and backslash


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may ask of whoever reads it.

    Attributes:
        max_elements: Elements of one tensor.
        min_dimension: Smallest size of an axis; 0 lets empty tensors pass.
    """

    dtypes: frozenset[str]
    max_header_bytes: int
    max_tensors: int
    max_name_length: int
    max_axes: int
    min_axes: int
    min_dimension: int
    max_elements: int


ADAPTER_LIMITS = Limits(
    dtypes=frozenset(TORCH_NAMES),
    max_header_bytes=16 * 2**20,
    max_tensors=100_000,
    max_name_length=512,
    max_axes=4,
    min_axes=1,
    min_dimension=1,
    max_elements=2**36,
)
"""For adapters: floating tensors only, none of them empty."""

BASE_LIMITS = Limits(
    dtypes=frozenset(DTYPE_BITS),
    max_header_bytes=64 * 2**20,
    max_tensors=1_000_000,
    max_name_length=1024,
    max_axes=8,
    min_axes=0,
    min_dimension=0,
    max_elements=2**44,
)
"""For the weight files of a base, quantised ones included."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        dtype: The format's name: ``BF16``, ``F32``.
        start, end: Bytes from the start of the data section (`TensorFile.data_offset`), end exclusive.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The header of one file.

    Attributes:
        tensors: By name, in the order of their data.
        data_offset: Bytes before the data section.
        metadata: The free texts under ``__metadata__``.
    """

    tensors: Mapping[str, TensorInfo]
    data_offset: int
    metadata: Mapping[str, str]


def open_safetensors_header(path: Path, *, limits: Limits = ADAPTER_LIMITS, name: str | None = None) -> TensorFile:
    """Read and check the header of the file at `path`, which messages call `name`; its data is not read.

    Every byte after the header belongs to exactly one tensor: the file is not truncated and carries nothing else.

    Raises:
        MalformedSafetensorsError: It breaks the format or `limits`; the message names the tensor and the value.
        RegistryError: The operating system refused.
    """
    with os_errors_named(path):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return read_safetensors_header(handle, name or path.name, limits=limits)
        finally:
            os.close(handle)


def read_safetensors_header(handle: int, file: str, *, limits: Limits = ADAPTER_LIMITS) -> TensorFile:
    """Read and check the header behind an open file descriptor; messages call it `file`. Its position is not moved."""
    size = os.fstat(handle).st_size
    prefix = os.pread(handle, _LENGTH_BYTES, 0)
    if len(prefix) < _LENGTH_BYTES:
        raise MalformedSafetensorsError(file, f"it is {size} bytes long, shorter than the length of its header")
    length = int.from_bytes(prefix, "little")
    if length > limits.max_header_bytes:
        raise MalformedSafetensorsError(
            file, f"its header claims {length} bytes and at most {limits.max_header_bytes} are read"
        )
    if _LENGTH_BYTES + length > size:
        raise MalformedSafetensorsError(file, f"its header claims {length} bytes and the file has {size}")
    return parse_header(_read_exactly(handle, length, file), size - _LENGTH_BYTES - length, file, limits=limits)


def parse_header(header: bytes, data_bytes: int, file: str, *, limits: Limits = ADAPTER_LIMITS) -> TensorFile:
    """Check the JSON text of a header that `data_bytes` of data follow."""
    if not header.startswith(b"{"):
        raise MalformedSafetensorsError(file, "its header does not start with '{'")
    try:
        rows = parse_object(header)
    except StrictJsonError as error:
        raise MalformedSafetensorsError(file, f"in its header, {error}") from error
    metadata = _read_metadata(rows.pop("__metadata__", None), file)
    if len(rows) > limits.max_tensors:
        raise MalformedSafetensorsError(file, f"it has {len(rows)} tensors and at most {limits.max_tensors} are read")
    found = {name: _read_tensor(name, row, file, limits) for name, row in rows.items()}
    tensors = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_layout(tensors, data_bytes, file)
    return TensorFile(tensors, _LENGTH_BYTES + len(header), metadata)


def _read_exactly(handle: int, length: int, file: str) -> bytes:
    parts: list[bytes] = []
    position = _LENGTH_BYTES
    while length > 0:
        part = os.pread(handle, length, position)
        if not part:
            raise MalformedSafetensorsError(file, "it became shorter while it was read")
        parts.append(part)
        position, length = position + len(part), length - len(part)
    return b"".join(parts)


def _read_metadata(value: object, file: str) -> dict[str, str]:
    if value is None:
        return {}
    held = as_object(value)
    if held is None:
        raise MalformedSafetensorsError(file, f"__metadata__ is {shown(value)} and must be an object of texts")
    for key, text in held.items():
        if not isinstance(text, str):
            raise MalformedSafetensorsError(file, f"__metadata__ {shown(key)} is {shown(text)} and must be a text")
        if not (_is_unicode(key) and _is_unicode(text)):
            raise MalformedSafetensorsError(file, f"__metadata__ {shown(key)} holds half a surrogate pair")
    return {key: str(text) for key, text in held.items()}


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _read_tensor(name: str, row: object, file: str, limits: Limits) -> TensorInfo:
    _check_name(name, file, limits)
    held = as_object(row)
    if held is None or held.keys() != _KEYS:
        raise MalformedSafetensorsError(
            file, f"its entry is {shown(row)} and must have dtype, shape and data_offsets", tensor=name
        )
    dtype = held["dtype"]
    if not isinstance(dtype, str) or dtype not in limits.dtypes:
        raise MalformedSafetensorsError(
            file,
            f"its dtype is {shown(dtype)}",
            tensor=name,
            hint=f"save it as one of {', '.join(sorted(limits.dtypes))}",
        )
    shape = _naturals(held["shape"], "shape", name, file)
    offsets = _naturals(held["data_offsets"], "data_offsets", name, file)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MalformedSafetensorsError(
            file, f"its data_offsets are {shown(list(offsets))} and must be a start and an end", tensor=name
        )
    info = TensorInfo(dtype, shape, offsets[0], offsets[1])
    _check_size(info, name, file, limits)
    return info


def _check_name(name: str, file: str, limits: Limits) -> None:
    if len(name) > limits.max_name_length:
        problem = f"its name has {len(name)} characters and at most {limits.max_name_length} are read"
    elif not _NAME.fullmatch(name):
        problem = "its name is not printable ASCII without blanks and backslashes"
    elif ".." in name or name.startswith("/"):
        problem = "its name reads like a path out of the file"
    else:
        return
    raise MalformedSafetensorsError(file, problem, tensor=name, hint="name tensors as PEFT does, such as a.b.weight")


def _naturals(value: object, key: str, name: str, file: str) -> tuple[int, ...]:
    items = as_list(value)
    if items is not None:
        numbers = tuple(item for item in items if type(item) is int and 0 <= item < 2**63)
        if len(numbers) == len(items):
            return numbers
    raise MalformedSafetensorsError(
        file, f"its {key} is {shown(value)} and must be a list of whole numbers from 0 to 2^63 - 1", tensor=name
    )


def _check_size(info: TensorInfo, name: str, file: str, limits: Limits) -> None:
    if not limits.min_axes <= len(info.shape) <= limits.max_axes:
        raise MalformedSafetensorsError(
            file, f"it has {len(info.shape)} axes, not {limits.min_axes} to {limits.max_axes}", tensor=name
        )
    elements = 1
    for dimension in info.shape:
        if not limits.min_dimension <= dimension <= limits.max_elements:
            raise MalformedSafetensorsError(
                file, f"its shape is {list(info.shape)}, with an absurd {dimension}", tensor=name
            )
        elements *= dimension
    if elements > limits.max_elements:
        raise MalformedSafetensorsError(
            file, f"its shape {list(info.shape)} has more than {limits.max_elements} elements", tensor=name
        )
    bits = elements * DTYPE_BITS[info.dtype]
    if bits != info.size_bytes * 8:
        raise MalformedSafetensorsError(
            file,
            f"its shape {list(info.shape)} in {info.dtype} takes {bits / 8:g} bytes"
            f" and data_offsets [{info.start}, {info.end}] hold {info.size_bytes}",
            tensor=name,
        )


def _check_layout(tensors: Mapping[str, TensorInfo], data_bytes: int, file: str) -> None:
    position = 0
    for name, info in tensors.items():
        if info.start != position:
            problem = "overlaps the one before" if info.start < position else "leaves a hole before it"
            raise MalformedSafetensorsError(
                file, f"it starts at byte {info.start}, {problem}, which ends at {position}", tensor=name
            )
        position = info.end
    if position != data_bytes:
        problem = "is truncated" if data_bytes < position else "has more after them"
        raise MalformedSafetensorsError(
            file, f"its tensors take {position} bytes of data and it has {data_bytes}: it {problem}"
        )
