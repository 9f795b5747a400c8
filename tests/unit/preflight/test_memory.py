from __future__ import annotations

import pytest
from support.preflight import CONFIGS

from loractl_registry.preflight import RANK_LADDER, read_base_shape, rung_of, slot_bytes

GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "vocab_size": 201088,
    "quantization_config": {"quant_method": "mxfp4"},
}
LADDER = pytest.mark.parametrize("rank", RANK_LADDER)


def test_gpt_oss_20b_pays_for_what_its_kernels_round_up_to():
    layer = 32 * (3072 + 2 * 2944 + 2944 + 3072)

    assert slot_bytes(read_base_shape(GPT_OSS_20B), ["experts"], 32) == 24 * layer * 32 * 2


def test_gpt_oss_20b_in_16_bits_is_not_rounded_up():
    base = read_base_shape({**GPT_OSS_20B, "quantization_config": None})

    assert slot_bytes(base, ["experts"], 32) == 24 * 32 * (2880 * 5) * 32 * 2


def test_one_module_takes_room_for_all_that_share_its_layer():
    base = read_base_shape(CONFIGS["llama"])

    assert slot_bytes(base, ["q_proj"], 8) == slot_bytes(base, ["q_proj", "k_proj", "v_proj"], 8)
    assert slot_bytes(base, ["gate_proj"], 8) == slot_bytes(base, ["up_proj"], 8)
    assert slot_bytes(base, ["q_proj"], 8) == 2 * (3 * 64 + 96 + 48 + 48) * 8 * 2


@LADDER
@pytest.mark.parametrize("kind", CONFIGS)
def test_cost_grows_with_rank_and_number_size(kind, rank):
    base = read_base_shape(CONFIGS[kind])

    assert slot_bytes(base, (), rank) == rank * slot_bytes(base, (), 1)
    assert slot_bytes(base, (), rank, element_bytes=4) == 2 * slot_bytes(base, (), rank)


def test_taking_both_layouts_costs_a_second_a_on_fused_bases_alone():
    fused, single = read_base_shape(CONFIGS["gpt_oss"]), read_base_shape(CONFIGS["qwen3_moe"])

    assert slot_bytes(fused, (), 8, is_mixed=True) == slot_bytes(fused, (), 8) + 2 * 4 * 64 * 8 * 2
    assert slot_bytes(single, (), 8, is_mixed=True) == slot_bytes(single, (), 8)


def test_module_that_the_base_lacks_costs_nothing():
    assert slot_bytes(read_base_shape(CONFIGS["llama"]), ["experts", "nothing"], 8) == 0


@LADDER
def test_rung_of_a_rung_is_itself(rank):
    assert rung_of(rank) == rank
