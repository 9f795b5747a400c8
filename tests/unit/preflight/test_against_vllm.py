"""What preflight believes about vLLM, held against the vLLM that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import pytest
from support.preflight import CONFIGS, PREFIX, RANK, adapter_on, config_of, pair_of, peft_config, peft_values, tensor
from support.vllm_lora import MAX_RANK, Case, Seen, see

from loractl_registry import ExpertLayout
from loractl_registry.preflight import BaseShape, PreflightRefusedError, check_adapter, read_base_shape, slot_bytes

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")

QWEN = CONFIGS["qwen3_moe"]
SUBSETS = (("q_proj",), ("experts",), ("down_proj", "k_proj"), ("up_proj", "o_proj"))
EXPERTS = "model.layers.0.mlp.experts"

# Loaded by vLLM without an error, and wholly or partly without effect: preflight is what stands in their way.
DROPPED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "layer beyond the last": ("qwen3_moe", pair_of("model.layers.7.self_attn.q_proj", 64, 96)),
    "names of another wrapper": ("qwen3_moe", pair_of("model.language_model.layers.0.self_attn.q_proj", 64, 96)),
    "names without a model": ("qwen3_moe", pair_of("layers.0.self_attn.q_proj", 64, 96)),
    "nested wrapper": ("qwen3_moe", pair_of("model.layers.0.self_attn.q_proj.base_layer", 64, 96)),
    "experts in a dense layer": (
        "qwen3_moe",
        {name.replace("layers.0", "layers.1"): info for name, info in adapter_on(QWEN, only=["experts"]).items()},
    ),
    "newer names of mixtral": (
        "mixtral",
        {
            name.replace("block_sparse_moe", "mlp"): info
            for name, info in adapter_on(CONFIGS["mixtral"], only=["experts"]).items()
        },
    ),
    "attention in an mlp": ("llama", pair_of("model.layers.0.mlp.q_proj", 64, 96)),
    "copy of an embedding": (
        "llama",
        {
            **pair_of("model.layers.0.self_attn.q_proj", 64, 96),
            f"{PREFIX}model.embed_tokens.base_layer.weight": tensor(256, 64),
        },
    ),
    "smaller sizes": ("llama", pair_of("model.layers.0.self_attn.q_proj", 60, 90)),
}

# Wrapped and loaded by vLLM, and passed by in its forward: the attribute that computes is not the wrapper.
PASSED_BY = {
    "qwen3_moe": {
        "model.layers.0.mlp.gate": "model.layers.0.mlp.experts.base_layer.gate",
    },
    "deepseek_v3": {
        "model.layers.1.mlp.gate": "model.layers.1.mlp.experts.base_layer.gate",
        "model.layers.0.self_attn.kv_b_proj": "model.layers.0.self_attn.mla_attn.mla_attn.impl.kv_b_proj",
    },
    "deepseek_v2": {
        "model.layers.1.mlp.gate": "model.layers.1.mlp.experts.base_layer.gate",
        "model.layers.0.self_attn.kv_b_proj": "model.layers.0.self_attn.mla_attn.mla_attn.impl.kv_b_proj",
    },
    "qwen2_moe": {"model.layers.0.mlp.shared_expert_gate": "model.layers.0.mlp.shared_expert.expert_gate"},
}
ASKED = {
    "deepseek_v3": {
        "model.layers.0.self_attn.q_a_proj": "model.layers.0.self_attn.mla_attn.fused_qkv_a_proj",
        "model.layers.0.self_attn.q_b_proj": "model.layers.0.self_attn.mla_attn.q_b_proj",
        "model.layers.0.self_attn.o_proj": "model.layers.0.self_attn.mla_attn.o_proj",
    },
    "deepseek_v2": {
        "model.layers.0.self_attn.q_proj": "model.layers.0.self_attn.mla_attn.q_proj",
        "model.layers.0.self_attn.kv_a_proj_with_mqa": "model.layers.0.self_attn.mla_attn.kv_a_proj_with_mqa",
    },
}


def shapes(tensors):
    return {name: info.shape for name, info in tensors.items()}


def engine_path(path: str, kind: str) -> str:
    return path.replace(".self_attn.", ".attn.") if kind == "gpt_oss" else path


def expected_modules(base: BaseShape) -> set[str]:
    linears = {f"{path.rpartition('.')[0]}.{linear.layer}".lstrip(".") for path, linear in base.linears.items()}
    inert = {path for path, inert in base.inert.items() if inert.wrapped is not None}
    return {engine_path(path, base.model_type) for path in linears | inert | set(base.experts)}


def cases() -> dict[str, Case]:
    # First, because vLLM notes what it learnt from mlp_only_layers on the class, for every model that follows.
    stepped = config_of("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[])
    gate = {"gate": shapes(pair_of("model.layers.0.mlp.gate_proj", 64, 112))}
    found = {"stepped": Case(stepped, adapters=gate, peft=peft_values())}
    for kind, config in CONFIGS.items():
        dropped = {name: shapes(tensors) for name, (base, tensors) in DROPPED.items() if base == kind}
        paths = [*PASSED_BY.get(kind, {}).values(), *ASKED.get(kind, {}).values()]
        adapters = {"all": shapes(adapter_on(config)), **dropped}
        found[kind] = Case(config, adapters=adapters, peft=peft_values(), paths=paths)
    for modules in SUBSETS:
        found[f"qwen3_moe {modules}"] = Case(QWEN, {"lora_target_modules": list(modules)})
        found[f"gpt_oss {modules}"] = Case(CONFIGS["gpt_oss"], {"lora_target_modules": list(modules)})
    for kind in ("qwen3_moe", "olmoe"):
        both = {
            "2d": shapes(adapter_on(CONFIGS[kind], only=["experts"])),
            "3d": shapes(adapter_on(CONFIGS[kind], only=["experts"], layout=ExpertLayout.FUSED)),
        }
        mixed = {"enable_mixed_moe_lora_format": True}
        found[f"{kind} mixed"] = Case(CONFIGS[kind], mixed, both, peft_values(), ["3d"])
        found[f"{kind} not mixed"] = Case(CONFIGS[kind], {}, {"3d": both["3d"]}, peft_values(), ["3d"])
    return found


@pytest.fixture(scope="module")
def seen() -> dict[str, Seen]:
    return see(cases())


@pytest.mark.parametrize("kind", CONFIGS)
def test_wrapped_modules_are_those_that_preflight_knows(kind, seen):
    assert set(seen[kind].modules) == expected_modules(read_base_shape(CONFIGS[kind]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_buffers_of_a_slot_cost_what_preflight_predicts(kind, seen):
    base = read_base_shape(CONFIGS[kind])

    assert slot_bytes(base, (), MAX_RANK, element_bytes=4) == seen[kind].slot_bytes


@pytest.mark.parametrize("modules", SUBSETS)
@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_planned_modules_cost_what_preflight_predicts(kind, modules, seen):
    base = read_base_shape(CONFIGS[kind])

    assert slot_bytes(base, modules, MAX_RANK, element_bytes=4) == seen[f"{kind} {modules}"].slot_bytes


@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe"])
def test_both_layouts_load_where_planned_and_cost_as_predicted(kind, seen):
    found = seen[f"{kind} mixed"]
    base = read_base_shape(CONFIGS[kind])
    parts = {f"{path}#{part}" for path in base.experts for part in range(3)}

    assert set(found.loaded["2d"]) == set(found.loaded["3d"]) == parts
    assert slot_bytes(base, (), MAX_RANK, element_bytes=4, is_mixed=True) == found.slot_bytes


@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe"])
def test_fused_experts_do_not_load_where_not_planned(kind, seen):
    assert "enable_mixed_moe_lora_format" in str(seen[f"{kind} not mixed"].loaded["3d"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapter_that_passes_is_loaded_into_every_part(kind, seen):
    base = read_base_shape(CONFIGS[kind])
    check_adapter(adapter_on(CONFIGS[kind]), peft_config(), CONFIGS[kind])
    inert = {engine_path(path, kind) for path in base.inert}

    loaded = seen[kind].loaded["all"]

    assert not isinstance(loaded, str), loaded
    assert {part.partition("#")[0] for part in loaded} == set(seen[kind].modules) - inert
    pairs = len(base.linears) + sum(2 if each.is_fused_natively else 3 for each in base.experts.values())
    assert len(loaded) == pairs


@pytest.mark.parametrize("name", DROPPED)
def test_adapter_that_vllm_drops_without_a_word_is_refused(name, seen):
    kind, tensors = DROPPED[name]
    loaded = seen[kind].loaded[name]

    with pytest.raises(PreflightRefusedError):
        check_adapter(tensors, peft_config(RANK), CONFIGS[kind])
    assert not isinstance(loaded, str), loaded
    assert len(loaded) < len(tensors) / 2 or name == "smaller sizes"


@pytest.mark.parametrize("kind", PASSED_BY)
def test_module_that_vllm_wraps_and_passes_by_is_inert(kind, seen):
    base = read_base_shape(CONFIGS[kind])
    for module, computing in PASSED_BY[kind].items():
        assert seen[kind].modules[module].endswith("WithLoRA")
        assert not seen[kind].classes[computing].endswith("WithLoRA")
        assert module in base.inert


@pytest.mark.parametrize("kind", ASKED)
def test_module_of_latent_attention_that_computes_is_the_wrapper(kind, seen):
    base = read_base_shape(CONFIGS[kind])
    for module, computing in ASKED[kind].items():
        assert seen[kind].classes[computing].endswith("WithLoRA")
        assert module in base.linears


def test_gate_of_layers_made_dense_by_step_alone_does_not_load(seen):
    loaded = seen["stepped"].loaded["gate"]

    assert "gate_proj" in str(loaded)
    assert isinstance(loaded, str)
