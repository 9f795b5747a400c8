from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from support.registry import adapter_config

from loractl_registry.adapter_config import parse_adapter_config, read_adapter_config
from loractl_registry.errors import RegistryError
from loractl_registry.file_errors import AdapterConfigError

PLAIN = adapter_config(8, "acme/tiny", ["q_proj"])


def _bytes(**changes: object) -> bytes:
    return json.dumps({**PLAIN, **changes}).encode()


def test_config_that_peft_writes_is_accepted(tmp_path):
    LoraConfig(
        r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], use_rslora=True, base_model_name_or_path="acme/tiny"
    ).save_pretrained(str(tmp_path))

    found = read_adapter_config(tmp_path)

    assert (found.r, found.lora_alpha, found.use_rslora) == (16, 32, True)
    assert set(found.target_modules or ()) == {"q_proj", "v_proj"}
    assert found.base_model_name_or_path == "acme/tiny"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"target_modules": "all.*proj"}, id="regular-expression"),
        pytest.param({"target_modules": None, "target_parameters": ["mlp.experts.down_proj"]}, id="parameters-only"),
        pytest.param({"a_key_of_next_year": 5}, id="unknown-key"),
        pytest.param({"init_lora_weights": "gaussian"}, id="plain-init"),
        pytest.param({"init_lora_weights": False}, id="random-init"),
        pytest.param({"layers_to_transform": [1, 2], "layers_pattern": "layers"}, id="some-layers"),
        pytest.param({"exclude_modules": ["lm_head"]}, id="excluded-modules"),
        pytest.param({"rank_pattern": None, "alpha_pattern": None}, id="null-patterns"),
        pytest.param({"lora_alpha": 0.5}, id="fractional-alpha"),
        pytest.param({"eva_config": {"rho": 2.0}, "loftq_config": {}}, id="settings-of-an-init"),
        pytest.param({"base_model_name_or_path": None}, id="no-base"),
        pytest.param({"modules_to_save": []}, id="nothing-saved"),
    ],
)
def test_harmless_setting_is_accepted(changes):
    assert parse_adapter_config(_bytes(**changes)).r == 8


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        pytest.param({"r": 0}, "r", "r is 0 and must be greater than or equal to 1", id="rank-0"),
        pytest.param({"r": 4096}, "r", "r is 4096 and must be less than or equal to 512", id="rank-4096"),
        pytest.param({"r": -1}, "r", "r is -1", id="rank-negative"),
        pytest.param({"r": "8"}, "r", "r is '8'", id="rank-text"),
        pytest.param({"r": True}, "r", "r is True", id="rank-bool"),
        pytest.param({"r": 8.5}, "r", "r is 8.5", id="rank-float"),
        pytest.param({"lora_alpha": 0}, "lora_alpha", "lora_alpha is 0", id="alpha-0"),
        pytest.param({"lora_alpha": 10**19}, "lora_alpha", "lora_alpha is 1", id="alpha-huge"),
        pytest.param({"lora_alpha": None}, "lora_alpha", "lora_alpha is None", id="alpha-null"),
        pytest.param({"peft_type": "LOHA"}, "peft_type", "peft_type is 'LOHA'", id="other-method"),
        pytest.param({"bias": "all"}, "bias", "bias is 'all'", id="bias"),
        pytest.param({"use_dora": True}, "use_dora", "DoRA", id="dora"),
        pytest.param({"use_dora": "yes"}, "use_dora", "DoRA", id="dora-text"),
        pytest.param({"use_rslora": 1}, "use_rslora", "use_rslora is 1", id="rslora-number"),
        pytest.param({"modules_to_save": ["lm_head"]}, "modules_to_save", "replaces whole modules", id="saved-module"),
        pytest.param({"fan_in_fan_out": True}, "fan_in_fan_out", "Conv1D", id="fan-in-fan-out"),
        pytest.param({"lora_bias": True}, "lora_bias", "no bias", id="lora-bias"),
        pytest.param({"use_qalora": True}, "use_qalora", "QALoRA", id="qalora"),
        pytest.param({"alora_invocation_tokens": [1]}, "alora_invocation_tokens", "aLoRA", id="alora"),
        pytest.param({"layer_replication": [[0, 2]]}, "layer_replication", "stacks", id="layer-replication"),
        pytest.param({"trainable_token_indices": [3]}, "trainable_token_indices", "embedding", id="tokens"),
        pytest.param({"use_bdlora": {"nblocks": 2}}, "use_bdlora", "block-diagonal", id="bd-lora"),
        pytest.param({"arrow_config": {"top_k": 3}}, "arrow_config", "Arrow", id="arrow"),
        pytest.param({"kasa_config": {"beta": 1}}, "kasa_config", "KaSA", id="kasa"),
        pytest.param({"monteclora_config": {"x": 1}}, "monteclora_config", "MonteCLoRA", id="monteclora"),
        pytest.param({"init_lora_weights": "pissa"}, "init_lora_weights", "'pissa'", id="pissa"),
        pytest.param({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights", "pissa_niter_4", id="pissa-niter"),
        pytest.param({"init_lora_weights": "olora"}, "init_lora_weights", "'olora'", id="olora"),
        pytest.param({"init_lora_weights": "corda"}, "init_lora_weights", "'corda'", id="corda"),
        pytest.param({"init_lora_weights": "loftq"}, "init_lora_weights", "'loftq'", id="loftq"),
        pytest.param({"use_next_year_lora": True}, "use_next_year_lora", "not known", id="unknown-variant"),
        pytest.param({"next_config": {"a": 1}}, "next_config", "not known", id="unknown-variant-config"),
        pytest.param({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj", "q_proj is 0", id="pattern-rank-0"),
        pytest.param({"rank_pattern": {"(a+)+b": 4}}, "rank_pattern", "only plain names", id="pattern-expression"),
        pytest.param({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern.q_proj", "is 'x'", id="pattern-alpha-text"),
        pytest.param({"target_modules": [1]}, None, "1 and must be", id="targets-numbers"),
        pytest.param({"target_modules": 5}, None, "5 and must be", id="targets-number"),
        pytest.param({"target_parameters": "a"}, "target_parameters", "'a'", id="parameters-text"),
        pytest.param({"base_model_name_or_path": 7}, "base_model_name_or_path", "7", id="base-number"),
    ],
)
def test_setting_that_would_not_be_served_is_refused_by_key(changes, key, message):
    with pytest.raises(AdapterConfigError) as caught:
        parse_adapter_config(_bytes(**changes))

    assert message in str(caught.value)
    assert caught.value.hint
    if key is not None:
        assert caught.value.key == key


@pytest.mark.parametrize("key", ["r", "lora_alpha", "peft_type", "target_modules"])
def test_missing_key_is_named(key):
    held = {name: value for name, value in PLAIN.items() if name != key}

    with pytest.raises(AdapterConfigError, match=f"it has no {key}"):
        parse_adapter_config(json.dumps(held).encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{", "not JSON", id="cut"),
        pytest.param(b"[]", "no JSON object", id="list"),
        pytest.param(b"\xff", "not UTF-8", id="binary"),
        pytest.param(b'{"r": 1, "r": 2}', "the key 'r' twice", id="duplicate"),
        pytest.param(b'{"lora_alpha": Infinity}', "Infinity", id="infinity"),
        pytest.param(b'{"r": 1e400}', "1e400, which is too large", id="float-overflow"),
        pytest.param(b" " * (2**20 + 1), "larger than", id="huge"),
    ],
)
def test_text_that_is_no_config_is_refused(data, message):
    with pytest.raises(AdapterConfigError, match=message):
        parse_adapter_config(data)


def test_rank_alpha_and_scaling_follow_the_patterns():
    config = parse_adapter_config(
        _bytes(
            rank_pattern={"layers.0.self_attn.q_proj": 4, "experts.gate_up_proj": 2},
            alpha_pattern={"q_proj": 12, "experts.down_proj": 3},
        )
    )

    assert config.rank_of("model.layers.0.self_attn.q_proj") == 4
    assert config.rank_of("model.layers.10.self_attn.q_proj") == 8
    assert config.rank_of("model.layers.0.mlp.experts.base_layer") == 2
    assert config.rank_of("model.layers.0.mlp.experts") == 8
    assert config.scaling_of("model.layers.0.self_attn.q_proj") == 3
    assert config.scaling_of("model.layers.0.mlp.experts") == 3 / 8
    assert config.scaling_of("model.layers.0.self_attn.my_q_proj") == 2


def test_scaling_of_rank_stabilised_lora_divides_by_the_root():
    assert parse_adapter_config(_bytes(r=16, lora_alpha=8, use_rslora=True)).scaling_of("q_proj") == 2


@given(
    st.dictionaries(
        st.sampled_from(sorted(PLAIN)), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
    )
)
def test_any_values_give_a_config_or_a_registry_error(changes):
    with suppress(RegistryError):
        parse_adapter_config(_bytes(**changes))
