"""The operations of a MoE layer with adapters, checked, and run by the back end that the caller names.

The deltas of a layer, with slot s and expert e of each pair::

    h[pair]  += B13[s, e] @ (A13[s, e] @ x[token])                  before the activation
    y2[pair] += weight[pair] * B2[s, e] @ (A2[s, e] @ act[pair])    after it, then summed over the pairs of a token

`shrink` is the inner product; `expand_add`, `expand_activate` and `expand_sum` the outer one, alone or together with
what the layer does next. Every back end keeps four rules: a delta is summed in fp32, added to the base's value and
rounded once to the output's dtype; an activation and a sum over k read the rounded value; a row without an adapter
comes out as if nothing had been added; and no row depends on another row of the batch. Triton rounds a rank vector once
to the model's dtype, between the two products; the reference does not.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import torch
from torch import Tensor

from loractl_kernels import reference
from loractl_kernels.errors import BackendError, DtypeError, ShapeError
from loractl_kernels.operands import MAX_RANK, Adapters, Routing, Scratch, Shrunk
from loractl_kernels.reference import Gating


class Backend(StrEnum):
    """Who computes. A back end that cannot refuses; none stands in for another."""

    TRITON = "triton"
    REFERENCE = "reference"


_TRITON_DTYPES: Final = frozenset({torch.bfloat16, torch.float16})


def route(
    topk_ids: Tensor,
    token_slot: Tensor,
    slot_enabled: Tensor,
    *,
    experts: int,
    slots: int,
    scratch: Scratch | None = None,
    side: bool = False,
    backend: Backend = Backend.TRITON,
) -> Routing:
    """Plan a batch once for both projections of a layer.

    Args:
        topk_ids: [tokens, top_k] int32 or int64, contiguous; the expert of each pair, -1 for none.
        token_slot: [tokens] int32 or int64; -1 for the base model.
        slot_enabled: [slots] or longer, int32.
        experts: Experts of the layer.
        slots: Slots of the stacks.
        scratch: Needed by Triton; overwritten.
        side: Whether the kernels of the batch run on more than one stream.
        backend: Who computes.

    Raises:
        ShapeError: The operands disagree, or the batch is larger than the scratch.
        DtypeError: An operand is not of integers.
        BackendError: `backend` cannot run here.
    """
    if topk_ids.dim() != 2 or not topk_ids.is_contiguous():
        raise ShapeError("topk_ids", expected="[tokens, top_k], contiguous", found=tuple(topk_ids.shape))
    if tuple(token_slot.shape) != (topk_ids.shape[0],):
        expected = f"[{topk_ids.shape[0]}] to match topk_ids {list(topk_ids.shape)}"
        raise ShapeError("token_slot", expected=expected, found=tuple(token_slot.shape))
    if slot_enabled.dim() != 1 or slot_enabled.shape[0] < slots:
        raise ShapeError("slot_enabled", expected=f"[{slots}] or longer", found=tuple(slot_enabled.shape))
    for name, operand in (("topk_ids", topk_ids), ("token_slot", token_slot), ("slot_enabled", slot_enabled)):
        if operand.dtype not in (torch.int32, torch.int64):
            raise DtypeError(name, expected="int32 or int64", found=str(operand.dtype))
    if backend is Backend.REFERENCE:
        return Routing(topk_ids, token_slot, slot_enabled, experts, slots)
    if scratch is None:
        raise BackendError("the Triton back end needs a scratch: Scratch.allocate(...)")
    if topk_ids.numel() > scratch.max_pairs or experts * slots > scratch.max_keys:
        fits = f"at most {scratch.max_pairs} pairs over {scratch.max_keys} (slot, expert) keys, as its scratch is"
        raise ShapeError("topk_ids", expected=fits, found=(*topk_ids.shape, experts * slots))
    planned: Routing = _triton().plan(Routing(topk_ids, token_slot, slot_enabled, experts, slots, scratch, side=side))
    return planned


def shrink(
    x: Tensor, adapters: Adapters, routing: Routing, *, row_of_pair: Tensor | None = None, is_second: bool = False
) -> Shrunk:
    """Return each pair's rank vectors, ``A[s, e] @ x``.

    Args:
        x: [tokens, in_features] or [pairs, in_features], rows contiguous.
        adapters: One projection's stacks, dtype of `x`.
        routing: The batch.
        row_of_pair: [pairs] int32, which row of a per-pair `x` belongs to each pair, negative for none; None where they
            are in order.
        is_second: Whether to use the scratch's second half, so that the first stays valid.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: A dtype that the back end does not take.
        BackendError: A rank that the back end does not take.
    """
    _check_layer(adapters, routing)
    if x.dim() != 2 or x.shape[0] not in (routing.tokens, routing.pairs) or x.shape[1] != adapters.in_features:
        expected = f"[{routing.tokens} or {routing.pairs}, {adapters.in_features}]"
        raise ShapeError("x", expected=f"{expected} to match a {list(adapters.a[0].shape)}", found=tuple(x.shape))
    _check_rows("row_of_pair", row_of_pair, routing)
    if routing.scratch is None:
        return reference.shrink(x, adapters, routing, row_of_pair)
    _check_triton(x, adapters)
    if adapters.columns > routing.scratch.max_columns:
        expected = f"at most {routing.scratch.max_columns} columns, as the scratch is"
        raise ShapeError("a", expected=expected, found=(len(adapters.a), adapters.rank))
    shrunk: Shrunk = _triton().shrink(x, adapters, routing, row_of_pair, is_second=is_second)
    return shrunk


def expand_add(
    y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, *, pair_weight: Tensor | None = None
) -> None:
    """Add each pair's delta in place: ``y[pair] += weight[pair] * B[s, e] @ shrunk[pair]``.

    Args:
        y: [pairs, out_features], rows contiguous; updated. Rows without an adapter are not touched.
        shrunk: What `shrink` returned for the same adapters and routing.
        adapters: One projection's stacks, dtype of `y`.
        routing: The batch.
        pair_weight: [pairs] or [tokens, top_k] routing weights, or None for 1.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: A dtype that the back end does not take.
    """
    _check_layer(adapters, routing)
    _check_matrix("y", y, (routing.pairs, adapters.out_features))
    _check_weight(pair_weight, routing)
    if routing.scratch is None:
        reference.expand_add(y, shrunk, adapters, routing, pair_weight)
    else:
        _check_triton(y, adapters)
        _triton().expand_add(y, shrunk, adapters, routing, pair_weight)


def expand_activate(
    out: Tensor,
    y: Tensor,
    shrunk: Shrunk,
    adapters: Adapters,
    routing: Routing,
    gating: Gating,
    *,
    row_of_pair: Tensor | None = None,
) -> None:
    """Add each pair's delta to gate and up and activate, in one pass: ``out[pair] = act(y[pair] + delta)``.

    Args:
        out: [pairs, out_features / 2]; written, rows without an adapter too.
        y: [pairs, out_features], the base's gate and up, bias in it; not changed.
        shrunk: What `shrink` returned for the same adapters and routing.
        adapters: The stacks of gate and up, dtype of `y`.
        routing: The batch.
        gating: The activation, and how gate and up lie in the columns of `y`.
        row_of_pair: [pairs] int32, which row of `y` and of `out` belongs to each pair, negative for none; None where
            they are in order.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: A dtype that the back end does not take.
        BackendError: Interleaved rows of `y` that do not begin at whole words of 4 bytes.
    """
    _check_layer(adapters, routing)
    _check_matrix("y", y, (routing.pairs, adapters.out_features))
    _check_matrix("out", out, (routing.pairs, adapters.out_features // 2))
    _check_rows("row_of_pair", row_of_pair, routing)
    if routing.scratch is None:
        reference.expand_activate(out, y, shrunk, adapters, routing, gating, row_of_pair)
    else:
        _check_triton(y, adapters)
        if gating.is_interleaved and (y.stride(0) % 2 or y.data_ptr() % 4):
            raise BackendError(
                "gate and up are read together, so each row of y must begin at a whole word of 4 bytes, and rows of "
                f"{y.stride(0)} elements do not"
            )
        _triton().expand_activate(out, y, shrunk, adapters, routing, gating, row_of_pair)


def expand_sum(
    out: Tensor, y: Tensor, shrunk: Shrunk, adapters: Adapters, routing: Routing, *, pair_weight: Tensor
) -> None:
    """Add each pair's delta and sum a token's pairs: ``out[token] = sum over k of y[pair] + weight * delta``.

    Args:
        out: [tokens, out_features]; written.
        y: [pairs, out_features], the base's result, routing weights in it. Its contents are lost.
        shrunk: What `shrink` returned for the same adapters and routing.
        adapters: The stacks of the down projection, dtype of `y`.
        routing: The batch. A pair whose expert is -1 counts as 0.
        pair_weight: [pairs] or [tokens, top_k] routing weights.

    Raises:
        ShapeError: The operands disagree.
        DtypeError: A dtype that the back end does not take.
    """
    _check_layer(adapters, routing)
    _check_matrix("y", y, (routing.pairs, adapters.out_features))
    _check_matrix("out", out, (routing.tokens, adapters.out_features))
    _check_weight(pair_weight, routing)
    if routing.scratch is None:
        reference.expand_sum(out, y, shrunk, adapters, routing, pair_weight)
    else:
        _check_triton(y, adapters)
        _triton().expand_sum(out, y, shrunk, adapters, routing, pair_weight)


def _triton() -> Any:
    """Import the Triton back end when it is asked for: the reference must run where there is no Triton."""
    try:
        from loractl_kernels._triton import moe
    except ImportError as error:
        raise BackendError(f"the Triton back end needs the package triton: {error}") from error
    return moe


def _check_layer(adapters: Adapters, routing: Routing) -> None:
    if (adapters.slots, adapters.experts) != (routing.slots, routing.experts):
        expected = f"[{routing.slots}, {routing.experts}, rank, in_features] as the routing says"
        raise ShapeError("a", expected=expected, found=tuple(adapters.a[0].shape))


def _check_matrix(name: str, matrix: Tensor, shape: tuple[int, int]) -> None:
    if tuple(matrix.shape) != shape or (matrix.shape[1] > 1 and matrix.stride(1) != 1):
        raise ShapeError(name, expected=f"{list(shape)} with contiguous rows", found=tuple(matrix.shape))


def _check_rows(name: str, rows: Tensor | None, routing: Routing) -> None:
    if rows is not None and tuple(rows.shape) != (routing.pairs,):
        raise ShapeError(name, expected=f"[{routing.pairs}]", found=tuple(rows.shape))
    if rows is not None and rows.dtype != torch.int32:
        raise DtypeError(name, expected="int32", found=str(rows.dtype))


def _check_weight(weight: Tensor | None, routing: Routing) -> None:
    if weight is not None and (weight.numel() != routing.pairs or not weight.is_contiguous()):
        raise ShapeError("pair_weight", expected=f"[{routing.pairs}], contiguous", found=tuple(weight.shape))


def _check_triton(operand: Tensor, adapters: Adapters) -> None:
    if operand.dtype not in _TRITON_DTYPES:
        raise DtypeError("operands", expected="bfloat16 or float16", found=str(operand.dtype))
    if operand.dtype != adapters.a[0].dtype:
        raise DtypeError("a and b", expected=f"{operand.dtype} like the operand", found=str(adapters.a[0].dtype))
    if adapters.rank > MAX_RANK:
        raise BackendError(f"the Triton kernels take ranks up to {MAX_RANK}, and this stack has {adapters.rank}")
