"""MoE-LoRA operations: torch in, torch out, without vLLM and without the registry."""

from loractl_kernels.errors import KernelError, ShapeError
from loractl_kernels.reference import Gate, add_routed_delta, gated_activation, routed_linear, sum_top_k

__all__ = ["Gate", "KernelError", "ShapeError", "add_routed_delta", "gated_activation", "routed_linear", "sum_top_k"]
