"""Tiny bases, adapters with merged references, and a real engine to serve them, for the tests of the engine."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

from loractl.engine.plan import Device, EnginePlan
from loractl.logs import private_log_file
from loractl.serving.process import EngineProcess
from loractl.vllm_plugin.command import engine_command
from loractl_registry import ExpertLayout

if TYPE_CHECKING:
    import torch

BaseKind = Literal["qwen3moe", "gptoss"]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 4
# Twice this is not the hidden size, so that a matrix that is transposed somewhere cannot fit by accident.
INTERMEDIATE = 96
ALPHA = 8
START_TIMEOUT_S = 240
# Large enough that an adapter that is dropped, or meets a wrong row, moves logprobs by far more than the tolerance.
_INIT_STD = 0.15
_DELTA_STD = 0.2
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "hello world how are you today",
    "mixture of experts models route tokens to experts",
    "low rank adapters change the weights",
)


@dataclass(frozen=True)
class BuiltAdapter:
    """An adapter on disk, and the base with it merged in, in fp32."""

    path: Path
    is_fused: bool
    merged: torch.nn.Module


def build_base(kind: BaseKind, folder: Path) -> torch.nn.Module:
    """Write a random base of 0.6 million parameters with a tokenizer to `folder`, and return it."""
    import torch
    from transformers import GptOssConfig, GptOssForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    vocab_size, end, pad = _write_tokenizer(folder)
    common = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "num_experts_per_tok": 2,
        "initializer_range": _INIT_STD,
        "eos_token_id": end,
        "pad_token_id": pad,
        "bos_token_id": None,
    }
    model: torch.nn.Module
    if kind == "qwen3moe":
        qwen = Qwen3MoeConfig(
            **common, intermediate_size=256, moe_intermediate_size=INTERMEDIATE, num_experts=8, norm_topk_prob=True
        )
        model = Qwen3MoeForCausalLM(qwen)
    else:
        layers = ["sliding_attention", "full_attention"]
        gpt_oss = GptOssConfig(
            **common, intermediate_size=INTERMEDIATE, num_local_experts=8, sliding_window=128, layer_types=layers
        )
        model = GptOssForCausalLM(gpt_oss)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "sinks" in name:
                    parameter.normal_(0, 0.1)
    model = model.float().eval()
    model.save_pretrained(folder)
    return model


def peft_adapter(base: Path, folder: Path, *, seed: int, modules: tuple[str, ...] = (), experts: bool) -> BuiltAdapter:
    """Let PEFT write an adapter on `modules` and, in its fused layout, on experts, and merge the reference."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(modules),
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if experts else None,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_base(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _DELTA_STD)
    model.save_pretrained(folder)
    return BuiltAdapter(folder, experts, model.merge_and_unload().eval())


def per_expert_adapter(base: Path, folder: Path, *, seed: int) -> BuiltAdapter:
    """Write an adapter on Qwen3-MoE's experts, one pair of tensors an expert and projection, as older PEFT did."""
    import json

    import torch
    from safetensors.torch import save_file

    model = load_base(base)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}

    def delta(name: str, out_features: int, in_features: int) -> torch.Tensor:
        a = torch.randn(RANK, in_features, generator=generator) * _DELTA_STD
        b = torch.randn(out_features, RANK, generator=generator) * _DELTA_STD
        tensors[f"base_model.model.{name}.lora_A.weight"], tensors[f"base_model.model.{name}.lora_B.weight"] = a, b
        return (ALPHA / RANK) * b @ a

    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            gate_up, down = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj  # [E, 2I, H], [E, H, I]
            hidden, intermediate = down.shape[1], down.shape[2]
            for expert in range(down.shape[0]):
                name = f"model.layers.{index}.mlp.experts.{expert}"
                gate_up[expert, :intermediate] += delta(f"{name}.gate_proj", intermediate, hidden)
                gate_up[expert, intermediate:] += delta(f"{name}.up_proj", intermediate, hidden)
                down[expert] += delta(f"{name}.down_proj", hidden, intermediate)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["gate_proj", "up_proj", "down_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return BuiltAdapter(folder, False, model.eval())


def load_base(folder: Path) -> torch.nn.Module:
    """Read a base back in fp32; an independent copy that may be changed."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logprobs_of(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> tuple[list[float], list[float]]:
    """Return, for each token of `answer`, its logprob by `model` and that of the likeliest token in its place."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
    table = torch.log_softmax(logits, dim=-1)
    return table.gather(1, torch.tensor(answer).unsqueeze(1)).squeeze(1).tolist(), table.max(dim=1).values.tolist()


def cpu_plan(*, slots: int, host_slots: int, is_mixed: bool, modules: tuple[str, ...] = ()) -> EnginePlan:
    """Return a plan for a tiny base on CPU."""
    return EnginePlan(
        base="base",
        device=Device.CPU,
        slots=slots,
        host_slots=host_slots,
        max_rank=8,
        modules=modules,
        layouts=(ExpertLayout.PER_EXPERT, ExpertLayout.FUSED) if is_mixed else (ExpertLayout.FUSED,),
        is_mixed=is_mixed,
        max_context=512,
        cache_bytes=32 * 2**20,
        dtype="float32",
        rows=(),
    )


@dataclass(frozen=True)
class RunningEngine:
    """A real engine whose port tests drive over HTTP, through `support.engine_port`."""

    url: str
    log: Path
    startup_s: float

    def port(self, verb: str, **body: object) -> httpx.Response:
        """Call one method of the engine port."""
        return httpx.post(f"{self.url}/port/{verb}", json=body, timeout=60)

    def complete(self, model: str, prompt: str, tokens: int) -> tuple[list[int], list[int], list[float]]:
        """Return the ids of the prompt, the ids of a greedy answer and their logprobs."""
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 1}
        options = {"return_token_ids": True, "ignore_eos": True}
        response = httpx.post(f"{self.url}/v1/completions", json=body | options, timeout=120)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        return choice["prompt_token_ids"], choice["token_ids"], choice["logprobs"]["token_logprobs"]


@contextlib.contextmanager
def running_engine(base: Path, plan: EnginePlan, log: Path) -> Iterator[RunningEngine]:
    """Start vLLM for `plan` with the engine port in front of it, and end it with everything that it started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    middleware = "support.engine_port.PortMiddleware"
    command = engine_command(plan, base_path=base, host="127.0.0.1", port=port, middleware=middleware)
    environment = {**os.environ, **command.env, "PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.monotonic()
    # The guard ends the engine even when the tests themselves are killed.
    process = EngineProcess(command.argv, environment, on_line=lambda _: None, log=private_log_file(log))
    try:
        _wait(process, f"http://127.0.0.1:{port}")
        yield RunningEngine(f"http://127.0.0.1:{port}", log, time.monotonic() - began)
    finally:
        process.kill()


def _wait(process: EngineProcess, url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    lines = "\n".join(process.tail(40))
    raise AssertionError(f"the engine did not answer; its last lines:\n{lines}")


def _write_tokenizer(folder: Path) -> tuple[int, int, int]:
    """Train a byte-level BPE tokenizer; return the padded size of its vocabulary and its end and padding ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(_CORPUS) * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None
    )
    fast.chat_template = _CHAT
    fast.save_pretrained(folder)
    return (len(fast) + 63) // 64 * 64, fast.eos_token_id, fast.pad_token_id
