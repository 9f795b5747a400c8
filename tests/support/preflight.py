"""Tiny configurations of every known architecture, and adapters on them as headers without data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod

from loractl_registry import ExpertLayout
from loractl_registry.adapter_config import AdapterConfig, parse_adapter_config
from loractl_registry.preflight import BaseShape, read_base_shape
from loractl_registry.safetensors_header import TensorInfo

PREFIX = "base_model.model."
RANK = 4
Config = Mapping[str, object]
Tensors = dict[str, TensorInfo]

# No two sizes that meet in one matrix are equal, nor is one twice the other, so that nothing fits by accident.
_COMMON: Config = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
_LATENT: Config = {
    "intermediate_size": 112,
    "moe_intermediate_size": 40,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
}
_OWN: Mapping[str, Config] = {
    "deepseek_v2": {
        **_LATENT,
        "architectures": ["DeepseekV2ForCausalLM"],
        "q_lora_rank": None,
        "n_shared_experts": 2,
        "topk_method": "greedy",
        "scoring_func": "softmax",
    },
    "deepseek_v3": {
        **_LATENT,
        "architectures": ["DeepseekV3ForCausalLM"],
        "q_lora_rank": 48,
        "n_shared_experts": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    "gpt_oss": {
        "architectures": ["GptOssForCausalLM"],
        "intermediate_size": 40,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "llama": {"architectures": ["LlamaForCausalLM"], "intermediate_size": 112},
    "mistral": {"architectures": ["MistralForCausalLM"], "intermediate_size": 112},
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": 112,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "olmoe": {
        "architectures": ["OlmoeForCausalLM"],
        "intermediate_size": 40,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "intermediate_size": 112},
    "qwen2_moe": {
        "architectures": ["Qwen2MoeForCausalLM"],
        "intermediate_size": 112,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 176,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "intermediate_size": 112},
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "intermediate_size": 112,
        "moe_intermediate_size": 40,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
        "norm_topk_prob": True,
    },
}
CONFIGS: Mapping[str, Config] = {kind: {**_COMMON, "model_type": kind, **own} for kind, own in _OWN.items()}


def config_of(kind: str, **changes: object) -> Config:
    """Return the configuration of a tiny base, with changes; None takes a key away."""
    return {key: value for key, value in {**CONFIGS[kind], **changes}.items() if value is not None}


def tensor(*shape: int) -> TensorInfo:
    """Return a tensor of this shape in bfloat16; where its data would be is of no concern to preflight."""
    return TensorInfo("BF16", shape, 0, 2 * prod(shape))


def pair_of(module: str, in_features: int, out_features: int, *, rank: int = RANK, stacked: int = 1) -> Tensors:
    """Return the A and B of one module."""
    return {
        f"{PREFIX}{module}.lora_A.weight": tensor(rank * stacked, in_features),
        f"{PREFIX}{module}.lora_B.weight": tensor(out_features, rank * stacked),
    }


def adapter_on(
    base: Config,
    *,
    only: Iterable[str] | None = None,
    layout: ExpertLayout | None = None,
    rank: int = RANK,
) -> Tensors:
    """Return an adapter on all that a base takes, or on modules with these last names ``only``."""
    shape = read_base_shape(base)
    wanted = None if only is None else frozenset(only)
    tensors: Tensors = {}
    for path, linear in shape.linears.items():
        if wanted is not None and path.rpartition(".")[2] not in wanted:
            continue
        if linear.is_embedding:
            tensors[f"{PREFIX}{path}.lora_embedding_A"] = tensor(rank, linear.in_features)
            tensors[f"{PREFIX}{path}.lora_embedding_B"] = tensor(linear.out_features, rank)
        else:
            tensors |= pair_of(path, linear.in_features, linear.out_features, rank=rank)
    if wanted is None or "experts" in wanted:
        tensors |= _experts_of(shape, layout, rank)
    return tensors


def _experts_of(shape: BaseShape, layout: ExpertLayout | None, rank: int) -> Tensors:
    tensors: Tensors = {}
    for path, experts in shape.experts.items():
        is_fused = experts.is_fused_natively if layout is None else layout is ExpertLayout.FUSED
        if is_fused:
            gate_up = (experts.hidden, 2 * experts.intermediate)
            tensors |= pair_of(f"{path}.base_layer", *gate_up, rank=rank, stacked=experts.count)
            tensors |= pair_of(path, experts.intermediate, experts.hidden, rank=rank, stacked=experts.count)
            continue
        names = {each.name: each for each in experts.projections.values()}
        for expert in range(experts.count):
            for name, each in names.items():
                tensors |= pair_of(f"{path}.{expert}.{name}", each.in_features, each.out_features, rank=rank)
    return tensors


def peft_config(rank: int = RANK, **changes: object) -> AdapterConfig:
    """Return an adapter_config.json, read as the registry reads it."""
    return parse_adapter_config(json.dumps(peft_values(rank, **changes)).encode())


def peft_values(rank: int = RANK, **changes: object) -> dict[str, object]:
    """Return the values of an adapter_config.json."""
    values: dict[str, object] = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    return values | changes
