"""Warming up runs a batch of every variant that serving can need, whatever top_k and the largest batch are."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from kernels.cases import Case, make_layer

from loractl_kernels import ops
from loractl_kernels._triton.configs import BUCKETS, bucket_of
from loractl_kernels.operands import FEW_PAIRS, RANKED_PAIRS, SMALL_PAIRS, Routing, Scratch, Shrunk, by_pair_bound
from loractl_kernels.reference import Gating
from loractl_kernels.warmup import warm

PLANNERS = (FEW_PAIRS, 256, RANKED_PAIRS)  # each of up to so many pairs is a variant of its own
SIDE_PAIRS = 1024
OPERATIONS = ("plan", "shrink", "expand_add", "expand_activate", "expand_sum")


def regime_of(pairs: int) -> str:
    return "small" if pairs <= SMALL_PAIRS else "tiled"


def variant_of(kernel: str, pairs: int, experts: int) -> tuple[object, ...]:
    regime = regime_of(pairs)
    return kernel, bucket_of(f"{kernel}_{regime}", pairs), regime, pairs <= by_pair_bound(experts)


def plan_of(pairs: int, experts: int, *, side: bool) -> tuple[object, ...]:
    if pairs <= by_pair_bound(experts):
        return ("plan", 0)
    return ("plan", next((bound for bound in PLANNERS if pairs <= bound), None), regime_of(pairs), side)


class Launches:
    """In place of the kernels: which variants were asked for."""

    def __init__(self) -> None:
        self.found: set[tuple[object, ...]] = set()
        self.sizes: set[int] = set()

    def note(self, kernel: str, routing: Routing, *rest: object) -> Shrunk:
        self.found.add((*variant_of(kernel, routing.pairs, routing.experts), routing.side, *rest))
        return Shrunk(torch.empty(0))

    def plan(self, routing: Routing) -> Routing:
        self.sizes.add(routing.pairs)
        self.found.add(plan_of(routing.pairs, routing.experts, side=routing.side))
        assert int(routing.token_slot.max()) == -1
        assert not routing.slot_enabled.any()
        return routing

    def shrink(self, x, adapters, routing, row_of_pair, *, is_second):
        is_per_token = x.shape[0] == routing.tokens and routing.top_k > 1
        return self.note("shrink", routing, adapters.in_features, is_per_token, row_of_pair is not None, is_second)

    def expand_add(self, y, shrunk, adapters, routing, pair_weight):
        self.note("expand", routing, adapters.in_features, pair_weight is not None)

    def expand_sum(self, out, y, shrunk, adapters, routing, pair_weight):
        self.note("sum", routing, adapters.in_features, pair_weight is not None)
        self.expand_add(y, shrunk, adapters, routing, pair_weight)

    def expand_activate(self, out, y, shrunk, adapters, routing, gating, row_of_pair):
        self.note("activate", routing, adapters.in_features, row_of_pair is not None)


def warmed(
    monkeypatch, *, top_k: int, max_tokens: int, experts: int = 4, has_rows: bool = False, is_fused: bool = True
) -> Launches:
    launches = Launches()
    monkeypatch.setattr(ops, "_triton", lambda: SimpleNamespace(**{n: getattr(launches, n) for n in OPERATIONS}))
    layer = make_layer(Case(tokens=1, top_k=1, experts=experts, hidden=24, intermediate=16, rank=4))
    scratch = Scratch.allocate(
        max_tokens=max_tokens, top_k=top_k, experts=experts, slots=3, max_columns=4, device="cpu"
    )
    gating: Gating | None = layer.gating if is_fused else None
    warm(
        layer.w13, layer.w2, top_k=top_k, ids_dtype=torch.int32, scratch=scratch, gating=gating,
        side_pairs=SIDE_PAIRS if is_fused else 0, has_rows=has_rows,
    )  # fmt: skip
    return launches


@pytest.mark.parametrize("is_fused", [True, False])
def test_every_bucket_of_every_kernel_is_touched(monkeypatch, is_fused):
    found = {entry[:3] for entry in warmed(monkeypatch, top_k=4, max_tokens=8192, is_fused=is_fused).found}

    wanted = {
        (kernel, bucket, regime)
        for kernel in ("shrink", "expand", *(("activate", "sum") if is_fused else ()))
        for regime in ("small", "tiled")
        for bucket in BUCKETS[f"{kernel}_{regime}"]
    }
    assert wanted <= found
    assert {entry[0] for entry in found - wanted} == {"plan"}


@pytest.mark.parametrize("has_rows", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 5, 20, 100, 750, 1366, 4096])
@pytest.mark.parametrize("experts", [4, 20, 128])
@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 6, 8, 10])
def test_no_batch_that_fits_meets_a_variant_for_the_first_time(monkeypatch, top_k, experts, max_tokens, has_rows):
    launches = warmed(monkeypatch, top_k=top_k, experts=experts, max_tokens=max_tokens, has_rows=has_rows)

    for tokens, side in itertools.product(range(1, max_tokens + 1), (False, True)):
        pairs = tokens * top_k
        if side and pairs > SIDE_PAIRS:
            continue
        served = {
            plan_of(pairs, experts, side=side),
            (*variant_of("shrink", pairs, experts), side, 24, top_k > 1, False, False),
            (*variant_of("shrink", pairs, experts), side, 16, False, has_rows, True),
            (*variant_of("activate", pairs, experts), side, 24, has_rows),
            (*variant_of("expand", pairs, experts), side, 16, True),
            (*variant_of("sum", pairs, experts), side, 16, True),
        }
        assert served <= launches.found, pairs
    assert max(launches.sizes) <= max_tokens * top_k
