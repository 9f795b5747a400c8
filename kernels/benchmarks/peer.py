"""vLLM's own MoE-LoRA path, as its punica wrapper runs it in an engine."""

from __future__ import annotations

from typing import Any

import torch

from loractl_kernels.bench import Batch, Step


class VllmBackend:
    """add_lora_w13, then add_lora_w2, with what vLLM takes where no file of tuned numbers is given."""

    name = "vllm"
    slack = 3.0

    def __init__(self, max_tokens: int, device: torch.device) -> None:
        from vllm.config import VllmConfig, set_current_vllm_config  # an engine, that others need not have

        self._max_tokens, self._device = max_tokens, device
        self._wrappers: dict[tuple[int, int], Any] = {}
        # For as long as the process measures: the wrapper asks for it at every step.
        self._context = set_current_vllm_config(VllmConfig())
        self._context.__enter__()

    def prepare(self, batch: Batch) -> Step:
        """Return both calls, over slots that are mapped as `batch` says."""
        from vllm.lora.layers import LoRAMapping

        case, shape = batch.case, batch.case.shape
        wrapper = self._wrapper(case.max_loras, case.rank)
        ids = tuple(slot + 1 for slot in batch.token_slot.tolist())
        wrapper.update_metadata(
            LoRAMapping(ids, ids, is_prefill=case.tokens > 256),
            [slot + 1 for slot in range(case.max_loras)],
            case.max_loras,
            100_000,
        )
        wide = 2 * shape.intermediate
        w1 = torch.empty(shape.experts, wide, shape.hidden, device="meta")
        w2 = torch.empty(shape.experts, shape.hidden, shape.intermediate, device="meta")
        y2 = batch.y2.view(case.tokens, shape.top_k, shape.hidden)
        enabled, loras, top_k = batch.slot_enabled, case.max_loras, shape.top_k

        def step() -> None:
            planned = wrapper.add_lora_w13(
                batch.y13, batch.x, batch.w13.a, batch.w13.b, batch.topk_ids, batch.topk_weight, None, w1, w2,
                case.tokens, top_k, loras, enabled, shape.experts, top_k, shape.slices,
                fully_sharded=False, use_tuned_config=False,
            )  # fmt: skip
            wrapper.add_lora_w2(
                y2, batch.act, batch.w2.a, batch.w2.b, batch.topk_weight, *planned, case.tokens, w1, w2, top_k, loras,
                enabled, top_k, fully_sharded=False, tp_rank=0, use_tuned_config=False,
            )  # fmt: skip

        return step

    def _wrapper(self, max_loras: int, rank: int) -> Any:
        from vllm.config.lora import LoRAConfig
        from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

        found = self._wrappers.get((max_loras, rank))
        if found is None:
            config = LoRAConfig(
                max_lora_rank=rank, max_loras=max_loras, max_cpu_loras=max_loras, lora_dtype=torch.bfloat16
            )
            found = PunicaWrapperGPU(self._max_tokens, 256, self._device, max_loras=max_loras, lora_config=config)
            self._wrappers[max_loras, rank] = found
        return found
