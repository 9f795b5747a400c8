"""Attention's splits of the KV cache: bounded where a graph holds the attention, and nowhere else.

FlashAttention 3 may cut the keys of a request into pieces, and needs memory for the results of each piece. Inside of a
graph that memory is fixed, so vLLM 0.32.0 bounds the pieces, and takes memory for as many, in every batch up to the
largest graph: 32 results of each query, 4 GiB in a prefill of 8192 tokens over 64 heads of 64. But the graphs of
prefills (`command.PREFILL_GRAPHS`) are pieces of the model between its attentions. Only those of decode hold it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from loractl.vllm_plugin.compat import Symbol


def bound_splits_in_decode_alone(symbols: Mapping[str, Symbol]) -> None:
    """Let batches that are larger than any graph of a whole model choose their splits, as without graphs."""
    builder: Any = symbols["attention_splits"].resolve()
    whole_model: Any = symbols["graph_modes"].resolve()
    original = builder.__init__

    @functools.wraps(original)
    def init(self: Any, kv_cache_spec: Any, layer_names: Any, vllm_config: Any, device: Any) -> None:
        original(self, kv_cache_spec, layer_names, vllm_config, device)
        largest: int | None = self.max_cudagraph_size
        if largest is not None and vllm_config.compilation_config.cudagraph_mode.mixed_mode() != whole_model.FULL:
            tokens_of_request = 1 + vllm_config.num_speculative_tokens
            self.max_cudagraph_size = min(largest, vllm_config.scheduler_config.max_num_seqs * tokens_of_request)

    builder.__init__ = init
