"""The two projections' deltas as operators of torch, for torch.compile and torch.export.

Importing this module registers ``torch.ops.loractl.moe_lora_w13`` and ``torch.ops.loractl.moe_lora_w2``; nothing else
does. Each routes, shrinks and expands for itself, and sets its scratch aside anew, so an engine's hot path is better
off with `loractl_kernels.ops`, which routes once a layer and keeps its scratch::

    from loractl_kernels import library

    torch.ops.loractl.moe_lora_w13(x, y13, a13, b13, ranks, topk_ids, token_slot, slot_enabled, "triton")
    act = activation(y13)
    torch.ops.loractl.moe_lora_w2(act, y2, a2, b2, ranks, topk_ids, token_slot, slot_enabled, topk_weights, "triton")

Operands are those of `loractl_kernels.ops`; `a` and `b` are lists of one tensor a slice. The back end is named by its
value and never replaced by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from loractl_kernels import ops
from loractl_kernels.errors import BackendError, ShapeError
from loractl_kernels.operands import Adapters, Scratch
from loractl_kernels.ops import Backend

NAMESPACE: Final = "loractl"


@torch.library.custom_op(f"{NAMESPACE}::moe_lora_w13", mutates_args={"y"})
def moe_lora_w13(
    x: Tensor,
    y: Tensor,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    ranks: Tensor | None,
    topk_ids: Tensor,
    token_slot: Tensor,
    slot_enabled: Tensor,
    backend: str,
) -> None:
    """Add the deltas of gate and up in place: ``y[pair] += B[s, e] @ A[s, e] @ x[token]``.

    Args:
        x: [tokens, in_features].
        y: [pairs, out_features]; updated.
        a: Per slice [slots, experts, rank, in_features].
        b: Per slice [slots, experts, out_features of the slice, rank].
        ranks: [slots] int32, each slot's true rank, or None.
        topk_ids: [tokens, top_k] int32 or int64.
        token_slot: [tokens] int32 or int64; -1 for the base model.
        slot_enabled: [slots] or longer, int32.
        backend: Value of a `Backend`.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: A dtype that the back end does not take.
        BackendError: `backend` is none, or cannot run here.
    """
    _add(x, y, Adapters(tuple(a), tuple(b), ranks), (topk_ids, token_slot, slot_enabled), None, backend)


@torch.library.custom_op(f"{NAMESPACE}::moe_lora_w2", mutates_args={"y"})
def moe_lora_w2(
    act: Tensor,
    y: Tensor,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    ranks: Tensor | None,
    topk_ids: Tensor,
    token_slot: Tensor,
    slot_enabled: Tensor,
    weights: Tensor | None,
    backend: str,
) -> None:
    """Add the deltas of the down projection in place: ``y[pair] += weight[pair] * B[s, e] @ A[s, e] @ act[pair]``.

    Args:
        act: [pairs, in_features].
        y: [pairs, out_features]; updated.
        a: One [slots, experts, rank, in_features].
        b: One [slots, experts, out_features, rank].
        ranks: [slots] int32, each slot's true rank, or None.
        topk_ids: [tokens, top_k] int32 or int64.
        token_slot: [tokens] int32 or int64; -1 for the base model.
        slot_enabled: [slots] or longer, int32.
        weights: [pairs] or [tokens, top_k] routing weights, or None for 1.
        backend: Value of a `Backend`.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: A dtype that the back end does not take.
        BackendError: `backend` is none, or cannot run here.
    """
    _add(act, y, Adapters(tuple(a), tuple(b), ranks), (topk_ids, token_slot, slot_enabled), weights, backend)


@moe_lora_w13.register_fake  # pyright: ignore[reportUnknownMemberType]  (torch's stub)
def _fake_w13(
    x: Tensor,
    y: Tensor,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    ranks: Tensor | None,
    topk_ids: Tensor,
    token_slot: Tensor,  # noqa: ARG001  (the operator's signature)
    slot_enabled: Tensor,  # noqa: ARG001
    backend: str,
) -> None:
    _check(x, y, Adapters(tuple(a), tuple(b), ranks), topk_ids, backend)


@moe_lora_w2.register_fake  # pyright: ignore[reportUnknownMemberType]  (torch's stub)
def _fake_w2(
    act: Tensor,
    y: Tensor,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    ranks: Tensor | None,
    topk_ids: Tensor,
    token_slot: Tensor,  # noqa: ARG001
    slot_enabled: Tensor,  # noqa: ARG001
    weights: Tensor | None,  # noqa: ARG001
    backend: str,
) -> None:
    _check(act, y, Adapters(tuple(a), tuple(b), ranks), topk_ids, backend)


def _add(
    x: Tensor,
    y: Tensor,
    adapters: Adapters,
    mapping: tuple[Tensor, Tensor, Tensor],
    weights: Tensor | None,
    backend: str,
) -> None:
    _check(x, y, adapters, mapping[0], backend)
    chosen, (tokens, top_k) = Backend(backend), mapping[0].shape
    scratch = None
    if chosen is Backend.TRITON:
        scratch = Scratch.allocate(
            max_tokens=tokens,
            top_k=top_k,
            experts=adapters.experts,
            slots=adapters.slots,
            max_columns=adapters.columns,
            device=x.device,
        )
    routing = ops.route(
        *mapping, experts=adapters.experts, slots=adapters.slots, scratch=scratch, backend=chosen
    )  # fmt: skip
    ops.expand_add(y, ops.shrink(x, adapters, routing), adapters, routing, pair_weight=weights)


def _check(x: Tensor, y: Tensor, adapters: Adapters, topk_ids: Tensor, backend: str) -> None:
    """Refuse while tracing what the operations would refuse, as far as sizes show it."""
    if backend not in set(Backend):
        raise BackendError(f"backend must be one of {', '.join(Backend)}, and it is {backend!r}")
    if topk_ids.dim() != 2:
        raise ShapeError("topk_ids", expected="[tokens, top_k]", found=tuple(topk_ids.shape))
    if x.dim() != 2 or x.shape[1] != adapters.in_features:
        expected = f"[rows, {adapters.in_features}] to match a {list(adapters.a[0].shape)}"
        raise ShapeError("x", expected=expected, found=tuple(x.shape))
    if y.dim() != 2 or y.shape[0] != topk_ids.numel() or y.shape[1] != adapters.out_features:
        expected = f"[{topk_ids.numel()}, {adapters.out_features}] to match topk_ids {list(topk_ids.shape)}"
        raise ShapeError("y", expected=expected, found=tuple(y.shape))
