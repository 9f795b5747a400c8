from __future__ import annotations

import json

import pytest
from support.registry import adapter_config

from loractl_registry.adapter_config import parse_adapter_config
from loractl_registry.adapter_facts import facts_of, module_of
from loractl_registry.records import ExpertLayout
from loractl_registry.safetensors_header import TensorInfo

ROOT = "base_model.model.model.layers.0"


def _facts(shapes, **changes):
    config = parse_adapter_config(json.dumps({**adapter_config(4, None, []), **changes}).encode())
    return facts_of(config, {name: TensorInfo(dtype, shape, 0, 0) for name, (dtype, shape) in shapes.items()})


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        (f"{ROOT}.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj"),
        (f"{ROOT}.mlp.experts.base_layer.lora_B.weight", "model.layers.0.mlp.experts.base_layer"),
        ("model.embed_tokens.lora_embedding_A", "model.embed_tokens"),
        (f"{ROOT}.self_attn.q_proj.lora_magnitude_vector", None),
        (f"{ROOT}.self_attn.q_proj.weight", None),
    ],
)
def test_module_of_a_tensor(tensor, module):
    assert module_of(tensor) == module


def test_fused_experts_take_their_rank_from_the_config():
    facts = _facts(
        {
            f"{ROOT}.mlp.experts.base_layer.lora_A.weight": ("BF16", (64, 16)),
            f"{ROOT}.mlp.experts.lora_A.weight": ("BF16", (128, 16)),
        },
        rank_pattern={"experts.down_proj": 8},
    )

    assert (facts.rank, facts.experts, facts.modules) == (8, ExpertLayout.FUSED, ("experts",))


def test_rank_is_the_largest_of_any_pair():
    facts = _facts(
        {f"{ROOT}.a.lora_A.weight": ("F32", (16, 99)), f"{ROOT}.a.lora_B.weight": ("BF16", (99, 16))},
        rank_pattern={"a": 16},
    )

    assert (facts.rank, facts.dtype, facts.experts) == (16, "float32", ExpertLayout.NONE)


def test_shared_expert_is_no_expert():
    facts = _facts({f"{ROOT}.mlp.shared_expert.up_proj.lora_A.weight": ("F16", (4, 9))})

    assert (facts.modules, facts.experts) == (("up_proj",), ExpertLayout.NONE)
