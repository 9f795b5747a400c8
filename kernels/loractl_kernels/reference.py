"""The MoE-LoRA operations in their obvious torch form: what every faster kernel is held against.

A *pair* is one (token, k): pair ``p`` belongs to token ``p // top_k``. A *slot* is the index of a loaded adapter in the
weight stacks, and -1 is the base model. Deltas are summed in fp32 whatever the operands are, and each result is rounded
once, on its way out. Grouped shrink and expand follow Punica (arXiv:2310.18547), with an axis for experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from loractl_kernels.errors import ShapeError

SWIGLU_OAI_ALPHA = 1.702
SWIGLU_OAI_LIMIT = 7.0


class Gate(StrEnum):
    """How gate and up become one activation.

    ``silu``, ``gelu``, ``gelu_tanh``: ``f(gate) * up`` with gate in the first half of the columns and up in the second.
    ``swiglu_oai``: gpt-oss's clamped form, ``(up + 1) * gate * sigmoid(1.702 * gate)``, with gate in the even columns.
    """

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SWIGLU_OAI = "swiglu_oai"


def add_routed_delta(
    out: Tensor,
    x: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    pair_slot: Tensor,
    pair_expert: Tensor,
    *,
    pair_weight: Tensor | None = None,
) -> None:
    """Add each pair's LoRA delta in place: ``out[p] += w[p] * B[s, e] @ (A[s, e] @ x[p])``.

    Rows whose slot is -1 are not touched, so they stay bit-identical. A row's result does not depend on the other rows.

    Args:
        out: [num_pairs, out_features], any float dtype; updated.
        x: [num_pairs, in_features].
        lora_a: [num_slots, num_experts, rank, in_features]. An expert stride of 0 is an A that all experts share.
        lora_b: [num_slots, num_experts, out_features, rank], the scale ``alpha / rank`` already in it.
        pair_slot: [num_pairs] integer; -1 for the base model.
        pair_expert: [num_pairs] integer.
        pair_weight: [num_pairs] routing weights, or None for 1.

    Raises:
        ShapeError: The operands disagree.
    """
    _check_routed_delta(out, x, lora_a, lora_b, pair_slot, pair_expert, pair_weight)
    num_experts = lora_a.shape[1]
    keys = torch.where(pair_slot >= 0, pair_slot * num_experts + pair_expert, -1)
    for key, rows in _groups(keys):
        slot, expert = divmod(key, num_experts)
        shrunk = x[rows].float() @ lora_a[slot, expert].float().t()  # [rows, rank]
        delta = shrunk @ lora_b[slot, expert].float().t()  # [rows, out_features]
        if pair_weight is not None:
            delta = delta * pair_weight[rows, None].float()
        out[rows] = (out[rows].float() + delta).to(out.dtype)


def gated_activation(
    gate_up: Tensor, gate: Gate, *, alpha: float = SWIGLU_OAI_ALPHA, limit: float = SWIGLU_OAI_LIMIT, beta: float = 1.0
) -> Tensor:
    """Turn gate and up projections into the input of the down projection.

    Args:
        gate_up: [num_pairs, 2 * intermediate], bias and adapter deltas already in it.
        gate: Which form.
        alpha: Steepness of the sigmoid; ``swiglu_oai`` alone reads it, and the two below.
        limit: Where gate and up are clamped.
        beta: What is added to up.

    Returns:
        [num_pairs, intermediate], dtype of `gate_up`.

    Raises:
        ShapeError: The number of columns is odd.
    """
    if gate_up.shape[-1] % 2:
        raise ShapeError("gate_up", expected="[num_pairs, 2 * intermediate]", found=tuple(gate_up.shape))
    wide = gate_up.float()
    if gate is Gate.SWIGLU_OAI:
        gated = wide[..., ::2].clamp(max=limit)
        up = wide[..., 1::2].clamp(min=-limit, max=limit)
        return ((up + beta) * gated * torch.sigmoid(gated * alpha)).to(gate_up.dtype)
    gated, up = wide.chunk(2, dim=-1)
    match gate:
        case Gate.SILU:
            activated = functional.silu(gated)
        case Gate.GELU:
            activated = functional.gelu(gated)
        case Gate.GELU_TANH:
            activated = functional.gelu(gated, approximate="tanh")
    return (activated * up).to(gate_up.dtype)


def routed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, pair_expert: Tensor) -> Tensor:
    """Send each pair through its expert: ``out[p] = W[e] @ x[p] + b[e]``.

    Args:
        x: [num_pairs, in_features].
        weight: [num_experts, out_features, in_features], dtype of `x`.
        bias: [num_experts, out_features] or None.
        pair_expert: [num_pairs] integer.

    Returns:
        [num_pairs, out_features], dtype of `x`.

    Raises:
        ShapeError: The operands disagree.
    """
    if weight.dim() != 3 or weight.shape[2] != x.shape[-1]:
        raise ShapeError("weight", expected=f"[num_experts, out_features, {x.shape[-1]}]", found=tuple(weight.shape))
    out = x.new_empty(x.shape[0], weight.shape[1])
    for expert, rows in _groups(pair_expert):
        out[rows] = functional.linear(x[rows], weight[expert], None if bias is None else bias[expert].to(x.dtype))
    return out


def sum_top_k(y: Tensor) -> Tensor:
    """Sum each token's pairs in order of k.

    Args:
        y: [num_tokens, top_k, hidden], routing weights already in it.

    Returns:
        [num_tokens, hidden], dtype of `y`.
    """
    return y.float().sum(dim=1).to(y.dtype)


def _groups(keys: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each key that is not negative, in ascending order, with the rows that have it."""
    found = cast("list[int]", torch.unique(keys).tolist())  # pyright: ignore[reportUnknownMemberType]  (torch's stub)
    for key in found:
        if key >= 0:
            yield key, torch.where(keys == key)[0]


def _check_routed_delta(
    out: Tensor,
    x: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    pair_slot: Tensor,
    pair_expert: Tensor,
    pair_weight: Tensor | None,
) -> None:
    num_pairs, in_features = x.shape
    if lora_a.dim() != 4 or lora_a.shape[3] != in_features:
        raise ShapeError("lora_a", expected=f"[num_slots, num_experts, rank, {in_features}]", found=tuple(lora_a.shape))
    num_slots, num_experts, rank, _ = lora_a.shape
    if tuple(out.shape[:1]) != (num_pairs,) or out.dim() != 2:
        raise ShapeError("out", expected=f"[{num_pairs}, out_features]", found=tuple(out.shape))
    if tuple(lora_b.shape) != (num_slots, num_experts, out.shape[1], rank):
        expected = f"[{num_slots}, {num_experts}, {out.shape[1]}, {rank}] to match lora_a {list(lora_a.shape)}"
        raise ShapeError("lora_b", expected=expected, found=tuple(lora_b.shape))
    for name, vector in (("pair_slot", pair_slot), ("pair_expert", pair_expert), ("pair_weight", pair_weight)):
        if vector is not None and tuple(vector.shape) != (num_pairs,):
            raise ShapeError(name, expected=f"[{num_pairs}]", found=tuple(vector.shape))
