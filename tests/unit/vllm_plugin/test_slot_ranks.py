"""The true rank of each slot is kept beside the stacks that vLLM makes, and follows what is put into it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from loractl.vllm_plugin import compat, slot_ranks

SLOTS, EXPERTS, HIDDEN, INTERMEDIATE, RANK = 3, 2, 24, 16, 8


@pytest.fixture
def made(monkeypatch, cuda_layers):
    """Make one of vLLM's layers, without the model around it."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.layers import fused_moe

    for kind in (fused_moe.FusedMoEWithLoRA, fused_moe.FusedMoE3DWithLoRA):
        for name in ("create_lora_weights", "set_lora"):
            monkeypatch.setattr(kind, name, getattr(kind, name))
    monkeypatch.setattr(slot_ranks, "_ranks", {})
    slot_ranks.keep(compat.symbols())

    def make(slices: int):
        kind = fused_moe.FusedMoEWithLoRA if slices == 2 else fused_moe.FusedMoE3DWithLoRA
        sizes = {
            "hidden_size": HIDDEN, "local_num_experts": EXPERTS, "intermediate_size_per_partition": INTERMEDIATE,
            "use_ep": False,
        }  # fmt: skip
        layer = object.__new__(type("Layer", (kind,), sizes))
        torch.nn.Module.__init__(layer)
        layer.tp_size, layer.tp_rank, layer.device, layer._w13_slices = 1, 0, "cpu", slices
        layer.enable_moe_shared_loras = False
        config = LoRAConfig(max_lora_rank=RANK, max_loras=SLOTS, lora_dtype=torch.bfloat16)
        layer.create_lora_weights(SLOTS, config, SimpleNamespace(architectures=["Any"]))
        return layer

    return make


def adapter(slices: int, *ranks: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """An adapter's A and B in vLLM's order: gate, down and up, or gate and up, then down."""
    ins = (HIDDEN, INTERMEDIATE, HIDDEN)[: slices + 1]
    outs = (INTERMEDIATE if slices == 2 else 2 * INTERMEDIATE, HIDDEN, INTERMEDIATE)[: slices + 1]
    a = [torch.ones(EXPERTS, rank, width) for rank, width in zip(ranks, ins, strict=True)]
    return a, [torch.ones(EXPERTS, height, rank) for rank, height in zip(ranks, outs, strict=True)]


def ranks_of(layer) -> tuple[list[int], list[int]]:
    found = (slot_ranks.of(layer.w13_lora_a_stacked[0]), slot_ranks.of(layer.w2_lora_a_stacked[0]))
    assert all(ranks is not None and ranks.dtype == torch.int32 for ranks in found)
    return found[0].tolist(), found[1].tolist()


@pytest.mark.parametrize("slices", [1, 2])
def test_new_stack_is_taken_to_be_as_wide_as_it_is(made, slices):
    assert ranks_of(made(slices)) == ([RANK] * SLOTS, [RANK] * SLOTS)


@pytest.mark.parametrize(
    ("slices", "ranks", "wanted"), [(1, (4, 2), (4, 2)), (2, (4, 2, 4), (4, 2)), (2, (2, 8, 5), (5, 8))]
)
def test_slot_has_the_rank_of_what_was_put_into_it(made, slices, ranks, wanted):
    layer = made(slices)

    layer.set_lora(1, *adapter(slices, *ranks))

    assert ranks_of(layer) == ([RANK, wanted[0], RANK], [RANK, wanted[1], RANK])


@pytest.mark.parametrize("slices", [1, 2])
def test_nothing_of_an_adapter_lies_beyond_its_rank(made, slices):
    layer = made(slices)

    layer.set_lora(2, *adapter(slices, *(3, 5, 3)[: slices + 1]))

    for stacks, rank in (("w13", 3), ("w2", 5)):
        for a, b in zip(
            getattr(layer, f"{stacks}_lora_a_stacked"), getattr(layer, f"{stacks}_lora_b_stacked"), strict=True
        ):
            assert a[2, :, :rank].all()
            assert not a[2, :, rank:].any()
            assert not b[2, :, :, rank:].any()


def test_slot_that_is_used_again_has_the_new_rank(made):
    layer = made(1)
    layer.set_lora(0, *adapter(1, 2, 2))

    layer.set_lora(0, *adapter(1, 8, 4))

    assert ranks_of(layer)[0][0] == 8
    assert ranks_of(layer)[1][0] == 4


def test_layers_keep_ranks_of_their_own(made):
    first, second = made(2), made(1)

    first.set_lora(0, *adapter(2, 2, 2, 2))

    assert ranks_of(second) == ([RANK] * SLOTS, [RANK] * SLOTS)


def test_ranks_stay_where_they_are_so_that_a_captured_graph_sees_new_ones(made):
    layer = made(1)
    before = slot_ranks.of(layer.w13_lora_a_stacked[0])

    layer.set_lora(0, *adapter(1, 2, 2))

    assert slot_ranks.of(layer.w13_lora_a_stacked[0]) is before


def test_a_view_that_all_experts_share_has_the_ranks_of_its_stack(made):
    stack = made(1).w13_lora_a_stacked[0]

    assert slot_ranks.of(stack[:, :1].expand(-1, 7, -1, -1)) is slot_ranks.of(stack)


def test_unknown_stack_has_no_ranks(made):
    assert slot_ranks.of(torch.zeros(2, 2, 8, 8)) is None
