"""gpt-oss's experts with the pairs sorted by loractl: what the GEMMs are handed, and when vLLM sorts."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch

from loractl_kernels import expert_sort
from loractl_kernels.cases import Case
from loractl_kernels.reference import Gate

SMALL = Case(tokens=7, top_k=2, experts=5, slots=3, hidden=64, intermediate=48, rank=8, gate=Gate.SWIGLU_OAI)
CASES = {
    "3d": SMALL,
    "2d": replace(SMALL, slices=2),
    "top-1": replace(SMALL, top_k=1),
    "one-token": replace(SMALL, tokens=1, base_share=0.0),
    "wide-ids": replace(SMALL, ids_dtype=torch.int64),
}


@dataclass
class ExptData:
    hist: Any
    token_offs_raw: Any
    token_offs_pad: Any
    block_pid_map: Any


@dataclass
class RoutingData:
    gate_scal: Any
    expt_hist: Any
    n_expts_tot: int
    n_expts_act: int
    expt_data: Any = None


@dataclass
class Indx:
    src_indx: Any
    dst_indx: Any


@pytest.fixture
def oai(monkeypatch, cuda_layers):
    """The module under test, with the classes of OAI's GEMMs 3.5.1 and the reference in place of the kernels."""
    module = cuda_layers.cuda_oai_experts
    classes = ModuleType("triton_kernels.routing")
    vars(classes).update(ExptData=ExptData, RoutingData=RoutingData, GatherIndx=Indx, ScatterIndx=Indx)
    monkeypatch.setitem(sys.modules, "triton_kernels", ModuleType("triton_kernels"))
    monkeypatch.setitem(sys.modules, "triton_kernels.routing", classes)
    for function in (expert_sort.sort_by_expert, expert_sort.warm):
        monkeypatch.setitem(function.__kwdefaults__, "backend", expert_sort.Backend.REFERENCE)
    monkeypatch.setattr(module, "_warm", set())
    return module


@pytest.fixture
def made(monkeypatch, cuda_layers, oai):
    def make(case: Case):
        layer = cuda_layers.CudaLayer(case)
        layer.replace_gemms(monkeypatch)
        monkeypatch.setattr(oai.oai, "triton_kernels_version", "3.5.1")
        return layer

    return make


@pytest.fixture
def sorts(monkeypatch):
    """How many pairs each sort had."""
    counts, sort = [], expert_sort.sort_by_expert

    def counted(ids, weights, **named):
        counts.append(ids.numel())
        return sort(ids, weights, **named)

    monkeypatch.setattr(expert_sort, "sort_by_expert", counted)
    return counts


@pytest.mark.parametrize("name", CASES)
def test_layer_gives_base_and_deltas(made, monkeypatch, name):
    layer = made(CASES[name])
    monkeypatch.setattr(sys.modules[type(layer).__module__].gpt_oss_triton_kernels_moe, "make_routing_data", None)
    wanted = layer.expected()

    found = layer.run("oai", layer.context())

    torch.testing.assert_close(found.double(), wanted, rtol=0.0, atol=2.0**-5 * float(wanted.abs().max()))


def test_base_alone_is_sorted_as_well(made, monkeypatch, sorts):
    layer = made(SMALL)
    with_own = layer.run("oai", None)
    sorted_pairs = sorts[-1]
    monkeypatch.setattr(sys.modules[type(layer).__module__].gpt_oss_triton_kernels_moe, "triton_kernels_version", "3.6")

    with_vllms = layer.run("oai", None)

    assert sorted_pairs == SMALL.tokens * SMALL.top_k
    assert torch.equal(with_own, with_vllms)


def test_gemms_get_every_table_by_its_name(oai):
    ids = torch.tensor([[2, 0], [2, 2], [-1, 7]], dtype=torch.int32)
    by_expert = expert_sort.sort_by_expert(ids, torch.rand(3, 2), experts=4)

    routing, gather, scatter = oai._as_oai(by_expert, top_k=2)

    tables = routing.expt_data
    assert gather.src_indx.tolist() == [1, 0, 2, 3, -1, -1]
    assert gather.dst_indx.tolist() == [1, 0, 2, 3, -1, -1]
    assert (scatter.src_indx is gather.dst_indx, scatter.dst_indx is gather.src_indx) == (True, True)
    assert (routing.n_expts_tot, routing.n_expts_act) == (4, 2)
    assert routing.gate_scal is by_expert.row_weight
    assert routing.expt_hist is tables.hist
    assert tables.hist.tolist() == [1, 0, 3, 0]
    assert tables.token_offs_raw.tolist() == [0, 1, 1, 4, 4]
    assert {size: starts.tolist() for size, starts in tables.token_offs_pad.items()} == {
        size: [0, 1, 1, 2, 2] for size in (16, 32, 64, 128)
    }
    assert {size: tiles.tolist() for size, tiles in tables.block_pid_map.items()} == {
        size: [0, 2, -1, -1] for size in (16, 32, 64, 128)
    }


def test_operands_may_lie_apart_in_memory(made, cuda_layers):
    layer = made(SMALL)
    ids, weights = layer.layer.topk_ids, layer.layer.weight
    apart = ids.t().contiguous().t()

    strided = layer.experts("oai", None)._sort(apart, weights.t().contiguous().t(), SMALL.experts)
    plain = layer.experts("oai", None)._sort(ids, weights, SMALL.experts)

    assert not apart.is_contiguous()
    assert torch.equal(strided[1].src_indx, plain[1].src_indx)
    assert torch.equal(strided[0].gate_scal, plain[0].gate_scal)


def test_first_layer_of_a_shape_compiles_for_all(made, sorts):
    layer = made(SMALL)

    layer.run("oai", None)
    after_one = len(sorts)
    layer.run("oai", None)

    assert after_one == 1 + len(expert_sort.warmup_pairs(SMALL.experts))
    assert len(sorts) == after_one + 1


def test_nothing_is_compiled_while_a_graph_is_captured(made, monkeypatch, sorts, oai):
    layer = made(SMALL)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    layer.run("oai", None)

    assert len(sorts) == 1
    assert not oai._warm


@pytest.mark.parametrize(("bound", "value"), [("MAX_EXPERTS", 4), ("MAX_PAIRS", 13)])
def test_what_the_kernels_do_not_take_is_sorted_by_vllm(made, monkeypatch, sorts, bound, value):
    layer = made(SMALL)
    monkeypatch.setattr(expert_sort, bound, value)
    wanted = layer.expected()

    found = layer.run("oai", layer.context())

    assert sorts == []
    torch.testing.assert_close(found.double(), wanted, rtol=0.0, atol=2.0**-5 * float(wanted.abs().max()))
