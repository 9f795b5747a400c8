"""What the operations refuse, and that a back end is never taken for another."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from kernels.cases import NARROW, make_layer

from loractl_kernels import ops
from loractl_kernels.errors import BackendError, DtypeError, KernelError, ShapeError
from loractl_kernels.operands import Adapters, Scratch
from loractl_kernels.ops import Backend
from loractl_kernels.reference import Gate, Gating

CASE = replace(NARROW["odd"], tokens=4, top_k=3, missing_share=0.0, padding=0)
PAIRS = CASE.tokens * CASE.top_k


@pytest.fixture(scope="module")
def layer():
    return make_layer(CASE)


def routed(layer, **changes):
    given = {
        "topk_ids": layer.topk_ids, "token_slot": layer.token_slot, "slot_enabled": layer.slot_enabled,
        "experts": CASE.experts, "slots": CASE.slots, "backend": Backend.REFERENCE,
    } | changes  # fmt: skip
    return ops.route(
        given.pop("topk_ids"), given.pop("token_slot"), given.pop("slot_enabled"), **given
    )  # fmt: skip


def refusal(kind, operation, *operands, **named):
    with pytest.raises(kind) as caught:
        operation(*operands, **named)
    return str(caught.value)


ROUTES = {
    "flat-ids": ({"topk_ids": torch.zeros(12, dtype=torch.int32)}, "topk_ids must be [tokens, top_k]", "[12]"),
    "strided-ids": (
        {"topk_ids": torch.zeros(3, 4, dtype=torch.int32).t()},
        "topk_ids must be [tokens, top_k], contiguous", "[4, 3]",
    ),
    "slots-of-another-batch": (
        {"token_slot": torch.zeros(5, dtype=torch.int32)}, "token_slot must be [4] to match topk_ids [4, 3]", "[5]",
    ),
    "few-switches": (
        {"slot_enabled": torch.ones(CASE.slots - 1, dtype=torch.int32)},
        f"slot_enabled must be [{CASE.slots}] or longer", f"[{CASE.slots - 1}]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "expected", "found"), ROUTES.values(), ids=ROUTES)
def test_route_names_the_operand_and_both_shapes(layer, changes, expected, found):
    message = refusal(ShapeError, routed, layer, **changes)

    assert message.startswith(expected)
    assert message.endswith(f"and it is {found}")


@pytest.mark.parametrize("name", ["topk_ids", "token_slot", "slot_enabled"])
def test_route_takes_integers_alone(layer, name):
    message = refusal(DtypeError, routed, layer, **{name: getattr(layer, name).float()})

    assert message == f"{name} must be int32 or int64, and it is torch.float32"


def test_route_takes_a_longer_list_of_switches(layer):
    longer = torch.ones(CASE.slots + 3, dtype=torch.int32)

    assert routed(layer, slot_enabled=longer).pairs == PAIRS


def wrong_operands(layer):
    """Return each operation with one operand wrong: (call, operand, its expected shape, its own shape)."""
    routing = routed(layer)
    w13, w2 = layer.w13, layer.w2
    first, second = ops.shrink(layer.x, w13, routing), ops.shrink(layer.act, w2, routing)
    wide, hidden, half = 2 * CASE.intermediate, CASE.hidden, CASE.intermediate
    gating = Gating(CASE.gate)
    out, total = torch.empty(PAIRS, half), torch.empty(CASE.tokens, hidden)
    rows, weight = torch.arange(PAIRS), layer.weight
    few = replace(routing, experts=CASE.experts - 1)
    return {
        "shrink-rows": (
            lambda: ops.shrink(layer.x[:3], w13, routing), "x", f"[4 or 12, {hidden}]", [3, hidden],
        ),
        "shrink-columns": (
            lambda: ops.shrink(layer.x[:, 1:], w13, routing), "x", f"[4 or 12, {hidden}]", [4, hidden - 1],
        ),
        "shrink-of-another-layer": (
            lambda: ops.shrink(layer.x, w13, few), "a", f"[{CASE.slots}, {CASE.experts - 1}, rank, in_features]",
            list(w13.a[0].shape),
        ),
        "shrink-row-of-pair": (
            lambda: ops.shrink(layer.act, w2, routing, row_of_pair=rows.int()[1:]),
            "row_of_pair", "[12]", [11],
        ),
        "add-shape": (
            lambda: ops.expand_add(layer.y13[1:], first, w13, routing), "y", f"[12, {wide}]", [11, wide],
        ),
        "add-strided": (
            lambda: ops.expand_add(layer.y13.t().contiguous().t(), first, w13, routing), "y",
            f"[12, {wide}] with contiguous rows", [12, wide],
        ),
        "add-weight": (
            lambda: ops.expand_add(layer.y2, second, w2, routing, pair_weight=torch.ones(4)),
            "pair_weight", "[12]", [4],
        ),
        "activate-y": (
            lambda: ops.expand_activate(out, layer.y13[:, 2:], first, w13, routing, gating), "y", f"[12, {wide}]",
            [12, wide - 2],
        ),
        "activate-out": (
            lambda: ops.expand_activate(out[:, 1:], layer.y13, first, w13, routing, gating), "out", f"[12, {half}]",
            [12, half - 1],
        ),
        "activate-rows": (
            lambda: ops.expand_activate(out, layer.y13, first, w13, routing, gating, row_of_pair=rows[:2].int()),
            "row_of_pair", "[12]", [2],
        ),
        "sum-y": (
            lambda: ops.expand_sum(total, layer.y2[2:], second, w2, routing, pair_weight=weight), "y",
            f"[12, {hidden}]", [10, hidden],
        ),
        "sum-out": (
            lambda: ops.expand_sum(total[1:], layer.y2, second, w2, routing, pair_weight=weight), "out",
            f"[4, {hidden}]", [3, hidden],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(wrong_operands(make_layer(CASE))))
def test_operations_name_the_operand_and_both_shapes(layer, name):
    call, operand, expected, found = wrong_operands(layer)[name]

    message = refusal(ShapeError, call)

    assert message.startswith(f"{operand} must be ")
    assert expected in message
    assert message.endswith(f"and it is {found}")


def test_rows_must_be_int32(layer):
    routing = routed(layer)

    with pytest.raises(KernelError, match=r"^row_of_pair must be int32, and it is torch\.int64"):
        ops.shrink(layer.act, layer.w2, routing, row_of_pair=torch.arange(PAIRS))


STACKS = {
    "no-slices": ((), (), "a and b must be one or two slices each, and it is [0, 0]"),
    "slices-that-differ": (
        (torch.zeros(2, 3, 4, 8),), (torch.zeros(2, 3, 6, 4),) * 2, "a and b must be one or two slices each",
    ),
    "flat-a": ((torch.zeros(3, 4, 8),), (torch.zeros(2, 3, 6, 4),), "a[0] must be [slots, experts, rank, in_features]"),
    "b-of-another-rank": (
        (torch.zeros(2, 3, 4, 8),), (torch.zeros(2, 3, 6, 5),),
        "b[0] must be [2, 3, out_features, 4] to match a [2, 3, 4, 8], and it is [2, 3, 6, 5]",
    ),
    "second-a": (
        (torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4, 9)), (torch.zeros(2, 3, 6, 4),) * 2,
        "a[1] must be [2, 3, 4, 8] like a[0], and it is [2, 3, 4, 9]",
    ),
    "second-b": (
        (torch.zeros(2, 3, 4, 8),) * 2, (torch.zeros(2, 3, 6, 4), torch.zeros(2, 3, 7, 4)),
        "b[1] must be [2, 3, 6, 4] like b[0], and it is [2, 3, 7, 4]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("a", "b", "expected"), STACKS.values(), ids=STACKS)
def test_stacks_that_disagree_are_refused(a, b, expected):
    assert refusal(ShapeError, Adapters, a, b).startswith(expected)


def test_stacks_of_two_dtypes_are_refused():
    message = refusal(DtypeError, Adapters, (torch.zeros(2, 3, 4, 8),), (torch.zeros(2, 3, 6, 4).half(),))

    assert message == "a[0], b[0] must be torch.float32, and it is torch.float32, torch.float16"


@pytest.mark.parametrize("ranks", [torch.ones(3, dtype=torch.int32), torch.ones(2, dtype=torch.int64)])
def test_ranks_of_another_shape_or_dtype_are_refused(ranks):
    with pytest.raises(KernelError, match=r"^ranks must be \[2\] of int32"):
        Adapters((torch.zeros(2, 3, 4, 8),), (torch.zeros(2, 3, 6, 4),), ranks)


def scratch(**changes):
    sizes = {"max_tokens": CASE.tokens, "top_k": CASE.top_k, "experts": CASE.experts, "slots": CASE.slots}
    return Scratch.allocate(**(sizes | {"max_columns": CASE.rank, "device": "cpu"} | changes))


def test_triton_needs_a_scratch(layer):
    message = refusal(BackendError, routed, layer, backend=Backend.TRITON)

    assert message == "the Triton back end needs a scratch: Scratch.allocate(...)"


@pytest.mark.parametrize("changes", [{"max_tokens": CASE.tokens - 1}, {"slots": CASE.slots - 1}])
def test_triton_refuses_a_batch_larger_than_its_scratch(layer, changes):
    message = refusal(ShapeError, routed, layer, backend=Backend.TRITON, scratch=scratch(**changes))

    assert message.startswith("topk_ids must be at most ")
    assert message.endswith(f"and it is [4, 3, {CASE.experts * CASE.slots}]")


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="needs an environment without triton")
def test_triton_without_triton_refuses_and_does_not_fall_back(layer):
    message = refusal(BackendError, routed, layer, backend=Backend.TRITON, scratch=scratch())

    assert message.startswith("the Triton back end needs the package triton: ")


def on_triton(layer, memory=None):
    """Return a routing of the Triton back end that nothing has planned."""
    return replace(routed(layer), scratch=memory or scratch())


def test_triton_refuses_float32(layer):
    x = layer.x.float()
    adapters = Adapters(tuple(a.float() for a in layer.w13.a), tuple(b.float() for b in layer.w13.b))

    message = refusal(DtypeError, ops.shrink, x, adapters, on_triton(layer))

    assert message == "operands must be bfloat16 or float16, and it is torch.float32"


def test_triton_refuses_stacks_of_another_dtype(layer):
    message = refusal(DtypeError, ops.shrink, layer.x.half(), layer.w13, on_triton(layer))

    assert message == "a and b must be torch.float16 like the operand, and it is torch.bfloat16"


def test_triton_refuses_a_rank_above_its_largest():
    wide = make_layer(replace(CASE, rank=129))

    message = refusal(BackendError, ops.shrink, wide.x, wide.w13, on_triton(wide))

    assert message == "the Triton kernels take ranks up to 128, and this stack has 129"


def test_triton_refuses_more_columns_than_its_scratch_has(layer):
    message = refusal(ShapeError, ops.shrink, layer.x, layer.w13, on_triton(layer, scratch(max_columns=4)))

    assert message == f"a must be at most 4 columns, as the scratch is, and it is [1, {CASE.rank}]"


def test_triton_refuses_interleaved_rows_that_begin_within_a_word(layer):
    y = torch.zeros(layer.y13.shape[0], layer.y13.shape[1] + 1, dtype=layer.x.dtype)[:, :-1]
    shrunk = ops.shrink(layer.x, layer.w13, routed(layer))

    message = refusal(
        BackendError, ops.expand_activate, layer.act, y, shrunk, layer.w13, on_triton(layer), Gating(Gate.SWIGLU_OAI)
    )

    assert f"rows of {y.stride(0)} elements do not" in message


@pytest.mark.parametrize("error", [ShapeError, DtypeError, BackendError])
def test_errors_are_kernel_errors_with_a_code(error):
    assert issubclass(error, KernelError)
    assert error.code.startswith("kernels.")
