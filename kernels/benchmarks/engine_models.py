"""The models, adapters and engine arguments of the whole-engine benchmark."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

MODEL_NAMES = {"gptoss": "gpt-oss-20b", "qwen": "Qwen3-30B-A3B"}
ENGINES = ("base", "loractl", "vllm")
FAST_GRAPHS = (1, 8, 32, 128)  # instead of those for decode
_POOL_VALUES = 1 << 24
_ADAPTER_STD = 0.02


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """What an adapter on the experts needs to know of a layer.

    Attributes:
        experts: Experts of a layer.
        hidden: Columns of the layer's input.
        intermediate: Columns between the two projections.
    """

    experts: int
    hidden: int
    intermediate: int


SHAPES = {"gptoss": ExpertShape(32, 2880, 2880), "qwen": ExpertShape(128, 2048, 768)}


def model_config(model: str, layers: int) -> dict[str, object]:
    """Return the config.json of `model`, cut or stretched to `layers` layers; everything else is the published one."""
    shape = SHAPES[model]
    shared = {
        "attention_dropout": 0.0,
        "head_dim": 64 if model == "gptoss" else 128,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "num_hidden_layers": layers,
        "output_router_logits": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    return shared | (_gptoss_config(layers) if model == "gptoss" else _qwen_config())


def _gptoss_config(layers: int) -> dict[str, object]:
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "initial_context_length": 4096,
        "intermediate_size": 2880,
        "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)],
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "vocab_size": 201088,
    }


def _qwen_config() -> dict[str, object]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 151643,
        "decoder_sparse_step": 1,
        "eos_token_id": 151645,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "vocab_size": 151936,
    }


def engine_kwargs(model: str, engine: str) -> dict[str, object]:
    """Return what `engine` is given beyond the arguments that all engines share.

    The head stays unwrapped, as `lora_target_modules` has it: vLLM fails on a prompt's log-probabilities, which the
    gate asks for, with adapters on the head.

    Args:
        model: A key of `MODEL_NAMES`.
        engine: One of `ENGINES`: no LoRA at its best, loractl's kernels, or vLLM's own at their best flags.
    """
    if engine == "base":
        return {"moe_backend": "auto"}
    chosen: dict[str, object] = {"lora_target_modules": ["experts"], "moe_backend": "auto"}
    if model == "gptoss" and engine == "vllm":
        chosen["moe_backend"] = "triton_unfused"
    return chosen


def engine_environment(engine: str, *, fast: bool) -> dict[str, str]:
    """Return the environment variables of `engine`'s process.

    Args:
        engine: One of `ENGINES`.
        fast: Whether to skip the graph capture that only estimates memory.
    """
    chosen = {
        "HF_HUB_OFFLINE": "1",
        "LORACTL_KERNELS_BACKEND": "auto" if engine == "loractl" else "vllm",
        "PYTHONUNBUFFERED": "1",
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if fast:
        chosen["VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS"] = "0"
    return chosen


def write_model(folder: Path, model: str, layers: int) -> None:
    """Write the folder that vLLM starts from: a config alone, for weights are made up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model_config(model, layers), indent=1), encoding="utf-8")


def write_adapters(
    folder: Path, model: str, layers: int, rank: int, count: int, *, shape: ExpertShape | None = None
) -> list[Path]:
    """Write `count` adapters on all experts in PEFT's format, unless they are there, and return their folders.

    They share one file of tensors; each has a scale of its own, so that an adapter in place of another shows.

    Args:
        folder: Where to write.
        model: A key of `MODEL_NAMES`; says whether tensors are per expert (2D) or fused (3D).
        layers: Layers of the model.
        rank: Rank of every adapter.
        count: How many adapters.
        shape: The experts' shape, if not the model's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = folder / "adapter_model.safetensors"
    if not tensors.exists():
        partial = tensors.with_suffix(f".{os.getpid()}")  # several engines may start at once
        save_file(_adapter_tensors(model, layers, rank, shape or SHAPES[model]), partial)
        partial.rename(tensors)
    folders = [folder / f"adapter-{index}" for index in range(count)]
    for index, adapter in enumerate(folders):
        adapter.mkdir(exist_ok=True)
        config = _adapter_config(model, rank, alpha=2 * rank + rank * index // 4)
        (adapter / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        link = adapter / tensors.name
        with contextlib.suppress(FileExistsError):
            link.symlink_to(tensors.resolve())
    return folders


def _adapter_config(model: str, rank: int, *, alpha: int) -> dict[str, object]:
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": MODEL_NAMES[model],
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [] if model == "gptoss" else ["gate_proj", "up_proj", "down_proj"],
    }
    if model == "gptoss":
        config["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    return config


def _adapter_tensors(model: str, layers: int, rank: int, shape: ExpertShape) -> dict[str, Tensor]:
    """Return an adapter's tensors: pieces of one pool of normal values, from places drawn at random."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(_POOL_VALUES, generator=generator).mul_(_ADAPTER_STD).to(torch.bfloat16)

    def piece(*sizes: int) -> Tensor:
        elements = torch.Size(sizes).numel()
        start = int(torch.randint(max(1, _POOL_VALUES - elements), (1,), generator=generator))
        return pool[start : start + elements].reshape(sizes).clone()

    experts, hidden, intermediate = shape.experts, shape.hidden, shape.intermediate
    tensors: dict[str, Tensor] = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.mlp.experts"
        if model == "gptoss":
            tensors[f"{name}.base_layer.lora_A.weight"] = piece(rank * experts, hidden)
            tensors[f"{name}.base_layer.lora_B.weight"] = piece(2 * intermediate, rank * experts)
            tensors[f"{name}.lora_A.weight"] = piece(rank * experts, intermediate)
            tensors[f"{name}.lora_B.weight"] = piece(hidden, rank * experts)
            continue
        for expert in range(experts):
            for projection in ("gate_proj", "up_proj", "down_proj"):
                inner, outer = (intermediate, hidden) if projection == "down_proj" else (hidden, intermediate)
                tensors[f"{name}.{expert}.{projection}.lora_A.weight"] = piece(rank, inner)
                tensors[f"{name}.{expert}.{projection}.lora_B.weight"] = piece(outer, rank)
    return tensors
