"""gpt-oss's mxfp4 experts by the OAI Triton GEMMs, with adapters, and with nothing copied between the steps.

vLLM 0.32.0 gives LoRA the Marlin GEMMs, which are slower here. Its own unfused class around the OAI ones sorts rows
back and forth between the steps; this one leaves them in order of expert, which is what the second GEMM wants, and lets
the kernels find a pair's row.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts import gpt_oss_triton_kernels_moe

from loractl.vllm_plugin.cuda_experts import FusedDeltas

oai: Any = gpt_oss_triton_kernels_moe  # what it brings in of triton_kernels has no types


class LoractlOAIExperts(FusedDeltas, gpt_oss_triton_kernels_moe.UnfusedOAITritonExperts):
    """The experts of gpt-oss with adapters."""

    def apply(
        self,
        output: Tensor,
        hidden_states: Tensor,
        w1: Tensor,
        w2: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        activation: MoEActivation,
        global_num_experts: int,
        expert_map: Tensor | None,
        a1q_scale: Tensor | None,
        a2_scale: Tensor | None,
        workspace13: Tensor,
        workspace2: Tensor,
        expert_tokens_meta: Any,
        apply_router_weight_on_input: bool,
    ) -> None:
        """Run the layer; vLLM's contract."""
        if (
            expert_map is not None
            or apply_router_weight_on_input
            or oai.triton_kernels_version not in ("3.5.1", "3.6")
            or (self._has_adapters(topk_ids) and not self._takes(hidden_states, topk_ids, activation, expert_map))
        ):
            super().apply(
                output, hidden_states, w1, w2, topk_weights, topk_ids, activation, global_num_experts, expert_map,
                a1q_scale, a2_scale, workspace13, workspace2, expert_tokens_meta, apply_router_weight_on_input,
            )  # fmt: skip
            return
        self._run(output, hidden_states, w1, w2, topk_weights, topk_ids, activation, workspace13, workspace2)

    def _run(
        self,
        output: Tensor,
        hidden_states: Tensor,
        w1: Tensor,
        w2: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        activation: MoEActivation,
        workspace13: Tensor,
        workspace2: Tensor,
    ) -> None:
        """Route, and run the steps of the layer."""
        config: Any = self.quant_config
        experts, _, columns = w1.shape
        tokens, hidden = hidden_states.shape
        top_k = topk_ids.shape[1]
        routing: Any
        gather: Any
        routing, gather, scatter = self._make_routing_data(topk_ids, topk_weights, experts)
        layer = None
        if self._has_adapters(topk_ids):
            layer = self._start(hidden_states, topk_weights, topk_ids, activation, gather.dst_indx)
        gate_up = oai._resize_cache(workspace2, (1, tokens * top_k, columns))
        activated = oai._resize_cache(workspace13, (tokens * top_k, self.adjust_N_for_activation(columns, activation)))
        down = oai._resize_cache(workspace2, (1, tokens * top_k, hidden))
        oai.matmul_ogs(
            hidden_states, w1, config.w1_bias, routing, gather_indx=gather, precision_config=config.w1_precision,
            gammas=None, fused_activation=None, y=gate_up,
        )  # fmt: skip
        if layer is None:
            self.activation(activation, activated, gate_up.view(-1, columns))
        else:
            layer.activate(activated, gate_up.view(-1, columns))
        # With one expert a token the GEMM scatters its rows without adding them up.
        routing.n_expts_act = 1
        oai.matmul_ogs(
            activated, w2, config.w2_bias, routing, scatter_indx=scatter, precision_config=config.w2_precision,
            gammas=routing.gate_scal, y=down,
        )  # fmt: skip
        pairs = down.view(tokens, top_k, hidden)
        if layer is None:
            oai.masked_moe_sum(pairs, topk_ids, output)
        else:
            layer.sum_down(output, pairs)
