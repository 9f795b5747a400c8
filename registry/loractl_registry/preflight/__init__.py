"""Preflight: can this base take this adapter, and will the engine use all of it? Without a GPU and without torch."""

from loractl_registry.preflight.base_shape import BaseShape, Experts, Linear, read_base_shape
from loractl_registry.preflight.check import PreflightReport, check_adapter, check_stored, check_values
from loractl_registry.preflight.errors import PreflightRefusedError
from loractl_registry.preflight.memory import slot_bytes

__all__ = [
    "BaseShape",
    "Experts",
    "Linear",
    "PreflightRefusedError",
    "PreflightReport",
    "check_adapter",
    "check_stored",
    "check_values",
    "read_base_shape",
    "slot_bytes",
]
