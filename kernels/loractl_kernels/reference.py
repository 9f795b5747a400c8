"""The MoE-LoRA operations in their obvious torch form: what every faster kernel is held against.

A *pair* is one (token, k): pair ``p`` belongs to token ``p // top_k``. A *slot* is the index of a loaded adapter in the
weight stacks, and -1 is the base model. Deltas are summed in fp32 whatever the operands are, and each result is rounded
once, on its way out. Grouped shrink and expand follow Punica (arXiv:2310.18547), with an axis for experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from loractl_kernels.errors import ShapeError
from loractl_kernels.operands import Adapters, Routing, Shrunk

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


@dataclass(frozen=True, slots=True)
class Gating:
    """An activation of gate and up, with its numbers; see `Gate` and `gated_activation`."""

    gate: Gate
    alpha: float = SWIGLU_OAI_ALPHA
    limit: float = SWIGLU_OAI_LIMIT
    beta: float = 1.0

    @property
    def is_interleaved(self) -> bool:
        """Whether gate lies in the even columns and up in the odd ones."""
        return self.gate is Gate.SWIGLU_OAI

    def __call__(self, gate_up: Tensor) -> Tensor:
        """Return `gated_activation` of [rows, 2 * intermediate]."""
        return gated_activation(gate_up, self.gate, alpha=self.alpha, limit=self.limit, beta=self.beta)


def shrink(x: Tensor, adapters: Adapters, routing: Routing, row_of_pair: Tensor | None) -> Shrunk:
    """Return [pairs, columns] fp32 rank vectors, 0 for pairs without an adapter; see `ops.shrink`."""
    values = torch.zeros(routing.pairs, adapters.columns, device=x.device)
    is_per_token = x.shape[0] == routing.tokens and routing.top_k > 1
    for key, pairs in _groups(_pair_keys(routing)):
        slot, expert = divmod(key, routing.experts)
        rows = pairs // routing.top_k if is_per_token else pairs if row_of_pair is None else row_of_pair[pairs].long()
        rank = _true_rank(adapters, slot)
        for index, a in enumerate(adapters.a):
            start = index * adapters.rank
            values[pairs, start : start + rank] = x[rows].float() @ a[slot, expert, :rank].float().t()
    return Shrunk(values)


def expand_add(y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, pair_weight: Tensor | None) -> None:
    """Add each pair's delta to [pairs, out_features] `y` in place; see `ops.expand_add`."""
    for pairs, delta in _deltas(shrunk, adapters, routing, is_interleaved=False):
        weighted = delta if pair_weight is None else delta * pair_weight.flatten()[pairs, None].float()
        y[pairs] = (y[pairs].float() + weighted).to(y.dtype)


def expand_activate(
    out: Tensor,
    y: Tensor,
    shrunk: Shrunk,
    adapters: Adapters,
    routing: Routing,
    gating: Gating,
    row_of_pair: Tensor | None,
) -> None:
    """Write the activation of `y` plus delta into [pairs, intermediate] `out`; see `ops.expand_activate`."""
    gate_up = y.clone()
    for pairs, delta in _deltas(shrunk, adapters, routing, is_interleaved=gating.is_interleaved):
        rows = pairs if row_of_pair is None else row_of_pair[pairs].long()
        gate_up[rows] = (y[rows].float() + delta).to(y.dtype)
    out.copy_(gating(gate_up))


def expand_sum(
    out: Tensor, y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, pair_weight: Tensor
) -> None:
    """Write the sum over k of `y` plus delta into [tokens, out_features] `out`; see `ops.expand_sum`."""
    expand_add(y, shrunk, adapters, routing, pair_weight)
    is_routed = ((routing.topk_ids >= 0) & (routing.topk_ids < routing.experts)).unsqueeze(-1)
    out.copy_(sum_top_k(torch.where(is_routed, y.view(routing.tokens, routing.top_k, y.shape[1]), 0)))


def _deltas(
    shrunk: Shrunk, adapters: Adapters, routing: Routing, *, is_interleaved: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs of each (slot, expert) with their [pairs, out_features] fp32 deltas.

    The slices of a two-slice stack are gate and up: interleaved where the layer's columns are, else one after another.
    """
    for key, pairs in _groups(_pair_keys(routing)):
        slot, expert = divmod(key, routing.experts)
        rank = _true_rank(adapters, slot)
        parts = [
            shrunk.values[pairs, index * adapters.rank : index * adapters.rank + rank]
            @ b[slot, expert, :, :rank].float().t()
            for index, b in enumerate(adapters.b)
        ]
        yield pairs, torch.stack(parts, dim=-1).flatten(1) if is_interleaved else torch.cat(parts, dim=-1)


def _pair_keys(routing: Routing) -> Tensor:
    """Return [pairs] slot * experts + expert, -1 where a pair has no adapter, no expert, or a slot that is off."""
    slot = routing.token_slot.long().repeat_interleave(routing.top_k)
    expert = routing.topk_ids.long().flatten()
    has_slot = (slot >= 0) & (slot < routing.slots) & (expert >= 0) & (expert < routing.experts)
    is_on = routing.slot_enabled.long()[slot.clamp(0, routing.slots - 1)] != 0
    return torch.where(has_slot & is_on, slot * routing.experts + expert, -1)


def _true_rank(adapters: Adapters, slot: int) -> int:
    return adapters.rank if adapters.ranks is None else int(adapters.ranks[slot])


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
