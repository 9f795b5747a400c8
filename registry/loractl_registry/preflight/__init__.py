"""Preflight: can this base take this adapter, and will the engine use all of it? Without a GPU and without torch."""

from loractl_registry.preflight.architectures import FUSED_NATIVELY
from loractl_registry.preflight.base_shape import BaseShape, read_base_shape
from loractl_registry.preflight.check import PreflightReport, check_adapter, check_stored
from loractl_registry.preflight.errors import PreflightRefusedError, Problem
from loractl_registry.preflight.memory import RANK_LADDER, rung_of, slot_bytes
from loractl_registry.preflight.modules import Experts, Inert, Linear, Projection

__all__ = [
    "FUSED_NATIVELY",
    "RANK_LADDER",
    "BaseShape",
    "Experts",
    "Inert",
    "Linear",
    "PreflightRefusedError",
    "PreflightReport",
    "Problem",
    "Projection",
    "check_adapter",
    "check_stored",
    "read_base_shape",
    "rung_of",
    "slot_bytes",
]
