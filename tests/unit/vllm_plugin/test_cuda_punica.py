"""The wrapper on NVIDIA GPUs: the two calls of vLLM's contract, and what it keeps between them."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from loractl_kernels import ops, warmup
from loractl_kernels.cases import Case
from loractl_kernels.operands import Adapters, Routing

CASE = Case(tokens=7, top_k=2, experts=5, slots=3, hidden=64, intermediate=48, rank=8, slices=2)
NO_PLAN = (None, None, None, None)


@pytest.fixture
def layer(monkeypatch, cuda_layers):
    made = cuda_layers.CudaLayer(CASE)
    made.replace_gemms(monkeypatch)
    return made


@pytest.fixture
def vllms_own(monkeypatch, cuda_layers):
    """What vLLM's own kernels were asked for."""
    calls: list[tuple[str, tuple, dict]] = []

    def of(name: str):
        def record(_wrapper, *operands, **named):
            calls.append((name, operands, named))
            return "handed over"

        return record

    for name in ("add_lora_w13", "add_lora_w2"):
        monkeypatch.setattr(cuda_layers.punica_gpu.PunicaWrapperGPU, name, of(name))
    return calls


def w13_operands(layer, y, **changes) -> dict[str, object]:
    made, case = layer.layer, layer.case
    said = {
        "y": y, "x": made.x, "lora_a_stacked": made.w13.a, "lora_b_stacked": made.w13.b, "topk_ids": made.topk_ids,
        "topk_weights": made.weight, "expert_map": None, "w1": layer.w1, "w2": layer.w2, "num_tokens": case.tokens,
        "top_k_num": case.top_k, "max_loras": case.slots, "adapter_enabled": made.slot_enabled,
        "local_num_experts": case.experts, "top_k": case.top_k, "num_slices": 2, "fully_sharded": False,
        "use_tuned_config": False,
    }  # fmt: skip
    return said | changes


def w2_operands(layer, y, handed, **changes) -> dict[str, object]:
    made, case = layer.layer, layer.case
    routing, w13, padded, mapping = handed
    said = {
        "y": y, "x": made.act, "lora_a_stacked": made.w2.a, "lora_b_stacked": made.w2.b, "topk_weights": made.weight,
        "sorted_token_ids_lora": routing, "expert_ids_lora": w13, "num_tokens_post_padded_lora": padded,
        "token_lora_mapping": mapping, "num_tokens": case.tokens, "w1": layer.w1, "w2": layer.w2,
        "top_k_num": case.top_k, "max_loras": case.slots, "adapter_enabled": made.slot_enabled, "top_k": case.top_k,
        "fully_sharded": False, "tp_rank": 0, "use_tuned_config": False,
    }  # fmt: skip
    return said | changes


def wanted_of(layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Both outputs with their deltas, by the operations as they stand."""
    made = layer.layer
    routing = ops.route(made.topk_ids, made.token_slot, made.slot_enabled, experts=5, slots=3)
    y13, y2 = made.y13.clone(), made.y2.clone()
    ops.expand_add(y13, ops.shrink(made.x, made.w13, routing), made.w13, routing)
    ops.expand_add(y2, ops.shrink(made.act, made.w2, routing), made.w2, routing, pair_weight=made.weight)
    return y13, y2


def test_first_call_hands_the_plan_to_the_second(layer, vllms_own):
    y13, y2 = (y.clone().view(7, 2, -1) for y in (layer.layer.y13, layer.layer.y2))

    handed = layer.wrapper.add_lora_w13(*w13_operands(layer, y13).values())
    layer.wrapper.add_lora_w2(*w2_operands(layer, y2, handed).values())

    assert isinstance(handed[0], Routing)
    assert isinstance(handed[1], Adapters)
    wanted13, wanted2 = wanted_of(layer)
    assert torch.equal(y13.flatten(0, 1), wanted13)
    assert torch.equal(y2.flatten(0, 1), wanted2)
    assert vllms_own == []


def test_batch_without_adapters_is_not_looked_at(layer, vllms_own):
    layer.set_slots(torch.full((7,), -1, dtype=torch.int32))

    handed = layer.wrapper.add_lora_w13(*w13_operands(layer, None).values())
    layer.wrapper.add_lora_w2(*w2_operands(layer, None, NO_PLAN).values())

    assert handed == NO_PLAN
    assert (vllms_own, layer.streams.log) == ([], [])


def test_mapping_of_exchanged_tokens_goes_before_the_batchs_own(layer, vllms_own):
    mapping = torch.tensor([2, -1, 0, 0, 1, 2, -1], dtype=torch.int32)
    y13 = layer.layer.y13.clone()

    handed = layer.wrapper.add_lora_w13(*w13_operands(layer, y13).values(), token_lora_mapping=mapping)

    layer.layer = replace(layer.layer, token_slot=mapping)
    assert handed[3] is mapping
    assert torch.equal(y13, wanted_of(layer)[0])


def test_experts_that_do_not_lie_together_are_taken(layer, vllms_own):
    ids = layer.layer.topk_ids.t().contiguous().t()
    y13 = layer.layer.y13.clone()
    assert not ids.is_contiguous()

    layer.wrapper.add_lora_w13(*w13_operands(layer, y13, topk_ids=ids).values())

    assert torch.equal(y13, wanted_of(layer)[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fully_sharded": True}, {}),
        ({"expert_map": torch.arange(5)}, {}),
        ({"x": torch.zeros(7, 64)}, {}),
        ({}, {"add_inputs": False}),
    ],
    ids=["fully-sharded", "expert-map", "float32", "own-buffer"],
)
def test_what_the_kernels_do_not_take_reaches_vllm_unchanged(layer, vllms_own, changes, named):
    operands = w13_operands(layer, layer.layer.y13, **changes)

    handed = layer.wrapper.add_lora_w13(*operands.values(), **named)

    name, positional, keywords = vllms_own[0]
    assert (name, handed) == ("add_lora_w13", "handed over")
    assert all(found is wanted for found, wanted in zip(positional, operands.values(), strict=True))
    assert keywords == {"add_inputs": True, "token_lora_mapping": None} | named
    assert "main: route" not in layer.streams.log


def test_second_call_follows_the_first_to_vllm(layer, vllms_own):
    handed = (torch.zeros(3), torch.zeros(4), torch.zeros(1), torch.zeros(7))
    operands = w2_operands(layer, layer.layer.y2, handed)

    layer.wrapper.add_lora_w2(*operands.values(), add_inputs=False)

    name, positional, keywords = vllms_own[0]
    assert name == "add_lora_w2"
    assert all(found is wanted for found, wanted in zip(positional, operands.values(), strict=True))
    assert keywords == {"add_inputs": False}


def test_layers_of_one_shape_share_a_scratch_and_are_warmed_once(layer, vllms_own, monkeypatch):
    warmed = []
    monkeypatch.setattr(warmup, "warm", lambda *operands, **named: warmed.append(named))

    for _ in range(2):
        handed = layer.wrapper.add_lora_w13(*w13_operands(layer, layer.layer.y13.clone()).values())
        layer.wrapper.add_lora_w2(*w2_operands(layer, layer.layer.y2.clone(), handed).values())

    assert len(layer.wrapper._scratches) == 1
    assert len(layer.wrapper._adapters) == 2
    assert len(warmed) == 1
    assert warmed[0]["scratch"] in layer.wrapper._scratches.values()


def test_nothing_is_warmed_while_a_graph_is_captured(layer, vllms_own, monkeypatch):
    warmed = []
    monkeypatch.setattr(warmup, "warm", lambda *operands, **named: warmed.append(named))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    handed = layer.wrapper.add_lora_w13(*w13_operands(layer, layer.layer.y13.clone()).values())

    layer.wrapper.add_lora_w2(*w2_operands(layer, layer.layer.y2.clone(), handed).values())
    assert warmed == []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    layer.wrapper.add_lora_w2(*w2_operands(layer, layer.layer.y2.clone(), handed).values())

    assert len(warmed) == 1


def test_parameters_are_those_of_vllm(cuda_layers):
    for name in ("add_lora_w13", "add_lora_w2"):
        ours = inspect.signature(getattr(cuda_layers.cuda_punica.LoractlPunicaWrapperGPU, name)).parameters
        theirs = inspect.signature(getattr(cuda_layers.punica_gpu.PunicaWrapperGPU, name)).parameters
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
