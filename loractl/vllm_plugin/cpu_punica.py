"""vLLM's punica wrapper on CPU, with MoE deltas and with rows of the base model left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import vllm.lora.punica_wrapper.punica_cpu as punica_cpu
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from loractl.vllm_plugin.compat import Symbol
from loractl_kernels import add_routed_delta


class LoractlPunicaWrapperCPU(PunicaWrapperCPU):
    """Adds to vLLM's wrapper the two operations that MoE layers ask for."""

    def add_lora_w13(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        topk_ids: Tensor,
        *_unused: Any,
        token_lora_mapping: Tensor | None = None,
        **_ignored: Any,
    ) -> tuple[None, None, None, Tensor]:
        """Add the deltas of gate and up, slice by slice along the columns of `y`.

        Args:
            y: [num_tokens, top_k, N13], the base's result; updated.
            x: [num_tokens, hidden].
            lora_a_stacked: Per slice [max_loras, num_experts, rank, hidden].
            lora_b_stacked: Per slice [max_loras, num_experts, N13 / slices, rank].
            topk_ids: [num_tokens, top_k] expert of each pair.
            token_lora_mapping: [num_tokens] slot of each token, or None for the wrapper's own.

        Returns:
            vLLM's routing plan for the second projection, of which only the mapping is used here.
        """
        top_k = topk_ids.shape[1]
        mapping = self._slots(topk_ids.shape[0]) if token_lora_mapping is None else token_lora_mapping
        pairs = y.view(-1, y.shape[-1])
        spread = x.repeat_interleave(top_k, dim=0)
        start = 0
        for lora_a, lora_b in zip(lora_a_stacked, lora_b_stacked, strict=True):
            columns = pairs[:, start : start + lora_b.shape[2]]
            add_routed_delta(columns, spread, lora_a, lora_b, mapping.repeat_interleave(top_k), topk_ids.flatten())
            start += lora_b.shape[2]
        return None, None, None, mapping

    def add_lora_w2(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        topk_weights: Tensor,
        *_unused: Any,
        topk_ids: Tensor,
        token_lora_mapping: Tensor,
    ) -> None:
        """Add the weighted deltas of the down projection.

        Args:
            y: [num_tokens, top_k, hidden], the base's weighted result; updated.
            x: [num_tokens * top_k, intermediate].
            lora_a_stacked: One [max_loras, num_experts, rank, intermediate].
            lora_b_stacked: One [max_loras, num_experts, hidden, rank].
            topk_weights: [num_tokens, top_k] fp32.
            topk_ids: [num_tokens, top_k] expert of each pair.
            token_lora_mapping: [num_tokens] slot of each token.
        """
        add_routed_delta(
            y.view(-1, y.shape[-1]),
            x,
            lora_a_stacked[0],
            lora_b_stacked[0],
            token_lora_mapping.repeat_interleave(topk_ids.shape[1]),
            topk_ids.flatten(),
            pair_weight=topk_weights.flatten(),
        )

    def _slots(self, num_tokens: int) -> Tensor:
        """Return [num_tokens] slots; rows that a padded or profiling run has beyond its mapping are the base's."""
        known = self.token_lora_indices[:num_tokens]
        return torch.nn.functional.pad(known, (0, num_tokens - known.shape[0]), value=-1)


def install_punica(symbols: Mapping[str, Symbol]) -> None:
    """Make the CPU platform hand out our wrapper, and give rows without an adapter a delta of zero.

    vLLM 0.32.0's torch operations index the stack with -1 for such rows, which is the last slot: base requests batched with
    adapters answer with another adapter's weights.
    """
    symbols["cpu_punica"].resolve()
    symbols["cpu_platform"].resolve()
    from vllm.platforms.cpu import CpuPlatform

    qualified_name = f"{LoractlPunicaWrapperCPU.__module__}.{LoractlPunicaWrapperCPU.__qualname__}"
    CpuPlatform.get_punica_wrapper = classmethod(lambda cls: qualified_name)
    symbols["cpu_bgmv_shrink"].resolve()
    punica_cpu.bgmv_shrink = _bgmv_shrink
    punica_cpu.sgmv_shrink = _sgmv_shrink


_original_bgmv_shrink = punica_cpu.bgmv_shrink


def _bgmv_shrink(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, scaling: float = 1.0) -> None:
    _original_bgmv_shrink(inputs, weights, output, indices, scaling)
    output.masked_fill_((indices < 0).unsqueeze(-1), 0)


def _sgmv_shrink(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    _starts: Tensor,
    lengths: Tensor,
    indices: Tensor,
    _batches: int,
    _max_length: int,
    _num_tokens: int,
    scaling: float,
) -> None:
    _bgmv_shrink(inputs, weights, output, torch.repeat_interleave(indices, lengths), scaling)
