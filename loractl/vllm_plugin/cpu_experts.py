"""MoE experts for vLLM's CPU platform that take adapters: vLLM 0.32.0 chooses Triton there and dies when asked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.experts.lora_experts_mixin import LoRAExpertsMixin

from loractl.vllm_plugin.compat import Symbol
from loractl.vllm_plugin.errors import UnsupportedMoeError
from loractl_kernels import Gate, gated_activation, routed_linear, sum_top_k

_Plan: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
_PLAN_NAMES = ("sorted_token_ids_lora", "expert_ids_lora", "num_tokens_post_padded_lora", "token_lora_mapping")

_GATES = {
    MoEActivation.SILU: Gate.SILU,
    MoEActivation.GELU: Gate.GELU,
    MoEActivation.GELU_TANH: Gate.GELU_TANH,
    MoEActivation.SWIGLUOAI: Gate.SWIGLU_OAI,
}


class LoractlExpertsCPU(LoRAExpertsMixin, CPUUnquantizedExperts):
    """Unquantised experts and their adapters' deltas in torch, by `loractl_kernels.reference`.

    The weights keep vLLM's plain layout: w1 [num_experts, 2 * intermediate, hidden] and w2 [num_experts, hidden,
    intermediate].
    """

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leave the weights as they were loaded: the parent packs them for a kernel that knows no adapters."""

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
        """Write the layer's output for [num_tokens, hidden] `hidden_states` into `output`; vLLM's contract.

        Raises:
            UnsupportedMoeError: Experts are spread over ranks, or routing weights are applied to the input.
        """
        _refuse_what_deltas_cannot_follow(expert_map, router_weight_on_input=apply_router_weight_on_input)
        context = self._lora_context
        num_tokens, top_k = topk_ids.shape
        shared: dict[str, Any] = {
            "topk_weights": topk_weights, "w1": w1, "w2": w2, "num_tokens": num_tokens, "top_k_num": top_k,
        }  # fmt: skip
        pair_expert = topk_ids.flatten()
        gate_up = routed_linear(hidden_states.repeat_interleave(top_k, dim=0), w1, self.w1_bias, pair_expert)
        plan: _Plan = (None, None, None, None)
        if context is not None:
            pairs = gate_up.view(num_tokens, top_k, w1.shape[1])
            plan = self.apply_w13_lora(context, y=pairs, x=hidden_states, topk_ids=topk_ids, expert_map=None, **shared)
        activated = self._activate(gate_up, activation)
        down = routed_linear(activated, w2, self.w2_bias, pair_expert).view(num_tokens, top_k, w2.shape[1])
        down = (down.float() * topk_weights.unsqueeze(-1).float()).to(down.dtype)
        if context is not None:
            self.apply_w2_lora(context, y=down, x=activated, **dict(zip(_PLAN_NAMES, plan, strict=True)), **shared)
        output.copy_(sum_top_k(down))

    def _activate(self, gate_up: Tensor, activation: MoEActivation) -> Tensor:
        config = self.quant_config
        given = {"alpha": config.gemm1_alpha, "limit": config.gemm1_clamp_limit, "beta": config.gemm1_beta}
        return gated_activation(
            gate_up, _GATES[activation], **{name: float(value) for name, value in given.items() if value is not None}
        )


def serve_experts_on_cpu(symbols: Mapping[str, Symbol]) -> None:
    """Make vLLM choose `LoractlExpertsCPU` wherever LoRA is on."""
    original: Any = symbols["select_experts_in_oracle"].resolve()
    backend = importlib.import_module(symbols["select_experts_in_oracle"].module).UnquantizedMoeBackend.CPU

    def select(moe_config: Any) -> tuple[Any, Any]:
        return (backend, LoractlExpertsCPU) if moe_config.is_lora_enabled else original(moe_config)

    for name in ("select_experts_in_oracle", "select_experts_in_method"):
        symbol = symbols[name]
        symbol.resolve()
        setattr(importlib.import_module(symbol.module), symbol.attribute, select)


def _refuse_what_deltas_cannot_follow(expert_map: Tensor | None, *, router_weight_on_input: bool) -> None:
    if expert_map is not None:
        raise UnsupportedMoeError(
            "experts are spread over ranks, which adapters on CPU do not support",
            hint="serve without --enable-expert-parallel",
        )
    if router_weight_on_input:
        raise UnsupportedMoeError(
            "this base applies routing weights to the experts' input, where a delta would be weighted twice",
            hint="serve this base without adapters on experts",
        )
