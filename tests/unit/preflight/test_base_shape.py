from __future__ import annotations

import pytest
from support.preflight import CONFIGS, config_of

from loractl_registry.preflight import PreflightRefusedError, read_base_shape

QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 151936,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def features(config, path):
    linear = read_base_shape(config).linears[path]
    return linear.in_features, linear.out_features


def test_qwen3_30b_a3b_has_its_published_shapes():
    shape = read_base_shape(QWEN3_30B_A3B)

    assert features(QWEN3_30B_A3B, "model.layers.47.self_attn.q_proj") == (2048, 4096)
    assert features(QWEN3_30B_A3B, "model.layers.0.self_attn.v_proj") == (2048, 512)
    assert features(QWEN3_30B_A3B, "model.layers.0.self_attn.o_proj") == (4096, 2048)
    assert len(shape.experts) == 48
    assert shape.experts["model.layers.0.mlp.experts"].count == 128
    assert "model.layers.0.mlp.gate_proj" not in shape.linears


def test_deepseek_v3_is_dense_at_first_and_latent_throughout():
    shape = read_base_shape(DEEPSEEK_V3)

    assert features(DEEPSEEK_V3, "model.layers.2.mlp.gate_proj") == (7168, 18432)
    assert features(DEEPSEEK_V3, "model.layers.3.mlp.shared_experts.down_proj") == (2048, 7168)
    assert features(DEEPSEEK_V3, "model.layers.0.self_attn.q_b_proj") == (1536, 24576)
    assert features(DEEPSEEK_V3, "model.layers.0.self_attn.kv_a_proj_with_mqa") == (7168, 576)
    assert features(DEEPSEEK_V3, "model.layers.0.self_attn.o_proj") == (16384, 7168)
    assert sorted(shape.experts)[0] == "model.layers.10.mlp.experts"
    assert len(shape.experts) == 58
    assert "model.layers.0.self_attn.kv_b_proj" in shape.inert


def test_deepseek_without_query_rank_has_one_query_projection():
    shape = read_base_shape(config_of("deepseek_v2") | {"q_lora_rank": None})

    assert "model.layers.0.self_attn.q_proj" in shape.linears
    assert "model.layers.0.self_attn.q_a_proj" not in shape.linears


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_moe", "olmoe"])
def test_head_dim_of_architectures_that_do_not_read_it_is_left_alone(kind):
    assert features(config_of(kind, head_dim=1000), "model.layers.0.self_attn.q_proj") == (64, 64)


@pytest.mark.parametrize("kind", ["llama", "mistral", "mixtral", "qwen3_moe"])
def test_head_dim_is_hidden_size_by_heads_where_the_config_does_not_say(kind):
    assert features(config_of(kind, head_dim=None), "model.layers.0.self_attn.q_proj") == (64, 64)


@pytest.mark.parametrize("kind", ["gpt_oss", "qwen3"])
def test_head_dim_with_a_default_of_its_own_must_be_said(kind):
    with pytest.raises(PreflightRefusedError, match="must say head_dim, and it says nothing"):
        read_base_shape(config_of(kind, head_dim=None))


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        ({"decoder_sparse_step": 1, "mlp_only_layers": []}, {0, 1, 2, 3}),
        ({"decoder_sparse_step": 2, "mlp_only_layers": []}, {1, 3}),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, {1}),
        ({"decoder_sparse_step": None, "mlp_only_layers": None}, {0, 1, 2, 3}),
    ],
)
@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
def test_sparse_layers_are_those_of_step_and_list(kind, changes, sparse):
    shape = read_base_shape(config_of(kind, num_hidden_layers=4, **changes))

    assert set(shape.experts) == {f"model.layers.{layer}.mlp.experts" for layer in sparse}


def test_gate_and_up_of_layers_made_dense_by_step_alone_are_not_adapted():
    shape = read_base_shape(config_of("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[]))

    assert "model.layers.0.mlp.down_proj" in shape.linears
    assert {"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"} <= set(shape.inert)


def test_experts_are_counted_under_either_name():
    config = config_of("qwen3_moe", num_experts=None, num_local_experts=6)

    assert read_base_shape(config).experts["model.layers.0.mlp.experts"].count == 6


def test_null_key_value_heads_are_as_many_as_heads():
    config = {**CONFIGS["llama"], "num_key_value_heads": None}

    assert features(config, "model.layers.0.self_attn.k_proj") == (64, 96)


@pytest.mark.parametrize("kind", [None, 3, ["llama"], "", "gpt2", "gemma3", "Llama"])
def test_unknown_architecture_is_refused_with_the_known_ones(kind):
    with pytest.raises(PreflightRefusedError) as caught:
        read_base_shape({"model_type": kind})

    assert repr(kind) in str(caught.value)
    assert "gpt_oss, llama, mistral" in (caught.value.hint or "")


@pytest.mark.parametrize("value", [None, 0, -1, True, "64", 64.0, 2**40, [64], {"value": 64}])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
def test_number_that_is_none_is_refused_by_its_name(key, value):
    with pytest.raises(PreflightRefusedError, match=f"must say {key}"):
        read_base_shape({**CONFIGS["llama"], key: value})


def test_absurd_number_of_layers_is_refused_at_once():
    with pytest.raises(PreflightRefusedError, match="from 1 to 1024"):
        read_base_shape(config_of("qwen3_moe", num_hidden_layers=2**24))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_known_architecture_has_attention_in_every_layer(kind):
    shape = read_base_shape(CONFIGS[kind])

    for layer in range(2):
        assert f"model.layers.{layer}.self_attn.o_proj" in shape.linears
