"""vLLM's punica wrapper on CPU, with MoE deltas and with rows of the base model left alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
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
        topk_weights: Tensor,
        expert_map: Tensor | None,
        w1: Tensor,
        w2: Tensor,
        num_tokens: int,
        top_k_num: int,
        max_loras: int,
        adapter_enabled: Tensor,
        local_num_experts: int,
        top_k: int,
        num_slices: int,
        fully_sharded: bool,
        use_tuned_config: bool,
        add_inputs: bool = True,
        token_lora_mapping: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Add the deltas of gate and up, slice by slice along the columns of `y`.

        Args:
            y: [num_tokens, top_k, N13], the base's result; updated.
            x: [num_tokens, hidden].
            lora_a_stacked: Per slice [max_loras, num_experts, rank, hidden].
            lora_b_stacked: Per slice [max_loras, num_experts, N13 / slices, rank].
            topk_ids: [num_tokens, top_k] expert of each pair.
            token_lora_mapping: [num_tokens] slot of each token, or None for the wrapper's own.
            topk_weights, expert_map, w1, w2, num_tokens, top_k_num, max_loras, adapter_enabled, local_num_experts,
                top_k, num_slices, fully_sharded, use_tuned_config, add_inputs: vLLM's, for its own kernels.

        Returns:
            What `add_lora_w2` is handed: the expert of each pair, twice nothing, and the slot of each token.
        """
        mapping = self._slots(topk_ids.shape[0]) if token_lora_mapping is None else token_lora_mapping
        pairs = y.view(-1, y.shape[-1])
        spread = x.repeat_interleave(top_k_num, dim=0)
        pair_slot = mapping.repeat_interleave(top_k_num)
        start = 0
        for lora_a, lora_b in zip(lora_a_stacked, lora_b_stacked, strict=True):
            columns = pairs[:, start : start + lora_b.shape[2]]
            add_routed_delta(columns, spread, lora_a, lora_b, pair_slot, topk_ids.flatten())
            start += lora_b.shape[2]
        return topk_ids, None, None, mapping

    def add_lora_w2(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        topk_weights: Tensor,
        sorted_token_ids_lora: Tensor | None,
        expert_ids_lora: Tensor | None,
        num_tokens_post_padded_lora: Tensor | None,
        token_lora_mapping: Tensor | None,
        num_tokens: int,
        w1: Tensor,
        w2: Tensor,
        top_k_num: int,
        max_loras: int,
        adapter_enabled: Tensor,
        top_k: int,
        fully_sharded: bool,
        tp_rank: int,
        use_tuned_config: bool,
        add_inputs: bool = True,
    ) -> None:
        """Add the weighted deltas of the down projection.

        Args:
            y: [num_tokens, top_k, hidden], the base's weighted result; updated.
            x: [num_tokens * top_k, intermediate].
            lora_a_stacked: One [max_loras, num_experts, rank, intermediate].
            lora_b_stacked: One [max_loras, num_experts, hidden, rank].
            topk_weights: [num_tokens, top_k] fp32.
            sorted_token_ids_lora: [num_tokens, top_k] expert of each pair, as `add_lora_w13` returned it.
            token_lora_mapping: [num_tokens] slot of each token, as `add_lora_w13` returned it.
            expert_ids_lora, num_tokens_post_padded_lora, num_tokens, w1, w2, top_k_num, max_loras, adapter_enabled,
                top_k, fully_sharded, tp_rank, use_tuned_config, add_inputs: vLLM's, for its own kernels.

        Raises:
            ValueError: There is no plan of `add_lora_w13` to go by.
        """
        if sorted_token_ids_lora is None or token_lora_mapping is None:
            raise ValueError("add_lora_w2 takes what add_lora_w13 returned, and it was handed nothing")
        add_routed_delta(
            y.view(-1, y.shape[-1]),
            x,
            lora_a_stacked[0],
            lora_b_stacked[0],
            token_lora_mapping.repeat_interleave(top_k_num),
            sorted_token_ids_lora.flatten(),
            pair_weight=topk_weights.flatten(),
        )

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """Add the deltas of an embedding; there is no shrink here that would leave rows of the base at zero.

        Args:
            y: [num_tokens, hidden]; updated.
            x: [num_tokens, rank], rows of A picked by token.
            lora_b_stacked: [max_loras, 1, hidden, rank].
            add_inputs, kwargs: vLLM's.
        """
        of_the_base = (self._slots(x.shape[0]) < 0).unsqueeze(-1)
        super().add_lora_embedding(y, x.masked_fill(of_the_base, 0), lora_b_stacked, add_inputs, **kwargs)

    def _slots(self, num_tokens: int) -> Tensor:
        """Return [num_tokens] slots; rows that a padded or profiling run has beyond its mapping are the base's."""
        known = self.token_lora_indices[:num_tokens]
        return torch.nn.functional.pad(known, (0, num_tokens - known.shape[0]), value=-1)


def install_punica(symbols: Mapping[str, Symbol]) -> None:
    """Make the CPU platform hand out our wrapper, and give rows without an adapter a delta of zero.

    vLLM 0.32.0's torch operations index the stack with -1 for such rows, which is the last slot: base requests batched
    with adapters answer with another adapter's weights.
    """
    symbols["cpu_punica"].resolve()
    symbols["cpu_bgmv_shrink"].resolve()
    qualified_name = f"{LoractlPunicaWrapperCPU.__module__}.{LoractlPunicaWrapperCPU.__qualname__}"
    platform = symbols["cpu_platform"].resolve()
    setattr(platform, "get_punica_wrapper", classmethod(lambda _: qualified_name))  # noqa: B010  (not declared so)
    for name, replacement in (("bgmv_shrink", _bgmv_shrink), ("sgmv_shrink", _sgmv_shrink)):
        setattr(_cpu_operations, name, replacement)


_cpu_operations: Any = importlib.import_module("vllm.lora.punica_wrapper.punica_cpu")
_original_bgmv_shrink = _cpu_operations.bgmv_shrink


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
