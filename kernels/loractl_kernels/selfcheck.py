"""Checks of an installation: each operation of a layer against float64, and the rules that hold bit by bit.

``run(device, quick=True)`` takes well under a minute on a GPU, compiling included. Each check of a case is a `Finding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from loractl_kernels import ops
from loractl_kernels.cases import Case, Layer, make_layer
from loractl_kernels.exact import Expected, expected_layer, routed_delta
from loractl_kernels.operands import Scratch
from loractl_kernels.ops import Backend
from loractl_kernels.reference import Gate

_OUTPUTS: Final = ("w13", "activation", "w2", "total")
_INT_POISON: Final = -0x5A5A5A5B


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of one case found.

    Attributes:
        name: The check, and for accuracy the output.
        case: `Case.label`.
        passed: Whether it holds.
        worst: For accuracy, the error that comes nearest to its bound or is furthest beyond it; for the rest, how many
            elements differ.
        bound: The largest `worst` allowed.
    """

    name: str
    case: str
    passed: bool
    worst: float
    bound: float


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What the operations of a layer wrote.

    Attributes:
        w13: [pairs, 2 * intermediate], of `expand_add` into gate and up.
        activation: [pairs, intermediate], of `expand_activate`.
        w2: [pairs, hidden], of `expand_add` with weights.
        total: [tokens, hidden], of `expand_sum`.
    """

    w13: Tensor
    activation: Tensor
    w2: Tensor
    total: Tensor


def run(device: torch.device | str, *, quick: bool, backend: Backend | None = None) -> list[Finding]:
    """Check the operations on `device`, on few shapes or on many.

    Args:
        device: Where to run.
        quick: Whether a handful of cases is enough.
        backend: Who computes; None for Triton on a GPU and the reference on a CPU.
    """
    kind = torch.device(device).type
    chosen = backend or (Backend.TRITON if kind == "cuda" else Backend.REFERENCE)
    return [finding for case in cases_for(kind, quick=quick) for finding in check_case(case, device, chosen)]


def check_case(case: Case, device: torch.device | str, backend: Backend) -> Iterator[Finding]:
    """Yield what every check that is meant for `case` and `backend` finds."""
    layer = make_layer(case, device)
    found = outputs_of(layer, backend)
    yield from check_accuracy(layer, found)
    for check in (check_base_rows, check_isolation, check_scratch, check_rows):
        yield check(layer, backend, found)
    if case.is_integer:
        yield check_integers(layer, backend, found)
    if backend is Backend.TRITON:
        yield check_alone(layer, backend, found)
        if torch.device(device).type == "cuda" and case.tokens:
            yield check_graph(layer, backend, found)


def scratch_for(layer: Layer) -> Scratch:
    """Return a scratch for `layer` that holds NaN, and integers that are no index."""
    scratch = Scratch.allocate(
        max_tokens=layer.case.tokens,
        top_k=layer.case.top_k,
        experts=layer.case.experts,
        slots=layer.case.slots,
        max_columns=max(layer.w13.columns, layer.w2.columns),
        device=layer.x.device,
    )
    scratch.ints.fill_(_INT_POISON)
    scratch.shrunk.fill_(float("nan"))
    return scratch


def outputs_of(
    layer: Layer, backend: Backend, *, scratch: Scratch | None = None, rows: Tensor | None = None
) -> Outputs:
    """Run all operations of a layer.

    Args:
        layer: The operands; they are not changed.
        backend: Who computes.
        scratch: What the Triton back end works in; None for one of its own.
        rows: [pairs] int32 permutation: ``x``, ``act``, ``y13`` and ``activation`` then have pair p in row ``rows[p]``.
            ``x`` is given per pair if so.
    """
    empty = Outputs(*(unwritten(t) for t in (layer.y13, layer.act, layer.y2, layer.x)))
    write_outputs(empty, layer, backend, scratch, rows)
    return empty


def write_outputs(
    out: Outputs, layer: Layer, backend: Backend, scratch: Scratch | None = None, rows: Tensor | None = None
) -> None:
    """Run all operations of a layer into memory that is there; see `outputs_of`."""
    case = layer.case
    if backend is Backend.TRITON and scratch is None:
        scratch = scratch_for(layer)
    routing = ops.route(
        layer.topk_ids, layer.token_slot, layer.slot_enabled,
        experts=case.experts, slots=case.slots, scratch=scratch, backend=backend,
    )  # fmt: skip
    x, act, y13 = layer.x, layer.act, layer.y13
    if rows is not None:
        order = torch.argsort(rows)
        x, act, y13 = x[order // case.top_k], act[order], y13[order]
    first = ops.shrink(x, layer.w13, routing, row_of_pair=rows)
    second = ops.shrink(act, layer.w2, routing, row_of_pair=rows, is_second=True)
    out.w13.copy_(layer.y13)
    ops.expand_add(out.w13, first, layer.w13, routing)
    ops.expand_activate(out.activation, y13, first, layer.w13, routing, layer.gating, row_of_pair=rows)
    out.w2.copy_(layer.y2)
    ops.expand_sum(out.total, out.w2, second, layer.w2, routing, pair_weight=layer.weight)
    out.w2.copy_(layer.y2)
    ops.expand_add(out.w2, second, layer.w2, routing, pair_weight=layer.weight)


def unwritten(like: Tensor) -> Tensor:
    """Return NaN in the shape of `like`, its rows as far apart."""
    padded = max(like.stride(0), like.shape[1])
    whole = torch.full((like.shape[0], padded), float("nan"), dtype=like.dtype, device=like.device)
    return whole[:, : like.shape[1]]


def check_accuracy(layer: Layer, found: Outputs) -> Iterator[Finding]:
    """Compare each output with float64; see `loractl_kernels.exact` for the bound."""
    wanted = expected_layer(layer)
    for name in _OUTPUTS:
        yield _within(f"accuracy of {name}", layer, getattr(found, name), getattr(wanted, name))


def check_base_rows(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """Rows without an adapter have the bits that they have in a batch without any adapter."""
    base = outputs_of(replace(layer, token_slot=torch.full_like(layer.token_slot, -1)), backend)
    is_base = layer.keys() < 0
    base = replace(base, w13=layer.y13, w2=layer.y2)
    return _same("base rows", layer, found, base, is_base, _all_of_token(is_base, layer))


def check_isolation(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """Other weights in one slot change no row of another."""
    slots = layer.keys() // layer.case.experts
    changed = int(slots.max()) if bool((slots >= 0).any()) else 0
    other = outputs_of(layer.with_slot_changed(changed), backend)
    is_other = slots != changed
    return _same("isolation", layer, found, other, is_other, _all_of_token(is_other, layer))


def check_scratch(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """What a scratch holds from a batch with another mapping, or from a shorter one, changes nothing."""
    scratch = scratch_for(layer) if backend is Backend.TRITON else None
    outputs_of(remapped(layer), backend, scratch=scratch)
    shorter = torch.arange(-(-layer.case.tokens // 5), device=layer.x.device)
    outputs_of(layer.take(shorter), backend, scratch=scratch)
    return _same("scratch", layer, found, outputs_of(layer, backend, scratch=scratch))


def check_rows(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """A permutation of the rows of inputs and outputs moves them and changes no bit."""
    pairs = layer.topk_ids.numel()
    random = torch.Generator().manual_seed(layer.case.seed)
    rows = torch.randperm(pairs, generator=random).to(layer.x.device)
    moved = outputs_of(layer, backend, rows=rows.int())
    moved = replace(moved, activation=moved.activation[rows])
    return _same("row_of_pair", layer, found, moved)


def check_alone(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """A token's results have the same bits in a batch of its own, in a part of the batch, and in the whole."""
    tokens, device, top_k = layer.case.tokens, layer.x.device, layer.case.top_k
    sets = [[token] for token in sorted({0, tokens // 3, tokens - 1})] if tokens else []
    sets += [list(range(tokens - 1, -1, -stride)) for stride in (2, 7) if tokens > stride]
    differing = 0.0
    for chosen in sets:
        index = torch.tensor(chosen, device=device)
        pairs = (index[:, None] * top_k + torch.arange(top_k, device=device)).flatten()
        wanted = Outputs(found.w13[pairs], found.activation[pairs], found.w2[pairs], found.total[index])
        differing += _same("alone", layer, outputs_of(layer.take(index), backend), wanted).worst
    return Finding("alone", layer.case.label, differing == 0, differing, 0.0)


def check_integers(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """Small integers come out exactly: every product and sum is exact, so only the last rounding is left."""
    case, wanted = layer.case, expected_layer(layer)
    w13, w2 = (exact.value.to(case.dtype) for exact in (wanted.w13, wanted.w2))
    delta, _ = routed_delta(layer.x, layer.w13, layer, is_interleaved=layer.gating.is_interleaved)
    gate_up = (layer.y13.double() + delta).to(case.dtype)
    base = replace(layer, y13=gate_up, token_slot=torch.full_like(layer.token_slot, -1))
    is_routed = (layer.topk_ids >= 0).unsqueeze(-1)
    terms = torch.where(is_routed, w2.double().view(case.tokens, case.top_k, case.hidden), 0.0)
    exact = Outputs(w13, outputs_of(base, backend).activation, w2, terms.sum(1).to(case.dtype))
    return _same("integers", layer, _positive_zeros(found), _positive_zeros(exact))


def check_graph(layer: Layer, backend: Backend, found: Outputs) -> Finding:
    """A captured graph, replayed with another mapping in its inputs, gives what a launch with that mapping does."""
    other = remapped(layer)
    static = replace(
        layer, topk_ids=layer.topk_ids.clone(), token_slot=layer.token_slot.clone(), y2=layer.y2.clone()
    )  # fmt: skip
    out, scratch = outputs_of(static, backend), scratch_for(layer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        write_outputs(out, static, backend, scratch)
    differing = 0.0
    for mapping, expected in ((other, outputs_of(other, backend)), (layer, found)):
        static.topk_ids.copy_(mapping.topk_ids)
        static.token_slot.copy_(mapping.token_slot)
        static.y2.copy_(mapping.y2)
        graph.replay()
        differing += _same("graph", layer, out, expected).worst
    return Finding("graph", layer.case.label, differing == 0, differing, 0.0)


def remapped(layer: Layer) -> Layer:
    """Return the layer with its tokens' experts and slots the other way round; what is missing moves along."""
    topk_ids = layer.topk_ids.flip(0).contiguous()
    y2 = torch.where((topk_ids.flatten() < 0)[:, None], float("nan"), layer.y2.nan_to_num(0.5))
    return replace(layer, topk_ids=topk_ids, token_slot=layer.token_slot.flip(0).contiguous(), y2=y2)


def cases_for(kind: str, *, quick: bool) -> Sequence[Case]:
    """Return the cases of `run`, for the type of a device: shapes of real models for a GPU, small ones for a CPU."""
    odd = replace(ODD_CASE, tokens=37, slices=2, gate=Gate.SILU)
    integer = replace(ODD_CASE, is_integer=True, tokens=47, rank=16)
    if kind != "cuda":
        return [ODD_CASE, odd, integer] if quick else [*_variants(ODD_CASE), *_variants(odd), integer]
    models = [replace(case, tokens=tokens) for case in MODEL_CASES[:2] for tokens in (1, 33, 300)]
    if quick:
        return [odd, integer, replace(integer, tokens=300), *models]
    return [
        odd, integer, replace(integer, tokens=300, slices=2, gate=Gate.SILU),
        *(replace(case, tokens=tokens) for case in MODEL_CASES for tokens in (0, 1, 7, 32, 65, 257, 1024, 4096)),
        *(variant for case in MODEL_CASES[:2] for variant in _variants(replace(case, tokens=129))),
        *(replace(MODEL_CASES[0], rank=rank, tokens=tokens) for rank in (1, 4, 8, 64, 128) for tokens in (5, 100)),
        *(replace(case, dtype=torch.float16, tokens=tokens) for case in MODEL_CASES for tokens in (3, 200)),
    ]  # fmt: skip


def _variants(case: Case) -> Iterator[Case]:
    """Yield the case once for each oddity."""
    yield replace(case, has_mixed_ranks=False, off_slots=(), stale_share=0.0, missing_share=0.0, padding=0)
    yield replace(case, base_share=0.5, has_mixed_ranks=True, off_slots=(1,), stale_share=0.1, missing_share=0.1)
    yield replace(case, is_skewed=True, ids_dtype=torch.int64, padding=24)
    yield replace(case, expert=case.experts - 1)
    yield replace(case, is_sparse=True, has_shared_a=True)
    yield replace(case, base_share=1.0)


def _within(name: str, layer: Layer, found: Tensor, wanted: Expected) -> Finding:
    if found.numel() == 0:
        return Finding(name, layer.case.label, passed=True, worst=0.0, bound=0.0)
    is_unset = wanted.value.isnan() & found.isnan()
    error = torch.where(is_unset, 0.0, (found.double() - wanted.value).abs())
    bound = torch.where(is_unset, 0.0, wanted.bound)
    excess = torch.where(error <= bound, error / bound.clamp(min=1e-300), float("inf"))
    passed = bool((error <= bound).all())
    at = int(excess.flatten().argmax()) if passed else int((~(error <= bound)).flatten().int().argmax())
    return Finding(name, layer.case.label, passed, float(error.flatten()[at]), float(bound.flatten()[at]))


def _same(
    name: str, layer: Layer, found: Outputs, wanted: Outputs, pairs: Tensor | None = None, tokens: Tensor | None = None
) -> Finding:
    """Count the elements whose bits differ, in the rows of pairs and tokens that are chosen."""
    differing = 0
    for output in _OUTPUTS:
        chosen = tokens if output == "total" else pairs
        left, right = getattr(found, output), getattr(wanted, output)
        if chosen is not None:
            left, right = left[chosen], right[chosen]
        differing += int((_bits(left) != _bits(right)).sum())
    return Finding(name, layer.case.label, differing == 0, float(differing), 0.0)


def _bits(values: Tensor) -> Tensor:
    """Return the values' bits; all NaN count as one."""
    one_nan = torch.where(values.isnan(), float("nan"), values).contiguous()
    return one_nan.view(torch.int32 if values.dtype == torch.float32 else torch.int16)


def _positive_zeros(outputs: Outputs) -> Outputs:
    return Outputs(*(getattr(outputs, name) + 0.0 for name in _OUTPUTS))


def _all_of_token(is_pair: Tensor, layer: Layer) -> Tensor:
    """Return [tokens] whether all pairs of a token are marked."""
    return is_pair.view(layer.case.tokens, layer.case.top_k).all(dim=1)


ODD_CASE: Final = Case(
    tokens=29, top_k=3, experts=5, slots=4, hidden=104, intermediate=72, rank=12, gate=Gate.SWIGLU_OAI,
    has_mixed_ranks=True, off_slots=(2,), stale_share=0.1, missing_share=0.1, padding=8,
)  # fmt: skip
"""Everything that can be odd, at once, on no power of two."""

MODEL_CASES: Final = (
    Case(1, top_k=4, experts=32, slots=8, hidden=2880, intermediate=2880, rank=32, gate=Gate.SWIGLU_OAI),
    Case(1, top_k=8, experts=128, slots=8, hidden=2048, intermediate=768, rank=16, slices=2),
    Case(1, top_k=6, experts=64, slots=4, hidden=2048, intermediate=1408, rank=16, slices=2),
)
"""gpt-oss-20b, Qwen3-30B-A3B and DeepSeek-V2-Lite."""
