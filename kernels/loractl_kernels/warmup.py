"""Compile every variant of the kernels that a layer can need, before it serves.

What a kernel is compiled for depends on the layer and on the bucket of the batch's size, so one batch of each bucket is
enough. Triton keeps what it compiled on disk: a second start takes a second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loractl_kernels import ops
from loractl_kernels.operands import (
    FEW_PAIRS,
    RANKED_PAIRS,
    SMALL_PAIRS,
    Adapters,
    Routing,
    Scratch,
    by_pair_bound,
)
from loractl_kernels.reference import Gating

BOUNDS = (FEW_PAIRS, 256, 1024, RANKED_PAIRS, SMALL_PAIRS, 8192)
"""Largest batch of every bucket and every way to plan, in pairs, but of the last; see
`loractl_kernels._triton.configs.BUCKETS`."""


def batch_tokens(top_k: int, max_pairs: int, experts: int) -> tuple[int, ...]:
    """Return how many tokens the batches have that between them need every variant up to `max_pairs` pairs."""
    largest = {min(bound, max_pairs) // top_k for bound in (*BOUNDS, by_pair_bound(experts))}
    beyond = BOUNDS[-1] // top_k + 1
    return tuple(
        sorted({tokens for tokens in largest if tokens} | ({beyond} if beyond * top_k <= max_pairs else set()))
    )


def warm(
    w13: Adapters, w2: Adapters, *, top_k: int, ids_dtype: torch.dtype, scratch: Scratch, gating: Gating | None,
    side_pairs: int = 0, has_rows: bool = False,
) -> None:  # fmt: skip
    """Run a layer's operations on a batch of every bucket, without an adapter in it, so that nothing is computed.

    Args:
        w13: Stacks of gate and up.
        w2: Stacks of the down projection.
        top_k: Experts a token goes to.
        ids_dtype: dtype of the experts' ids.
        scratch: What serving will use.
        gating: The activation that takes the deltas of gate and up, and so does the sum those of the down projection;
            None where deltas are added by themselves.
        side_pairs: Up to how many pairs a batch can run on two streams; it can run on one as well.
        has_rows: Whether rows of gate and up lie in another order than the pairs.
    """
    device, dtype = w13.a[0].device, w13.a[0].dtype
    batches = batch_tokens(top_k, scratch.max_pairs, w13.experts)
    most = max(batches) * top_k
    wide = torch.zeros(most, max(w13.out_features, w2.out_features), dtype=dtype, device=device)
    narrow = torch.zeros(most, max(w13.in_features, w2.in_features), dtype=dtype, device=device)
    enabled = torch.zeros(w13.slots + 1, dtype=torch.int32, device=device)

    def rows(memory: Tensor, count: int, columns: int) -> Tensor:
        return memory.view(-1)[: count * columns].view(count, columns)

    for tokens, side in [(some, side) for some in batches for side in {False, some * top_k <= side_pairs}]:
        count = tokens * top_k
        routing: Routing = ops.route(
            torch.zeros(tokens, top_k, dtype=ids_dtype, device=device),
            torch.full((tokens,), -1, dtype=torch.int32, device=device), enabled, experts=w13.experts, slots=w13.slots,
            scratch=scratch, side=side,
        )  # fmt: skip
        order = torch.arange(count, dtype=torch.int32, device=device) if has_rows else None
        weight = torch.zeros(tokens, top_k, device=device)
        gate_up, activated = rows(wide, count, w13.out_features), rows(narrow, count, w2.in_features)
        shrunk = ops.shrink(rows(narrow, tokens, w13.in_features), w13, routing)
        if gating is None:
            ops.expand_add(gate_up, shrunk, w13, routing)
        else:
            ops.expand_activate(activated, gate_up, shrunk, w13, routing, gating, row_of_pair=order)
        shrunk = ops.shrink(activated, w2, routing, row_of_pair=order, is_second=True)
        down = rows(wide, count, w2.out_features)
        if gating is None:
            ops.expand_add(down, shrunk, w2, routing, pair_weight=weight)
        else:
            ops.expand_sum(rows(narrow, tokens, w2.out_features), down, shrunk, w2, routing, pair_weight=weight)
