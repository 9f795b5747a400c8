"""Run every kernel on small shapes, each result held against a reference, for compute-sanitizer to watch.

With ``kernels`` on PYTHONPATH and a CUDA GPU: once by itself, which fills Triton's cache, then
``PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 --tool memcheck python
kernels/benchmarks/sanitize.py``, and the same with ``--tool racecheck``. Words behind it choose the cases whose names
have one of them: ``by-pair``, ``planned-by-ranks``, ``dense``. Operands and references are made on the CPU, so that
hardly a kernel runs that is not ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from loractl_kernels import dense, expert_sort, grouped, operands, ops
from loractl_kernels.cases import Case, Layer, make_layer
from loractl_kernels.dense import DenseScratch, add_lora_linear, padded_columns
from loractl_kernels.expert_sort import ExpertSort, sort_by_expert
from loractl_kernels.operands import Adapters
from loractl_kernels.ops import Backend
from loractl_kernels.reference import Gate
from loractl_kernels.selfcheck import Outputs, check_accuracy, outputs_of, scratch_for, unwritten

ODD = Case(
    tokens=0, top_k=3, experts=5, slots=4, hidden=264, intermediate=136, rank=24, gate=Gate.SWIGLU_OAI,
    has_mixed_ranks=True, off_slots=(2,), stale_share=0.1, missing_share=0.1, padding=8,
)  # fmt: skip
MOE = (
    ODD,
    replace(
        ODD, top_k=2, rank=16, slices=2, dtype=torch.float16, gate=Gate.SILU, has_mixed_ranks=False,
        ids_dtype=torch.int64,
    ),
)  # fmt: skip
"""Every batch of `batches` is run of each."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer with adapters: its outputs' columns, slice by slice; each slot's true rank if they are given."""

    outs: tuple[int, ...]
    rank: int
    dtype: torch.dtype
    ranks: tuple[int, ...] | None = None
    slots: int = 3
    in_features: int = 264


LINEAR = (Linear((264,), 24, torch.bfloat16, ranks=(24, 12, 1)), Linear((72, 24, 40, 8), 16, torch.float16))
TOP_K = 3
"""Of the batches that are sorted by expert: their sizes are the largest of each variant, and one beyond."""
TILE = grouped.GemmLaunch(block_m=64, block_n=64, block_k=32, group_m=2)
SLACK = {torch.bfloat16: 2.0**-5, torch.float16: 2.0**-8}
"""How far a linear layer or a GEMM may be from its reference, absolutely and relatively: eight roundings of about 1."""


def cases(device: str) -> dict[str, Callable[[], list[str]]]:
    """Return every case by its name: what runs it and returns what is wrong."""
    found: dict[str, Callable[[], list[str]]] = {}
    for case in MOE:
        for name, tokens in batches(case).items():
            chosen = replace(case, tokens=tokens, seed=tokens)
            found[f"moe {case.gate} {name}"] = partial(run_moe, chosen, device)
    for layer in LINEAR:
        for name, tokens in linear_batches().items():
            found[f"dense {len(layer.outs)}-slice {name}"] = partial(run_linear, layer, tokens, device)
    for case in MOE:
        chosen = replace(case, tokens=operands.SMALL_PAIRS // case.top_k + 1, gate=Gate.SILU)
        found[f"gemm {case.slices}-slice"] = partial(run_gemm, chosen, device)
    for tokens in (0, 1, 21, 85, expert_sort.RANKED_PAIRS // TOP_K, expert_sort.RANKED_PAIRS // TOP_K + 1):
        found[f"sort M{tokens}"] = partial(run_sort, tokens, device)
    return found


def batches(case: Case) -> dict[str, int]:
    """Return the tokens of the smallest and the largest batch of every way to plan it and to shrink it, by name."""
    ways = {
        "by-pair": operands.by_pair_bound(case.experts),
        "planned-by-one-program": operands.FEW_PAIRS,
        "planned-by-ranks": operands.RANKED_PAIRS,
        "planned-by-counts": operands.SMALL_PAIRS,
    }
    found, least = {"empty": 0}, 1
    for way, pairs in ways.items():
        found |= {f"{way} M{tokens}": tokens for tokens in (least, pairs // case.top_k)}
        least = pairs // case.top_k + 1
    return found | {f"tiled M{least}": least}


def linear_batches() -> dict[str, int]:
    """Return the tokens of the same for a linear layer: small, planned, and planned with sums that are not split."""
    small = (1, *(size for size in dense.SMALL_BUCKETS if size <= dense.SMALL_TOKENS))
    planned, unsplit = dense.SMALL_TOKENS + 1, dense.SPLIT_TOKENS + 1
    return {f"small M{tokens}": tokens for tokens in small} | {
        "empty": 0, f"planned M{planned}": planned, f"unsplit M{unsplit}": unsplit
    }  # fmt: skip


def run_moe(case: Case, device: str) -> list[str]:
    """Run the operations of a MoE layer; then with rows in another order."""
    layer = make_layer(case)
    there = moved(layer, device)
    on_device = outputs_of(there, Backend.TRITON)
    found = Outputs(on_device.w13.cpu(), on_device.activation.cpu(), on_device.w2.cpu(), on_device.total.cpu())
    wrong = [finding.name for finding in check_accuracy(layer, found) if not finding.passed]
    return wrong + differences(layer, there, found.activation)


def differences(layer: Layer, there: Layer, activation: Tensor) -> list[str]:
    """Return what is not the same, bit by bit, with rows in another order.

    Args:
        layer: The layer on the CPU.
        there: The layer on the device.
        activation: [pairs, intermediate] what is right, on the CPU. Pairs without an expert are given no row here.
    """
    has_expert, device = layer.topk_ids.flatten() >= 0, there.x.device
    rows = torch.randperm(has_expert.numel(), generator=torch.Generator().manual_seed(layer.case.seed))
    pair_of_row, row_of_pair = torch.argsort(rows), torch.where(has_expert, rows, -1).int().to(device)
    x, y = layer.x[pair_of_row // layer.case.top_k].to(device), layer.y13[pair_of_row].to(device)
    out = unwritten(there.act)
    routing = ops.route(
        there.topk_ids, there.token_slot, there.slot_enabled,
        experts=layer.case.experts, slots=layer.case.slots, scratch=scratch_for(there),
    )  # fmt: skip
    shrunk = ops.shrink(x, there.w13, routing, row_of_pair=row_of_pair)
    ops.expand_activate(out, y, shrunk, there.w13, routing, there.gating, row_of_pair=row_of_pair)
    ops.shrink(out, there.w2, routing, row_of_pair=row_of_pair, is_second=True)
    found = out.cpu()[rows]
    is_same = torch.equal(found[has_expert], activation[has_expert]) and bool(found[~has_expert].isnan().all())
    return [] if is_same else ["activation of rows in another order"]


def run_gemm(case: Case, device: str) -> list[str]:
    """Run the base's GEMMs of both projections with the deltas in them."""
    layer = make_layer(case)
    there, random, wrong = moved(layer, device), torch.Generator().manual_seed(case.seed), list[str]()
    mapping = (layer.topk_ids, layer.token_slot, layer.slot_enabled)
    here = ops.route(*mapping, experts=case.experts, slots=case.slots, backend=Backend.REFERENCE)
    routing = ops.route(
        there.topk_ids, there.token_slot, there.slot_enabled,
        experts=case.experts, slots=case.slots, scratch=scratch_for(there), backend=Backend.TRITON,
    )  # fmt: skip
    tiles = grouped.tiles_of(there.topk_ids, case.experts, TILE.block_m)
    has_expert = layer.topk_ids.flatten() >= 0
    for name, x, weight in (("w13", layer.x, None), ("w2", layer.act, layer.weight)):
        adapters, stacks = getattr(layer, name), getattr(there, name)
        w = torch.randn(case.experts, adapters.out_features, adapters.in_features, generator=random)
        w = (w * adapters.in_features**-0.5).to(case.dtype)
        y, found = torch.empty(2, here.pairs, adapters.out_features, dtype=case.dtype)
        on_device = found.to(device)
        shrunk = ops.shrink(x.to(device), stacks, routing, is_second=name == "w2")
        grouped.gemm_with_deltas(
            on_device, x.to(device), w.to(device), tiles, shrunk, stacks, routing, TILE,
            pair_weight=None if weight is None else weight.to(device),
        )  # fmt: skip
        grouped.gemm_reference(y, x, w, ops.shrink(x, adapters, here), adapters, here, pair_weight=weight)
        difference = (on_device.cpu() - y).abs() - SLACK[case.dtype] * (1 + y.abs())
        wrong += [] if bool((difference[has_expert] <= 0).all()) else [name]
    return wrong


def moved(layer: Layer, device: str) -> Layer:
    """Return the layer on `device`, its rows as far apart as they were."""

    def adapters(there: Adapters) -> Adapters:
        ranks = None if there.ranks is None else there.ranks.to(device)
        return Adapters(tuple(a.to(device) for a in there.a), tuple(b.to(device) for b in there.b), ranks)

    def rows(matrix: Tensor) -> Tensor:
        count, columns = matrix.shape
        whole = matrix.as_strided((count, matrix.stride(0)), (matrix.stride(0), 1))
        return whole.to(device)[:, :columns]

    return replace(
        layer, x=rows(layer.x), y13=rows(layer.y13), act=rows(layer.act), y2=rows(layer.y2),
        w13=adapters(layer.w13), w2=adapters(layer.w2), topk_ids=layer.topk_ids.to(device),
        token_slot=layer.token_slot.to(device), slot_enabled=layer.slot_enabled.to(device),
        weight=layer.weight.to(device),
    )  # fmt: skip


def run_linear(layer: Linear, tokens: int, device: str) -> list[str]:
    """Run a linear layer."""
    random = torch.Generator().manual_seed(tokens)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=random) * scale).to(layer.dtype)

    x, y = normal(tokens, layer.in_features), normal(tokens, sum(layer.outs))
    a = tuple(normal(layer.slots, 1, layer.rank, layer.in_features, scale=layer.in_features**-0.5) for _ in layer.outs)
    b = tuple(normal(layer.slots, 1, out, layer.rank, scale=layer.rank**-0.5) for out in layer.outs)
    slot = torch.randint(-1, layer.slots + 1, (tokens,), generator=random)
    ranks = None if layer.ranks is None else torch.tensor(layer.ranks, dtype=torch.int32)
    scratch = DenseScratch.allocate(
        max_tokens=tokens, slots=layer.slots, max_columns=padded_columns(len(layer.outs), layer.rank), device=device
    )
    scratch.shrunk.fill_(float("nan"))
    found = y.to(device, copy=True)
    add_lora_linear(
        found, x.to(device), tuple(one.to(device) for one in a), tuple(one.to(device) for one in b), slot.to(device),
        scale=0.5, ranks=None if ranks is None else ranks.to(device), scratch=scratch,
    )  # fmt: skip
    add_lora_linear(y, x, a, b, slot, scale=0.5, ranks=ranks, backend=Backend.REFERENCE)
    slack = SLACK[layer.dtype]
    return [] if torch.allclose(found.cpu().float(), y.float(), atol=slack, rtol=slack) else ["output"]


def run_sort(tokens: int, device: str) -> list[str]:
    """Sort a batch by expert, some of its ids no expert's."""
    random, experts = torch.Generator().manual_seed(tokens), 5
    ids = torch.randint(-1, experts + 1, (tokens, TOP_K), generator=random)
    weights = torch.rand(tokens, TOP_K, generator=random)
    found = sort_by_expert(ids.to(device), weights.to(device), experts=experts)
    wanted = sort_by_expert(ids, weights, experts=experts, backend=Backend.REFERENCE)
    names = [field.name for field in fields(ExpertSort)]
    return [name for name in names if not torch.equal(getattr(found, name).cpu(), getattr(wanted, name))]


def main(arguments: list[str], device: str = "cuda") -> int:
    """Run the cases that are named, or all, and return 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="run the cases whose names have one of these; all if none is given")
    words = parser.parse_args(arguments).words
    chosen = {name: run for name, run in cases(device).items() if not words or any(word in name for word in words)}
    if not chosen:
        parser.error(f"no case has any of {words} in its name")
    has_failed = False
    for name, run in chosen.items():
        wrong = run()
        has_failed |= bool(wrong)
        print(f"WRONG {name}: {', '.join(wrong)}" if wrong else f"right {name}", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
