"""MoE experts for vLLM's CPU platform that take adapters: vLLM 0.32.0 chooses Triton there and dies at the first request."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.experts.lora_experts_mixin import LoRAExpertsMixin

from loractl.engine.errors import EngineError
from loractl.vllm_plugin.compat import Symbol
from loractl_kernels import Gate, gated_activation, routed_linear, sum_top_k

_GATES = {
    MoEActivation.SILU: Gate.SILU,
    MoEActivation.GELU: Gate.GELU,
    MoEActivation.GELU_TANH: Gate.GELU_TANH,
    MoEActivation.SWIGLUOAI: Gate.SWIGLU_OAI,
}


class UnsupportedMoeError(EngineError):
    """A Mixture-of-Experts layer asks for something that adapters cannot be combined with here."""

    code = "engine.unsupported_moe"


class LoractlExpertsCPU(LoRAExpertsMixin, CPUUnquantizedExperts):
    """Unquantised experts and their adapters' deltas in torch, by `loractl_kernels.reference`.

    The weights keep vLLM's plain layout: w1 [num_experts, 2 * intermediate, hidden], w2 [num_experts, hidden, intermediate].
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
        apply_router_weight_on_input: bool,  # noqa: FBT001  (vLLM's signature)
    ) -> None:
        """Write the layer's output for [num_tokens, hidden] `hidden_states` into `output`; vLLM's contract.

        Raises:
            UnsupportedMoeError: Experts are spread over ranks, or routing weights are applied to the input.
        """
        _refuse_what_deltas_cannot_follow(expert_map, router_weight_on_input=apply_router_weight_on_input)
        num_tokens, top_k = topk_ids.shape
        pair_expert = topk_ids.flatten()
        spread = hidden_states.repeat_interleave(top_k, dim=0)
        gate_up = routed_linear(spread, w1, self.w1_bias, pair_expert)
        mapping = self._add_w13_delta(
            gate_up.view(num_tokens, top_k, -1), hidden_states, topk_ids, topk_weights, w1, w2
        )
        activated = self._activate(gate_up, activation)
        down = routed_linear(activated, w2, self.w2_bias, pair_expert).view(num_tokens, top_k, -1)
        down = (down.float() * topk_weights.unsqueeze(-1).float()).to(down.dtype)
        if mapping is not None:
            self._add_w2_delta(down, activated, topk_ids, topk_weights, mapping)
        output.copy_(sum_top_k(down))

    def _add_w13_delta(
        self, gate_up: Tensor, x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w1: Tensor, w2: Tensor
    ) -> Tensor | None:
        """Add the deltas of gate and up; return the slot of each token, or None if no adapter is in the batch."""
        context = self._lora_context
        if context is None:
            return None
        *_, mapping = self.apply_w13_lora(
            context,
            y=gate_up,
            x=x,
            topk_ids=topk_ids,
            topk_weights=topk_weights,
            expert_map=None,
            w1=w1,
            w2=w2,
            num_tokens=topk_ids.shape[0],
            top_k_num=topk_ids.shape[1],
        )
        return mapping

    def _add_w2_delta(
        self, down: Tensor, activated: Tensor, topk_ids: Tensor, topk_weights: Tensor, mapping: Tensor
    ) -> None:
        context = self._lora_context
        lora_b = context.w2_lora_b_stacked
        if context.enable_moe_shared_loras:
            lora_b = tuple(b.expand(-1, context.local_num_experts, -1, -1) for b in lora_b)
        context.punica_wrapper.add_lora_w2(
            down,
            activated,
            context.w2_lora_a_stacked,
            lora_b,
            topk_weights,
            topk_ids=topk_ids,
            token_lora_mapping=mapping,
        )

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
