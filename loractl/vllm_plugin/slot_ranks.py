"""The true rank of the adapter in each slot, so that a small adapter does not pay for the rank of a large neighbour.

vLLM's stacks are as wide as the largest rank and filled up with zeros. What an adapter really has is seen when it is
put into its slot, and kept on the GPU beside the stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loractl.vllm_plugin.compat import Symbol

_ranks: dict[int, Tensor] = {}


def of(a: Tensor) -> Tensor | None:
    """Return the [slots] int32 true ranks of the stack that `a` is or is a view of; None where they are not kept."""
    return _ranks.get(a.data_ptr())


def keep(symbols: Mapping[str, Symbol]) -> None:
    """Keep the ranks of every MoE layer that takes adapters from now on."""
    for name in ("moe_with_lora", "moe_3d_with_lora"):
        layer: Any = symbols[name].resolve()
        layer.create_lora_weights = _creating(layer.create_lora_weights)
        layer.set_lora = _setting(layer.set_lora)


def keep_linear(symbols: Mapping[str, Symbol]) -> None:
    """Keep the ranks of every linear layer that takes adapters from now on."""
    for name in ("linear_with_lora", "merged_linear_with_lora"):
        layer: Any = symbols[name].resolve()
        layer.create_lora_weights = _creating_linear(layer.create_lora_weights)
        layer.set_lora = _setting_linear(layer.set_lora)


def _creating(create: Any) -> Any:
    def create_lora_weights(self: Any, max_loras: int, lora_config: Any, model_config: Any = None) -> None:
        create(self, max_loras, lora_config, model_config)
        for stack in (self.w13_lora_a_stacked, self.w2_lora_a_stacked):
            ranks = torch.full((max_loras,), lora_config.max_lora_rank, dtype=torch.int32, device=self.device)
            _ranks[stack[0].data_ptr()] = ranks

    return create_lora_weights


def _setting(put: Any) -> Any:
    def set_lora(self: Any, index: int, lora_a: list[Tensor], lora_b: list[Tensor]) -> None:
        put(self, index, lora_a, lora_b)
        # In both layouts w13 comes first and w2 second; a third is up, of the same rank as gate or filled up to it.
        first = max(lora_a[0].shape[1], lora_a[-1].shape[1] if len(lora_a) == 3 else 0)
        for stack, rank in ((self.w13_lora_a_stacked, first), (self.w2_lora_a_stacked, lora_a[1].shape[1])):
            _ranks[stack[0].data_ptr()][index] = rank

    return set_lora


def _creating_linear(create: Any) -> Any:
    def create_lora_weights(self: Any, max_loras: int, lora_config: Any, model_config: Any = None) -> None:
        create(self, max_loras, lora_config, model_config)
        ranks = torch.full((max_loras,), lora_config.max_lora_rank, dtype=torch.int32, device=self.device)
        _ranks[self.lora_a_stacked[0].data_ptr()] = ranks

    return create_lora_weights


def _setting_linear(put: Any) -> Any:
    def set_lora(self: Any, index: int, lora_a: Tensor | list[Tensor | None], lora_b: Any) -> None:
        put(self, index, lora_a, lora_b)
        # Slices may differ in rank, or have no adapter: each is filled up with zeros to the largest.
        slices = [lora_a] if isinstance(lora_a, Tensor) else lora_a
        rank = max((one.shape[0] for one in slices if one is not None), default=1)
        _ranks[self.lora_a_stacked[0].data_ptr()][index] = rank

    return set_lora
