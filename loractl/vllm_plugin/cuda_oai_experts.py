"""gpt-oss's mxfp4 experts by the OAI Triton GEMMs, with adapters, and with nothing copied between the steps.

vLLM 0.32.0 gives LoRA the Marlin GEMMs, which are slower here. Its own unfused class around the OAI ones sorts rows
back and forth between the steps; this one leaves them in order of expert, which is what the second GEMM wants, and lets
the kernels find a pair's row. It also sorts the pairs itself, in a launch or two where vLLM takes nine, and any ids:
vLLM's tables run out of bounds where a token has one twice, as it can where the router gives NaN.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts import gpt_oss_triton_kernels_moe

from loractl.vllm_plugin.cuda_experts import FusedDeltas
from loractl_kernels import expert_sort

oai: Any = gpt_oss_triton_kernels_moe  # what it brings in of triton_kernels has no types
_Routing = tuple[Any, Any, Any]
_warm: set[tuple[object, ...]] = set()


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
        layer = None
        if self._has_adapters(topk_ids):
            layer = self._start(hidden_states, topk_weights, topk_ids, activation, has_rows=True)
        routing, gather, scatter = self._sort(topk_ids, topk_weights, experts)
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
            layer.activate(activated, gate_up.view(-1, columns), gather.dst_indx)
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

    def _sort(self, topk_ids: Tensor, topk_weights: Tensor, experts: int) -> _Routing:
        """Return what the GEMMs read of a batch's routing: the data, the gathered pairs and where they go back to.

        The row of a pair whose id is none of an expert comes out of the second GEMM as 0.
        """
        is_too_large = experts > expert_sort.MAX_EXPERTS or topk_ids.numel() > expert_sort.MAX_PAIRS
        if is_too_large or oai.triton_kernels_version != "3.5.1":  # newer GEMMs take their tables in another form
            vllms: _Routing = self._make_routing_data(topk_ids, topk_weights, experts)
            return vllms
        topk_ids, topk_weights = topk_ids.contiguous(), topk_weights.contiguous()
        _warm_sort(topk_ids, topk_weights, experts)
        by_expert = expert_sort.sort_by_expert(topk_ids, topk_weights, experts=experts)
        return _as_oai(by_expert, top_k=topk_ids.shape[1])


def _warm_sort(topk_ids: Tensor, topk_weights: Tensor, experts: int) -> None:
    """Compile all that sorting can need for layers like this one, once; vLLM's profiling run comes here first."""
    key = (experts, topk_ids.shape[1], topk_ids.dtype, topk_weights.dtype)
    if key in _warm or torch.cuda.is_current_stream_capturing():
        return
    _warm.add(key)
    expert_sort.warm(topk_ids, topk_weights, experts=experts)


def _as_oai(by_expert: expert_sort.ExpertSort, *, top_k: int) -> _Routing:
    """Return the sort in the classes of OAI's GEMMs."""
    # By name: vLLM makes the package importable under it, and its module of experts brings in only some of the classes.
    classes: Any = importlib.import_module("triton_kernels.routing")
    rows = by_expert.expert_rows
    tables = classes.ExptData(rows, by_expert.expert_start, by_expert.tile_start, by_expert.tile_expert)
    routing = classes.RoutingData(by_expert.row_weight, rows, rows.shape[0], top_k, tables)
    gather = classes.GatherIndx(src_indx=by_expert.pair_of_row, dst_indx=by_expert.row_of_pair)
    scatter = classes.ScatterIndx(src_indx=by_expert.row_of_pair, dst_indx=by_expert.pair_of_row)
    return routing, gather, scatter
