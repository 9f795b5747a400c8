from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.preflight import (
    CONFIGS,
    PREFIX,
    RANK,
    adapter_on,
    config_of,
    pair_of,
    peft_config,
    tensor,
)

from loractl_registry import ExpertLayout
from loractl_registry.preflight import PreflightRefusedError, check_adapter

QWEN = CONFIGS["qwen3_moe"]
GPT_OSS = CONFIGS["gpt_oss"]
EXPERTS = "model.layers.0.mlp.experts"
Q_PROJ = "model.layers.0.self_attn.q_proj"
Q_A, Q_B = f"{PREFIX}{Q_PROJ}.lora_A.weight", f"{PREFIX}{Q_PROJ}.lora_B.weight"


def refusal_of(tensors, base=QWEN, config=None):
    with pytest.raises(PreflightRefusedError) as caught:
        check_adapter(tensors, config or peft_config(), base)
    assert caught.value.hint
    assert caught.value.code == "registry.preflight_refused"
    return caught.value


def renamed(tensors, old, new):
    return {name.replace(old, new): info for name, info in tensors.items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapter_on_all_that_a_base_takes_passes(kind):
    tensors = adapter_on(CONFIGS[kind])

    report = check_adapter(tensors, peft_config(), CONFIGS[kind])

    assert report.tensor_count == len(tensors)
    assert (report.layers, report.base_layers) == (2, 2)
    assert report.rank == RANK
    assert report.findings == ()


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss"])
def test_fused_experts_pass(kind):
    tensors = adapter_on(CONFIGS[kind], only=["experts"], layout=ExpertLayout.FUSED)

    report = check_adapter(tensors, peft_config(), CONFIGS[kind])

    assert report.experts is ExpertLayout.FUSED
    assert set(report.modules) == {"experts"}


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"lora_alpha": 1},
        {"alpha_pattern": {"q_proj": 32}},
        {"target_modules": "all-linear"},
        {"init_lora_weights": "eva"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_the_engine_follows_pass(changes):
    check_adapter(adapter_on(QWEN), peft_config(**changes), QWEN)


@pytest.mark.parametrize(
    "only", [["q_proj"], ["q_proj", "v_proj"], ["gate_proj"], ["down_proj"], ["embed_tokens"], ["lm_head"]]
)
def test_some_modules_alone_pass(only):
    report = check_adapter(adapter_on(QWEN, only=only), peft_config(), QWEN)

    assert sorted(report.modules) == sorted(only)


def test_one_layer_alone_passes_and_is_said():
    tensors = {name: info for name, info in adapter_on(QWEN).items() if ".layers.0." in name}

    report = check_adapter(tensors, peft_config(), QWEN)

    assert (report.layers, report.base_layers) == (1, 2)


def test_ranks_that_differ_by_module_and_projection_pass():
    config = peft_config(rank_pattern={"q_proj": 9, "down_proj": 2})
    tensors = adapter_on(QWEN)
    for name in list(tensors):
        module = name.removeprefix(PREFIX).partition(".lora_")[0]
        rank = config.rank_of(module)
        a_or_b = tensors[name].shape
        tensors[name] = tensor(rank, a_or_b[1]) if ".lora_A" in name else tensors[name]
        tensors[name] = tensor(a_or_b[0], rank) if ".lora_B" in name else tensors[name]

    report = check_adapter(tensors, config, QWEN)

    assert (report.rank, report.engine_rank) == (9, 16)


@pytest.mark.parametrize(
    ("rank", "rung"), [(1, 1), (2, 8), (8, 8), (9, 16), (64, 64), (65, 128), (257, 320), (512, 512)]
)
def test_any_rank_is_taken_at_the_rung_above_it(rank, rung):
    report = check_adapter(adapter_on(QWEN, only=["q_proj"], rank=rank), peft_config(rank), QWEN)

    assert (report.rank, report.engine_rank) == (rank, rung)


def test_mixtral_takes_both_namings_of_projections():
    base = CONFIGS["mixtral"]
    tensors = adapter_on(base, only=["experts"])
    for old, new in ((".w1.", ".gate_proj."), (".w3.", ".up_proj."), (".w2.", ".down_proj.")):
        tensors = renamed(tensors, old, new)

    check_adapter(tensors, peft_config(), base)


def test_mixtral_projection_under_both_names_is_refused():
    base = CONFIGS["mixtral"]
    expert = "model.layers.0.block_sparse_moe.experts.0"
    tensors = adapter_on(base, only=["experts"]) | pair_of(f"{expert}.gate_proj", 64, 112)

    assert f"'{expert}.w1' and '{expert}.gate_proj' are the same" in str(refusal_of(tensors, base))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        pytest.param("layers.1.", "layers.2.", "not one that the engine adapts", id="layer-beyond-the-last"),
        pytest.param("model.layers", "model.language_model.layers", "not one that", id="multimodal-names"),
        pytest.param("model.layers", "layers", "not one that", id="bare-names"),
        pytest.param(".self_attn.", ".attn.", "not one that", id="engine-names"),
        pytest.param("q_proj.lora", "q_proj.base_layer.lora", "not one that", id="nested-wrapper"),
        pytest.param("base_model.model.", "", "does not begin with", id="no-prefix"),
        pytest.param("base_model.model.", "base_model.model.base_model.model.", "not one that", id="prefix-twice"),
        pytest.param("lora_A.weight", "lora_A.default.weight", "PEFT's adapter", id="adapter-name"),
        pytest.param("q_proj", "qkv_proj", "not one that", id="packed-name"),
    ],
)
def test_name_that_the_engine_drops_or_misreads_is_refused(old, new, reason):
    refused = refusal_of(renamed(adapter_on(QWEN), old, new))

    assert reason in str(refused)


@pytest.mark.parametrize(
    ("name", "reason", "way_out"),
    [
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA", "use_dora"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight", "DoRA", "use_dora"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", "bias", "lora_bias"),
        ("lm_head.weight", "replaces weights of the base", "modules_to_save"),
        ("lm_head.modules_to_save.weight", "replaces weights of the base", "modules_to_save"),
        ("model.embed_tokens.base_layer.weight", "copy of the base's own weights", "save_embedding_layers"),
        ("model.layers.0.self_attn.q_proj.weight", "replaces weights of the base", "modules_to_save"),
        ("model.layers.0.self_attn.q_proj.bias", "replaces weights of the base", "modules_to_save"),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", "replaces weights of the base", "modules_to_save"),
    ],
)
def test_tensor_that_is_not_plain_lora_is_refused_with_its_way_out(name, reason, way_out):
    refused = refusal_of({**adapter_on(QWEN), PREFIX + name: tensor(8, 8)})

    assert PREFIX + name in str(refused)
    assert reason in str(refused)
    assert way_out in (refused.hint or "")


@pytest.mark.parametrize(
    ("kind", "module", "features"),
    [
        ("qwen3_moe", "model.layers.0.mlp.gate", (64, 4)),
        ("deepseek_v2", "model.layers.1.mlp.gate", (64, 4)),
        ("deepseek_v3", "model.layers.1.mlp.gate", (64, 4)),
        ("qwen2_moe", "model.layers.0.mlp.shared_expert_gate", (64, 1)),
        ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj", (32, 128)),
        ("deepseek_v3", "model.layers.0.self_attn.kv_b_proj", (32, 128)),
    ],
)
def test_module_that_the_engine_wraps_and_passes_by_is_refused(kind, module, features):
    refused = refusal_of({**adapter_on(CONFIGS[kind]), **pair_of(module, *features)}, CONFIGS[kind])

    assert repr(module) in str(refused)
    assert "cannot be adapted" in str(refused)


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "gpt_oss", "olmoe", "qwen2_moe", "deepseek_v3"])
def test_embeddings_are_refused_where_the_engine_does_not_adapt_them(kind):
    refused = refusal_of({**adapter_on(CONFIGS[kind]), **pair_of("lm_head", 64, 256)}, CONFIGS[kind])

    assert "'lm_head'" in str(refused)


def test_embedding_with_one_name_of_a_matrix_is_refused():
    tensors = {
        f"{PREFIX}model.embed_tokens.lora_embedding_A": tensor(RANK, 256),
        f"{PREFIX}model.embed_tokens.lora_B.weight": tensor(64, RANK),
    }

    assert "the other kind" in str(refusal_of(tensors))


def test_embedding_under_the_names_of_a_matrix_is_refused():
    refused = refusal_of(pair_of("model.embed_tokens", 256, 64))

    assert "lora_embedding_A" in str(refused)


def test_head_over_more_words_than_the_engine_takes_is_refused():
    base = config_of("llama", vocab_size=300_000)

    refusal_of(pair_of("lm_head", 64, 300_000), base)


def test_mixtral_experts_under_newer_names_are_refused():
    base = CONFIGS["mixtral"]

    refused = refusal_of(renamed(adapter_on(base, only=["experts"]), "block_sparse_moe", "mlp"), base)

    assert "mlp.experts.0.w1" in str(refused)


def test_single_experts_on_a_fused_base_are_refused():
    refused = refusal_of(pair_of(f"{EXPERTS}.0.gate_proj", 64, 40), GPT_OSS)

    assert "all experts in one tensor" in str(refused)
    assert "target_parameters" in (refused.hint or "")


@pytest.mark.parametrize("missing", [f"{EXPERTS}.3.up_proj", f"{EXPERTS}.0.down_proj"])
def test_missing_expert_is_named(missing):
    tensors = {name: info for name, info in adapter_on(QWEN).items() if f"{missing}." not in name}

    refused = refusal_of(tensors)

    assert f"module '{missing}' is missing" in str(refused)


@pytest.mark.parametrize("missing", [EXPERTS, f"{EXPERTS}.base_layer"])
def test_missing_half_of_fused_experts_is_named(missing):
    tensors = {
        name: info for name, info in adapter_on(GPT_OSS).items() if not name.startswith(f"{PREFIX}{missing}.lora_")
    }

    refused = refusal_of(tensors, GPT_OSS)

    assert f"module '{missing}' is missing" in str(refused)


def test_both_layouts_in_one_layer_are_refused():
    tensors = adapter_on(QWEN) | adapter_on(QWEN, only=["experts"], layout=ExpertLayout.FUSED)

    assert "two layouts" in str(refusal_of(tensors))


def test_both_layouts_in_different_layers_are_refused():
    base = config_of("qwen3_moe", mlp_only_layers=[])
    single = {name: info for name, info in adapter_on(base).items() if "layers.0.mlp" in name}
    fused = {
        name: info
        for name, info in adapter_on(base, only=["experts"], layout=ExpertLayout.FUSED).items()
        if "layers.1.mlp" in name
    }

    assert "two layouts" in str(refusal_of(single | fused, base))


def test_expert_beyond_the_last_is_refused():
    tensors = adapter_on(QWEN) | pair_of(f"{EXPERTS}.4.up_proj", 64, 40)

    assert "experts 0 to 3" in str(refusal_of(tensors))


def test_unknown_projection_is_refused():
    tensors = adapter_on(QWEN) | pair_of(f"{EXPERTS}.0.w1", 64, 40)

    assert "gate_proj, up_proj, down_proj" in str(refusal_of(tensors))


def test_ranks_that_differ_by_expert_are_refused():
    tensors = adapter_on(QWEN)
    tensors |= pair_of(f"{EXPERTS}.2.up_proj", 64, 40, rank=2)

    refused = refusal_of(tensors, config=peft_config(rank_pattern={"experts.2.up_proj": 2}))

    assert f"'{EXPERTS}.2.up_proj' has rank 2" in str(refused)


def test_rank_that_no_module_has_is_refused_where_the_engine_would_want_it():
    refused = refusal_of(adapter_on(QWEN), config=peft_config(rank_pattern={"no_such_proj": 64}))

    assert "'no_such_proj' rank 64" in str(refused)


def test_half_a_pair_is_refused_by_both_names():
    tensors = {name: info for name, info in adapter_on(QWEN).items() if name != Q_B}

    refused = refusal_of(tensors)

    assert Q_A in str(refused)
    assert Q_B in str(refused)


def test_empty_adapter_is_refused():
    assert "no tensors" in str(refusal_of({}))


def test_adapter_of_another_base_is_refused_with_expected_and_found():
    other = config_of("qwen3_moe", hidden_size=72)

    refused = refusal_of(adapter_on(other))

    assert "must be [4, 64] at rank 4 on this base, and it is [4, 72]" in str(refused)
    assert "loractl add --base" in (refused.hint or "")


def test_rank_of_the_config_that_is_not_the_tensors_is_refused():
    assert "at rank 8" in str(refusal_of(adapter_on(QWEN), config=peft_config(8)))


def test_fused_experts_written_transposed_are_refused():
    base = config_of("qwen3_moe", hidden_size=64, moe_intermediate_size=32)
    fused = adapter_on(base, only=["experts"], layout=ExpertLayout.FUSED)
    swapped = {
        f"{PREFIX}{EXPERTS}.lora_A.weight": tensor(4 * RANK, 64),
        f"{PREFIX}{EXPERTS}.lora_B.weight": tensor(32, 4 * RANK),
    }

    assert f"{EXPERTS}.lora_A.weight" in str(refusal_of(fused | swapped, base))


def test_many_problems_are_counted_and_the_first_are_said():
    refused = refusal_of(renamed(adapter_on(QWEN), "model.layers", "layers"))

    assert len(refused.problems) > 10
    assert str(refused).endswith(f"and {len(refused.problems) - 4} more")
    assert len(str(refused)) < 1000


@pytest.mark.parametrize("kind", CONFIGS)
@given(data=st.data())
def test_any_other_shape_is_refused_by_its_tensor(kind, data):
    tensors = adapter_on(CONFIGS[kind])
    name = data.draw(st.sampled_from(sorted(tensors)))
    shape = tensors[name].shape
    changed = data.draw(
        st.lists(st.integers(1, 600), min_size=1, max_size=3).map(tuple).filter(lambda other: other != shape)
        | st.just(shape[::-1]).filter(lambda other: other != shape)
        | st.sampled_from([(*shape, 1), (1, *shape), (shape[0] * shape[1],), (shape[0], shape[1] + 1)])
    )

    refused = refusal_of(tensors | {name: tensor(*changed)}, CONFIGS[kind])

    assert name in str(refused)
    assert str(list(changed)) in str(refused)


@pytest.mark.parametrize("kind", CONFIGS)
@given(data=st.data())
def test_without_any_one_tensor_it_is_refused(kind, data):
    tensors = adapter_on(CONFIGS[kind])
    name = data.draw(st.sampled_from(sorted(tensors)))
    del tensors[name]

    refused = refusal_of(tensors, CONFIGS[kind])

    assert name in str(refused)


@given(junk=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=60))
def test_no_other_tensor_gets_in(junk):
    name = PREFIX + junk
    if name in adapter_on(QWEN):
        return

    refusal_of({**adapter_on(QWEN), name: tensor(4, 64)})


def test_report_is_frozen_and_says_what_was_used():
    report = check_adapter(adapter_on(QWEN), peft_config(), QWEN)

    assert str(report).startswith(f"all {report.tensor_count} tensors used (")
    assert replace(report, findings=("x",)).findings == ("x",)
    assert report.host_bytes == sum(info.size_bytes for info in adapter_on(QWEN).values())
