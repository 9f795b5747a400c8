"""The operators of torch: what torch itself demands of one, their results, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.cases import NARROW, make_layer

from loractl_kernels import library  # noqa: F401  (registers the operators)
from loractl_kernels.errors import BackendError, ShapeError
from loractl_kernels.ops import Backend
from loractl_kernels.selfcheck import outputs_of

CASES = ["one-token", "odd", "two-slices", "float32", "skewed-int64"]


def layer_of(name: str):
    return make_layer(replace(NARROW[name], missing_share=0.0))


def operands_of(layer, which: str, *, backend: str = "reference") -> tuple:
    adapters = getattr(layer, which)
    mapping = (layer.topk_ids, layer.token_slot, layer.slot_enabled)
    stacks = (list(adapters.a), list(adapters.b), adapters.ranks)
    if which == "w13":
        return (layer.x, layer.y13.clone(), *stacks, *mapping, backend)
    return (layer.act, layer.y2.clone(), *stacks, *mapping, layer.weight, backend)


def operator(which: str):
    return getattr(torch.ops.loractl, f"moe_lora_{which}").default


@pytest.mark.parametrize("which", ["w13", "w2"])
@pytest.mark.parametrize("name", CASES)
def test_operator_passes_opcheck(name, which):
    results = torch.library.opcheck(operator(which), operands_of(layer_of(name), which))

    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("which", ["w13", "w2"])
@pytest.mark.parametrize("name", CASES)
def test_operator_adds_what_the_operations_add(name, which):
    layer = layer_of(name)
    operands = operands_of(layer, which)

    operator(which)(*operands)

    assert torch.equal(operands[1], getattr(outputs_of(layer, Backend.REFERENCE), which))


@pytest.mark.parametrize("which", ["w13", "w2"])
def test_operator_is_traced_with_its_mutation(which):
    operands = list(operands_of(layer_of("odd"), which))
    wanted = operands[1].clone()
    operator(which)(operands[0], wanted, *operands[2:])

    def add(x, y):
        operator(which)(x, y, *operands[2:])
        return y + 1

    found = torch.compile(add, backend="aot_eager", fullgraph=True)(*operands[:2])

    assert torch.equal(operands[1], wanted)
    assert torch.equal(found, wanted + 1)


@pytest.mark.parametrize("which", ["w13", "w2"])
def test_fake_refuses_the_sizes_that_the_operator_refuses(which):
    operands = list(operands_of(layer_of("odd"), which))
    operands[1] = operands[1][:-1]

    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ShapeError, match=r"^y must be"):
        operator(which)(*operands)
    with pytest.raises(ShapeError, match=r"^y must be"):
        operator(which)(*operands)


@pytest.mark.parametrize("which", ["w13", "w2"])
def test_operator_refuses_a_back_end_that_is_none(which):
    with pytest.raises(BackendError, match="one of triton, reference, and it is 'auto'"):
        operator(which)(*operands_of(layer_of("odd"), which, backend="auto"))
