"""Tiny real adapters and bases, written without torch."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loractl_registry import AuditEvent, Registry, Stage

BF16_BYTES = 2


@dataclass(frozen=True)
class BaseShape:
    """The sizes that adapters and bases here agree on."""

    hidden: int = 16
    layers: int = 1
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 8
    experts: int = 4
    expert_hidden: int = 12
    vocab: int = 32


TINY = BaseShape()


def _bf16(count: int, rng: random.Random) -> bytes:
    words = (struct.unpack("<I", struct.pack("<f", rng.uniform(-1.0, 1.0)))[0] >> 16 for _ in range(count))
    return struct.pack(f"<{count}H", *words)


def safetensors_bytes(tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> bytes:
    """Pack name -> (dtype, shape, data) as a safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, payload) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(payload)]}
        data += payload
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def random_tensors(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """Fill `shapes` with bf16 numbers in [-1, 1] that depend on `seed` alone."""
    rng = random.Random(seed)
    tensors: dict[str, tuple[str, Sequence[int], bytes]] = {}
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        tensors[name] = ("BF16", shape, _bf16(count, rng))
    return tensors


def attention_shapes(shape: BaseShape, rank: int) -> dict[str, Sequence[int]]:
    """Return the PEFT tensors of an adapter on q_proj and v_proj."""
    shapes: dict[str, Sequence[int]] = {}
    for layer in range(shape.layers):
        root = f"base_model.model.model.layers.{layer}.self_attn"
        for module, out in (("q_proj", shape.heads), ("v_proj", shape.kv_heads)):
            shapes[f"{root}.{module}.lora_A.weight"] = (rank, shape.hidden)
            shapes[f"{root}.{module}.lora_B.weight"] = (out * shape.head_dim, rank)
    return shapes


def expert_shapes(shape: BaseShape, rank: int) -> dict[str, Sequence[int]]:
    """Return the PEFT tensors of an adapter on every expert, one pair per expert and projection (2D)."""
    shapes: dict[str, Sequence[int]] = {}
    sides = {
        "gate_proj": (shape.hidden, shape.expert_hidden),
        "up_proj": (shape.hidden, shape.expert_hidden),
        "down_proj": (shape.expert_hidden, shape.hidden),
    }
    for layer in range(shape.layers):
        for expert in range(shape.experts):
            for module, (width, out) in sides.items():
                root = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{module}"
                shapes[f"{root}.lora_A.weight"] = (rank, width)
                shapes[f"{root}.lora_B.weight"] = (out, rank)
    return shapes


def adapter_config(rank: int, base: str | None, modules: Sequence[str]) -> dict[str, object]:
    """Return an adapter_config.json as PEFT writes it."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": list(modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def write_adapter(
    folder: Path,
    base_shape: BaseShape = TINY,
    *,
    rank: int = 4,
    seed: int = 0,
    base: str | None = "tiny-moe",
    on_experts: bool = False,
) -> Path:
    """Write a PEFT folder that a base of `base_shape` can take; equal arguments give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = attention_shapes(base_shape, rank)
    modules = ["q_proj", "v_proj"]
    if on_experts:
        shapes |= expert_shapes(base_shape, rank)
        modules += ["gate_proj", "up_proj", "down_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(rank, base, modules), indent=2))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(random_tensors(shapes, seed)))
    return folder


def base_config(kind: str, shape: BaseShape = TINY) -> dict[str, object]:
    """Return a config.json of model type `kind`; `qwen3_moe` is a Mixture of Experts, `qwen3` is dense."""
    config: dict[str, object] = {
        "architectures": ["Qwen3MoeForCausalLM" if kind == "qwen3_moe" else "Qwen3ForCausalLM"],
        "model_type": kind,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": 2 * shape.hidden,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    if kind == "qwen3_moe":
        config |= {
            "num_experts": shape.experts,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": shape.expert_hidden,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        }
    return config


def write_base(folder: Path, kind: str = "qwen3_moe", shape: BaseShape = TINY, *, seed: int = 0) -> Path:
    """Write a tiny base: config, tokenizer, and a safetensors file with its embedding alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(base_config(kind, shape), indent=2))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}}))
    weights = random_tensors({"model.embed_tokens.weight": (shape.vocab, shape.hidden)}, seed)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights))
    return folder


def replay(events: Sequence[AuditEvent]) -> dict[str, Stage]:
    """Return the stage of every version as the audit log alone tells it, and fail where the log contradicts itself."""
    stages: dict[str, Stage] = {}
    live: dict[str, str] = {}
    for before, event in zip((None, *events), events, strict=False):
        assert before is None or before.sequence < event.sequence
        if event.to_stage is None:
            continue
        assert stages.get(event.subject) is event.from_stage, event
        stages[event.subject] = event.to_stage
        name = event.subject.partition("@")[0]
        if event.from_stage is Stage.LIVE:
            assert live.pop(name) == event.subject
        if event.to_stage is Stage.LIVE:
            assert live.setdefault(name, event.subject) == event.subject, "two live versions of one name"
    return stages


def assert_consistent(registry: Registry) -> None:
    """Fail unless rows, audit log and files agree and nothing is half done."""
    versions = registry.versions()
    assert {str(version.ref): version.stage for version in versions} == replay(registry.history())
    numbers: dict[str, list[int]] = {}
    for version in versions:
        numbers.setdefault(version.ref.name, []).append(version.ref.number)
    assert all(held == list(range(1, len(held) + 1)) for held in numbers.values())
    assert all(one.is_intact for one in registry.verify())
