"""What the GPUs of this machine are doing, where there are any."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU at one moment.

    Attributes:
        use: Share of the last moments in which it computed, 0 to 1; None if it does not say.
    """

    index: int
    name: str
    use: float | None
    used_bytes: int
    total_bytes: int


class _Memory(Protocol):
    used: int
    total: int


class _Utilization(Protocol):
    gpu: int


class Nvml(Protocol):
    """What is called of NVIDIA's library, under its own names."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: D102, N802
    def nvmlDeviceGetName(self, handle: object) -> str | bytes: ...  # noqa: D102, N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> _Memory: ...  # noqa: D102, N802
    def nvmlDeviceGetUtilizationRates(self, handle: object) -> _Utilization: ...  # noqa: D102, N802


def load_nvml() -> Nvml | None:
    """Return the library, ready to be asked, or None: it, its driver or a GPU is not there."""
    try:
        library = cast("Nvml", importlib.import_module("pynvml"))
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    return library


class Gpus:
    """Asks the library each time; a machine without a GPU has none, and a GPU that fails is left out."""

    def __init__(self, load: Callable[[], Nvml | None] = load_nvml) -> None:
        self._library = load()

    def now(self) -> tuple[GpuUse, ...]:
        """Return what each GPU does now."""
        library = self._library
        if library is None:
            return ()
        try:
            found = (_read(library, index) for index in range(library.nvmlDeviceGetCount()))
            return tuple(each for each in found if each is not None)
        except library.NVMLError:
            return ()


def _read(library: Nvml, index: int) -> GpuUse | None:
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        name, memory = library.nvmlDeviceGetName(handle), library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError:
        return None
    try:
        use = library.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except library.NVMLError:
        # A slice of a GPU (MIG) does not say.
        use = None
    return GpuUse(index, name.decode() if isinstance(name, bytes) else name, use, memory.used, memory.total)
