"""vLLM's experts on NVIDIA GPUs with the adapters' deltas fused into the activation and run beside the base's GEMMs.

The experts' own `apply` stays; the steps that it calls are replaced. A decode batch of one layer looks so::

    main stream   GEMM of w13 ------+ activation with delta --+-- GEMM of w2 -------+ sum with delta
    side stream   shrink w13 -------+                         +-- shrink w2 --------+

so that an adapter adds no launch, and the weights that it must read. A larger batch is planned first, and does all on
one stream: its deltas go into the GEMMs themselves where those are vLLM's own in bf16 or fp16 (`cuda_gemms`), else into
the activation and, before the sum, into what the second GEMM wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from vllm.forward_context import in_piecewise_cudagraph
from vllm.model_executor.layers.fused_moe.activation import MoEActivation

from loractl.vllm_plugin import cuda_gemms
from loractl.vllm_plugin.cuda_punica import LoractlPunicaWrapperGPU, say_once
from loractl.vllm_plugin.errors import UnsupportedMoeError
from loractl_kernels import Gate, grouped, ops
from loractl_kernels.grouped import ExpertTiles, GemmLaunch
from loractl_kernels.operands import Adapters, Routing, Shrunk
from loractl_kernels.reference import SWIGLU_OAI_ALPHA, SWIGLU_OAI_LIMIT, Gating

_Result = TypeVar("_Result")

_SIDE_PAIRS = 1024
"""Up to this many pairs the base's GEMMs leave room for work beside them; such batches are replayed as graphs."""


@dataclass
class LayerPass:
    """The adapters' part of one layer for one batch, step by step.

    With its deltas in the base's GEMMs the steps are `gemm`, `shrink`, `gemm`, else `activate` and `sum_down`.
    """

    routing: Routing
    w13: Adapters
    w2: Adapters
    gating: Gating
    weights: Tensor
    shrunk: Shrunk
    side: _SideStream | None
    is_in_gemms: bool = False

    def gemm(self, y: Tensor, x: Tensor, w: Tensor, tiles: ExpertTiles, launch: GemmLaunch, *, is_second: bool) -> None:
        """Write the base's [tokens, top_k, columns] `y` with the deltas of gate and up, or of the down projection."""
        adapters, weight = (self.w2, self.weights) if is_second else (self.w13, None)
        rows = y.view(self.routing.pairs, -1)
        grouped.gemm_with_deltas(rows, x, w, tiles, self.shrunk, adapters, self.routing, launch, pair_weight=weight)

    def shrink(self, activated: Tensor) -> None:
        """Shrink for the down projection."""
        self.shrunk = ops.shrink(activated, self.w2, self.routing, is_second=True)

    def activate(self, out: Tensor, gate_up: Tensor, row_of_pair: Tensor | None = None) -> None:
        """Write the activation of `gate_up` plus delta into `out`, and go on to shrink that."""
        if self.side is not None:
            self.side.join()
        ops.expand_activate(out, gate_up, self.shrunk, self.w13, self.routing, self.gating, row_of_pair=row_of_pair)

        def shrink() -> Shrunk:
            return ops.shrink(out, self.w2, self.routing, row_of_pair=row_of_pair, is_second=True)

        self.shrunk = shrink() if self.side is None else self.side.run(shrink)

    def sum_down(self, out: Tensor, y: Tensor) -> None:
        """Add the weighted deltas to [tokens, top_k, hidden] `y`, whose contents are lost, and sum into `out`."""
        if self.side is not None:
            self.side.join()
        pairs = y.view(self.routing.pairs, -1)
        ops.expand_sum(out, pairs, self.shrunk, self.w2, self.routing, pair_weight=self.weights)


class _SideStream:
    """A second stream whose work overlaps with what the current one is given between `run` and `join`."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._forked = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Launch `work` after all that the current stream has been given so far, and return what it returns."""
        self._forked.record()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._forked)
            result = work()
            self._done.record()
        return result

    def join(self) -> None:
        """Let the current stream wait for it."""
        torch.cuda.current_stream().wait_event(self._done)


class FusedDeltas:
    """Mixed in before one of vLLM's experts that take adapters; without an adapter in the batch it does nothing."""

    _lora_context: Any
    _gemms_take_deltas = False
    _pass: LayerPass | None = None
    _side: _SideStream | None = None

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
        """Run the layer; vLLM's contract.

        Raises:
            UnsupportedMoeError: The batch has adapters, and routing weights are applied to the experts' input.
        """
        has_adapters = self._has_adapters(topk_ids)
        if has_adapters and apply_router_weight_on_input:
            raise UnsupportedMoeError(
                "this base applies routing weights to the experts' input, where a delta would be weighted twice",
                hint="serve this base without adapters on experts",
            )
        try:
            if has_adapters and self._takes(hidden_states, topk_ids, activation, expert_map):
                self._pass = self._start(hidden_states, topk_weights, topk_ids, activation)
                self._pass.is_in_gemms = self._is_in_gemms(hidden_states, w1)
            cuda_gemms.layer = self._pass if self._pass is not None and self._pass.is_in_gemms else None
            super().apply(  # type: ignore[misc]
                output, hidden_states, w1, w2, topk_weights, topk_ids, activation, global_num_experts, expert_map,
                a1q_scale, a2_scale, workspace13, workspace2, expert_tokens_meta, apply_router_weight_on_input,
            )  # fmt: skip
        finally:
            self._pass = cuda_gemms.layer = None

    def apply_w13_lora(self, lora_context: Any, **operands: Any) -> tuple[Any, ...]:
        """Leave the delta to the activation where this class adds it."""
        if self._pass is None:
            return cast("tuple[Any, ...]", super().apply_w13_lora(lora_context, **operands))  # type: ignore[misc]
        return (None, None, None, None)

    def activation(self, activation: MoEActivation, output: Tensor, input: Tensor, **named: Any) -> None:  # noqa: A002
        """Activate, with the deltas of gate and up."""
        if self._pass is not None and not self._pass.is_in_gemms:
            self._pass.activate(output, input)
            return
        super().activation(activation, output, input, **named)  # type: ignore[misc]
        if self._pass is not None:
            self._pass.shrink(output)

    def apply_w2_lora(self, lora_context: Any, **operands: Any) -> None:
        """Leave the delta to the sum where this class adds it."""
        if self._pass is None:
            super().apply_w2_lora(lora_context, **operands)  # type: ignore[misc]

    def moe_sum(self, input: Tensor, output: Tensor, *operands: Any) -> None:  # noqa: A002
        """Sum each token's pairs, with the deltas of the down projection."""
        if self._pass is None or self._pass.is_in_gemms:
            super().moe_sum(input, output, *operands)  # type: ignore[misc]
        else:
            self._pass.sum_down(output, input)

    def _has_adapters(self, topk_ids: Tensor) -> bool:
        """Whether any pair of the batch has an adapter."""
        context: Any = self._lora_context
        if context is None or topk_ids.numel() == 0:
            return False
        return not isinstance(context.punica_wrapper, LoractlPunicaWrapperGPU) or context.punica_wrapper.has_adapters()

    def _takes(
        self, hidden_states: Tensor, topk_ids: Tensor, activation: MoEActivation, expert_map: Tensor | None
    ) -> bool:
        """Whether the deltas of a batch that has adapters can be fused; says in the log why not."""
        context: Any = self._lora_context
        punica: object = context.punica_wrapper
        x = _unquantised(context, hidden_states)
        refusals = {
            "it has no GPU wrapper of ours": not isinstance(punica, LoractlPunicaWrapperGPU),
            "experts share factors": context.enable_moe_shared_loras,
            "tokens were exchanged between ranks": context.local_token_lora_mapping is not None,
            "vLLM's own second stream is on": context.aux_stream is not None,
            f"the activation is {activation}": self._gating(activation) is None,
            f"{x.shape[0]} rows came for {topk_ids.shape[0]} tokens": x.shape[0] != topk_ids.shape[0],
        }
        for reason, holds in refusals.items():
            if holds:
                say_once(f"MoE-LoRA kernels: deltas are not fused into the experts, because {reason}")
                return False
        wrapper = cast("LoractlPunicaWrapperGPU", punica)
        a = context.w13_lora_a_stacked
        return wrapper.takes(a, x, fully_sharded=context.fully_sharded, expert_map=expert_map)

    def _start(
        self,
        hidden_states: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        activation: MoEActivation,
        *,
        has_rows: bool = False,
    ) -> LayerPass:
        """Start the adapters' part of a batch that `_takes` takes; rows of gate and up may lie in another order."""
        context: Any = self._lora_context
        punica: LoractlPunicaWrapperGPU = context.punica_wrapper
        gating = cast("Gating", self._gating(activation))
        x, a = _unquantised(context, hidden_states), context.w13_lora_a_stacked
        w13 = punica.adapters(a, context.w13_lora_b_stacked)
        w2 = punica.adapters(context.w2_lora_a_stacked, context.w2_lora_b_stacked)
        punica.warm(w13, w2, topk_ids, gating, side_pairs=_SIDE_PAIRS, has_rows=has_rows)
        # A whole model's graph is one launch, branches or not; of a graph a layer, each branch costs the host again.
        side = self._side_stream() if topk_ids.numel() <= _SIDE_PAIRS and not in_piecewise_cudagraph() else None

        def start() -> LayerPass:
            routing = punica.route(a, topk_ids, context.adapter_enabled, None, side=side is not None)
            shrunk = ops.shrink(x, w13, routing)
            return LayerPass(routing, w13, w2, gating, topk_weights.contiguous(), shrunk, side)

        return start() if side is None else side.run(start)

    def _is_in_gemms(self, hidden_states: Tensor, w1: Tensor) -> bool:
        """Whether the deltas of this batch go into the base's GEMMs, which are neither quantised nor biased then."""
        layer = cast("LayerPass", self._pass)
        config: Any = getattr(self, "quant_config", None)
        plain = (getattr(config, name, None) for name in ("quant_dtype", "w1_scale", "w1_bias", "w2_bias"))
        return (
            self._gemms_take_deltas
            and hidden_states.dtype == w1.dtype
            and all(value is None for value in plain)
            and not (layer.gating.is_interleaved and len(layer.w13.b) == 2)  # the GEMM knows halves alone
            and grouped.takes(layer.w13, layer.routing)
            and grouped.takes(layer.w2, layer.routing)
        )

    def _gating(self, activation: MoEActivation) -> Gating | None:
        """Return the activation as the kernels take it, or None where they do not."""
        config: Any = getattr(self, "quant_config", None)
        limit = cast("float | None", getattr(config, "gemm1_clamp_limit", None))
        if activation == MoEActivation.SILU and limit is None:
            return Gating(Gate.SILU)
        if activation == MoEActivation.SWIGLUOAI:
            alpha = cast("float | None", getattr(config, "gemm1_alpha", None))
            return Gating(Gate.SWIGLU_OAI, alpha or SWIGLU_OAI_ALPHA, limit or SWIGLU_OAI_LIMIT)
        return None

    def _side_stream(self) -> _SideStream:
        if FusedDeltas._side is None:
            FusedDeltas._side = _SideStream()
        return FusedDeltas._side


def _unquantised(context: Any, hidden_states: Tensor) -> Tensor:
    """Return the layer's input as it was before it was quantised, if it was."""
    original: Tensor | None = context.original_hidden_states
    is_plain = hidden_states.dtype == context.w13_lora_a_stacked[0].dtype
    return hidden_states if is_plain or original is None else original
