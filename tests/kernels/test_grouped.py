"""The experts' GEMM with deltas in its epilogue: the kernel's source under the interpreter, and what is refused.

Started by hand it checks the compiled kernel at the tiles that serving uses: ``python test_grouped.py cuda``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from kernels.cases import Case, make_layer

from loractl_kernels import grouped, operands, ops
from loractl_kernels.errors import BackendError, DtypeError, ShapeError
from loractl_kernels.grouped import ExpertTiles, GemmLaunch, gemm_with_deltas, tiles_of
from loractl_kernels.operands import Adapters
from loractl_kernels.ops import Backend
from loractl_kernels.selfcheck import scratch_for

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(600)
SMALL = Case(
    tokens=23, top_k=2, experts=3, slots=4, hidden=72, intermediate=40, rank=12, has_mixed_ranks=True, off_slots=(1,),
    stale_share=0.1, padding=8,
)  # fmt: skip
CASES = {
    "one-slice": SMALL,
    "two-slices": replace(SMALL, slices=2),
    "float16": replace(SMALL, slices=2, dtype=torch.float16, has_mixed_ranks=False),
    "missing-experts": replace(SMALL, missing_share=0.3, ids_dtype=torch.int64),
    "all-base": replace(SMALL, base_share=1.0),
    "one-adapter": replace(SMALL, slots=1, off_slots=(), base_share=0.0, stale_share=0.0),
    "one-expert": replace(SMALL, expert=1),
    "integers": replace(SMALL, is_integer=True),
}
TILE = GemmLaunch(block_m=16, block_n=32, block_k=32, group_m=2)
ON_A_GPU = GemmLaunch(block_m=128, block_n=128, block_k=64, group_m=16, num_warps=8)
SLACK = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # half the distance of two values, of their size
FP32 = 2.0**-20  # error of a sum in fp32, of the sum of what it is made of: chunks keep it far below K roundings


def weights(case: Case, *, device="cpu"):
    random = torch.Generator().manual_seed(case.seed + 1)

    def drawn(rows, columns):
        values = torch.randn(case.experts, rows, columns, generator=random)
        return (values.sign() if case.is_integer else values * columns**-0.5).to(case.dtype).to(device)

    return drawn(2 * case.intermediate, case.hidden), drawn(case.hidden, case.intermediate)


def with_room(tiles: ExpertTiles, pairs: int, rows: int) -> ExpertTiles:
    """As engines have it: the bound is larger than what there is, and what lies there is nothing."""
    spare = tiles.pairs.new_full((rows,), pairs)
    return ExpertTiles(torch.cat([tiles.pairs, spare]), torch.cat([tiles.expert, tiles.expert[:1]]), tiles.padded)


def run(case: Case, device: str, launch: GemmLaunch) -> list[str]:
    """Run both projections, and return what is further from float64 than one rounding, or is not the base's bits."""
    layer = make_layer(case, device)
    wrong: list[str] = []
    routing = ops.route(
        layer.topk_ids, layer.token_slot, layer.slot_enabled,
        experts=case.experts, slots=case.slots, scratch=scratch_for(layer), backend=Backend.TRITON,
    )  # fmt: skip
    tiles = with_room(tiles_of(layer.topk_ids, case.experts, launch.block_m), routing.pairs, launch.block_m)
    has_expert = (layer.topk_ids.flatten() >= 0).cpu()
    for name, x, w, adapters, weight in (
        ("w13", layer.x, weights(case, device=device)[0], layer.w13, None),
        ("w2", layer.act, weights(case, device=device)[1], layer.w2, layer.weight),
    ):
        shrunk = ops.shrink(x, adapters, routing, is_second=name == "w2")
        found = torch.full((routing.pairs, adapters.out_features), float("nan"), dtype=case.dtype, device=device)
        gemm_with_deltas(found, x, w, tiles, shrunk, adapters, routing, launch, pair_weight=weight)
        wanted, slack = expected(x, w, adapters, layer, weight)
        error = (found.double() - wanted).abs().cpu()[has_expert]
        bound = (SLACK[case.dtype] * wanted.abs() + slack).cpu()[has_expert]
        if case.is_integer:
            bound = bound * 0
            wanted_bits = wanted.to(case.dtype).double().cpu()[has_expert]
            error = (found.double().cpu()[has_expert] - wanted_bits).abs()
        if not bool((error <= bound).all()):
            wrong.append(f"{name}: {float((error - bound).max()):.4g} over the bound")
        if not bool(found[~has_expert.to(device)].isnan().all()):
            wrong.append(f"{name}: a pair without a tile was written")
        slots = torch.where(layer.keys() < 0, -1, layer.keys() // case.experts)
        poisoned, is_other = int(slots.max()), slots != slots.max()
        b = tuple(stack.clone() for stack in adapters.b)
        for stack in b:
            stack[max(poisoned, 0)] = float("nan")
        bad = Adapters(adapters.a, b, adapters.ranks)
        again = torch.full_like(found, float("nan"))
        gemm_with_deltas(again, x, w, tiles, shrunk, bad, routing, launch, pair_weight=weight)
        if not torch.equal(again[is_other].nan_to_num(7.0), found[is_other].nan_to_num(7.0)):
            wrong.append(f"{name}: NaN in the weights of one slot reached the rows of another")
    return wrong


def expected(x, w, adapters, layer, weight):
    """Return what is due in float64, [pairs, out_features], and how far from it one rounding of the right sum may be.

    Rank vectors are rounded to the layer's dtype. One that lies between two of its values to within the error of a sum
    in fp32 may be rounded to either; and the sums over K have that error too.
    """
    case, rows, slacks = layer.case, [], []
    keys = layer.keys().tolist()
    for pair, (expert, key) in enumerate(zip(layer.topk_ids.flatten().tolist(), keys, strict=True)):
        row = x[pair if x.shape[0] == len(keys) else pair // case.top_k].double()
        value, slack = w[max(expert, 0)].double() @ row, FP32 * (w[max(expert, 0)].double().abs() @ row.abs())
        if key >= 0:
            slot, at = divmod(key, case.experts)
            rank = adapters.rank if adapters.ranks is None else int(adapters.ranks[slot])
            deltas, unsure = [], []
            for a, b in zip(adapters.a, adapters.b, strict=True):
                own_a, own_b = a[slot, at, :rank].double(), b[slot, at, :, :rank].double()
                vector, error = own_a @ row, FP32 * (own_a.abs() @ row.abs())
                low, high = ((vector + sign * error).to(case.dtype).double() for sign in (-1, 1))
                deltas.append(own_b @ vector.to(case.dtype).double())
                unsure.append(own_b.abs() @ (high - low) + FP32 * (own_b.abs() @ vector.abs()))
            value, slack = value + torch.cat(deltas), slack + torch.cat(unsure)
        scale = 1.0 if weight is None else weight.flatten()[pair].double()
        rows.append(value * scale)
        slacks.append(slack * abs(scale))
    return torch.stack(rows), torch.stack(slacks)


def run_all(device: str) -> dict[str, list[str]]:
    if device == "cuda":
        sizes = {"tokens": 1500, "experts": 8, "hidden": 512, "intermediate": 320, "rank": 16, "top_k": 4}
        return {name: run(replace(case, **sizes), device, ON_A_GPU) for name, case in CASES.items()}
    from kernels.interpreting import mend_bfloat16, spare_searches

    from loractl_kernels._triton import moe

    torch.set_num_threads(1)
    mend_bfloat16()
    spare_searches()
    for module in (operands, moe, grouped):
        for name, pairs in {"BY_PAIR": 0, "RANKED_PAIRS": 4, "SMALL_PAIRS": 8}.items():
            if name in vars(module):
                setattr(module, name, pairs)
    return {name: run(case, device, TILE) for name, case in CASES.items()}


@lru_cache(maxsize=1)
def outcomes() -> dict[str, list[str]]:
    path = os.pathsep.join((str(Path(sys.prefix) / "triton"), str(TESTS)))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, __file__, "cpu"], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_kernel_gives_base_and_deltas(name):
    assert outcomes()[name] == []


@pytest.mark.parametrize("name", ["one-slice", "two-slices", "missing-experts"])
def test_reference_gives_base_and_deltas(name):
    layer = make_layer(CASES[name])
    x, w = layer.x, weights(CASES[name])[0]
    routing = routed(layer)
    found = torch.empty_like(layer.y13)

    gemm_with_deltas(found, x, w, ANY_TILES, ops.shrink(x, layer.w13, routing), layer.w13, routing, TILE)

    has_expert = layer.topk_ids.flatten() >= 0
    wanted, _ = expected(x, w, layer.w13, layer, None)
    torch.testing.assert_close(found[has_expert].double(), wanted[has_expert], rtol=2.0**-7, atol=2.0**-7)


ANY_TILES = ExpertTiles(*(torch.zeros(16, dtype=torch.int32) for _ in range(3)))


def routed(layer, **changes):
    routing = ops.route(
        layer.topk_ids, layer.token_slot, layer.slot_enabled,
        experts=layer.case.experts, slots=layer.case.slots, backend=Backend.REFERENCE,
    )  # fmt: skip
    return replace(routing, **changes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w": torch.zeros(3, 80, 71, dtype=torch.bfloat16)}, ShapeError, "w must be [3, 80, 72] as the stacks say"),
        ({"y": torch.zeros(45, 80, dtype=torch.bfloat16)}, ShapeError, "y must be [46, 80]"),
        ({"x": torch.zeros(22, 72, dtype=torch.bfloat16)}, ShapeError, "x must be [23 or 46, 72]"),
        ({"y": torch.zeros(46, 80)}, DtypeError, "y, w, b must be torch.bfloat16"),
    ],
)
def test_operands_that_disagree_are_refused(change, error, message):
    layer = make_layer(SMALL)
    given = {"y": torch.empty_like(layer.y13), "x": layer.x, "w": weights(SMALL)[0]} | change
    routing = routed(layer)
    shrunk = ops.shrink(layer.x, layer.w13, routing)

    with pytest.raises(error) as refused:
        gemm_with_deltas(given["y"], given["x"], given["w"], ANY_TILES, shrunk, layer.w13, routing, TILE)

    assert message in str(refused.value)


def test_small_batch_is_refused_by_the_kernel():
    layer = make_layer(SMALL)
    routing = routed(layer)
    shrunk = ops.shrink(layer.x, layer.w13, routing)
    on_triton = replace(routing, scratch=scratch_for(layer))

    with pytest.raises(BackendError, match="more than 4096 pairs, and this has rank 12 and 46 pairs"):
        gemm_with_deltas(
            torch.empty_like(layer.y13), layer.x, weights(SMALL)[0], ANY_TILES, shrunk, layer.w13, on_triton, TILE
        )


if __name__ == "__main__":
    print(json.dumps(run_all(sys.argv[1])))
