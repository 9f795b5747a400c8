"""vLLM's own experts on a CPU: their GEMMs by the definition, and all around them as vLLM has it.

Of vLLM only what needs a GPU is replaced: GEMMs, sorting, activation and the last sum. So what calls the steps that
loractl replaces, and with what, is vLLM's real code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.config.lora import LoRAConfig
from vllm.lora.layers import LoRAMapping
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
from vllm.lora.punica_wrapper import punica_gpu
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import FUSED_MOE_UNQUANTIZED_CONFIG
from vllm.model_executor.layers.fused_moe.experts import gpt_oss_triton_kernels_moe, marlin_moe, triton_moe
from vllm.model_executor.layers.fused_moe.experts.lora_context import MoELoRAContext

from loractl.vllm_plugin import cuda_experts, cuda_oai_experts, cuda_punica
from loractl.vllm_plugin.cuda_experts import FusedDeltas
from loractl_kernels import ops
from loractl_kernels.cases import Case, make_layer
from loractl_kernels.reference import Gate, Gating

MAX_TOKENS = 16
ACTIVATIONS = {Gate.SILU: MoEActivation.SILU, Gate.SWIGLU_OAI: MoEActivation.SWIGLUOAI, Gate.GELU: MoEActivation.GELU}


class FusedTriton(FusedDeltas, triton_moe.TritonExperts):
    """As `install_on_cuda` makes it."""


class FusedMarlin(FusedDeltas, marlin_moe.MarlinExperts):
    """As `install_on_cuda` makes it."""

    w1_scale = w2_scale = torch.ones(1)  # type: ignore[assignment]
    quant_type_id = 0  # type: ignore[assignment]
    w1_bias = w2_bias = g1_alphas = g2_alphas = a1_gscale = a2_gscale = w1_zp = w2_zp = None  # type: ignore[assignment]


EXPERTS: dict[str, type[Any]] = {
    "triton": FusedTriton,
    "marlin": FusedMarlin,
    "oai": cuda_oai_experts.LoractlOAIExperts,
}


@dataclass
class Streams:
    """In place of `torch.cuda`'s: what was done on which, in order, and what the operations were handed."""

    log: list[str] = field(default_factory=list)
    operands: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    current: str = "main"

    def stream(self, _stream: object) -> Any:
        streams = self

        class Entered:
            def __enter__(self) -> None:
                streams.current = "side"

            def __exit__(self, *error: object) -> None:
                streams.current = "main"

        return Entered()

    def note(self, what: str) -> None:
        self.log.append(f"{self.current}: {what}")

    def install(self, monkeypatch: Any) -> None:
        waiting = SimpleNamespace(wait_event=lambda _event: self.note("wait"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda: waiting)
        monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: self.note("record")))
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: waiting)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(FusedDeltas, "_side", None)
        for name in ("route", "shrink", "expand_add", "expand_activate", "expand_sum"):
            monkeypatch.setattr(ops, name, self._noting(name, getattr(ops, name)))

    def _noting(self, name: str, operation: Any) -> Any:
        def noted(*operands: Any, **named: Any) -> Any:
            self.note(name)
            self.operands.append((operands, named))
            return operation(*operands, **named)

        return noted


class CudaLayer:
    """One MoE layer with adapters, and the batch that it is given."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layer = make_layer(case)
        random = torch.Generator().manual_seed(case.seed + 1)
        wide = 2 * case.intermediate
        self.w1 = torch.randn(case.experts, wide, case.hidden, generator=random).mul_(case.hidden**-0.5).to(case.dtype)
        self.w2 = torch.randn(case.experts, case.hidden, case.intermediate, generator=random)
        self.w2 = self.w2.mul_(case.intermediate**-0.5).to(case.dtype)
        self.activation = ACTIVATIONS[case.gate]
        self.wrapper = make_wrapper(case.slots)
        self.set_slots(self.layer.token_slot)
        self.streams = Streams()
        self.gemms: list[str] = []

    def set_slots(self, token_slot: Tensor) -> None:
        """Tell the wrapper which adapter each token has, as vLLM does before a batch."""
        slots = self.case.slots
        index = tuple(0 if slot < 0 else slot + 100 for slot in token_slot.tolist())
        mapping = LoRAMapping(index_mapping=index, prompt_mapping=index, is_prefill=True)
        self.wrapper.update_metadata(mapping, [slot + 100 for slot in range(slots)], slots, 1000)
        self.layer = replace(self.layer, token_slot=token_slot)

    def context(self, **changes: Any) -> MoELoRAContext:
        case, w13, w2 = self.case, self.layer.w13, self.layer.w2
        said = {
            "w13_lora_a_stacked": w13.a, "w13_lora_b_stacked": w13.b, "w2_lora_a_stacked": w2.a,
            "w2_lora_b_stacked": w2.b, "adapter_enabled": self.layer.slot_enabled[: case.slots + 1],
            "max_loras": case.slots, "top_k": case.top_k, "w13_num_slices": case.slices, "fully_sharded": False,
            "tp_rank": 0, "tp_size": 1, "local_num_experts": case.experts, "punica_wrapper": self.wrapper,
            "use_tuned_config": False,
        }  # fmt: skip
        return MoELoRAContext(**(said | changes))

    def experts(self, kind: str, context: MoELoRAContext | None) -> Any:
        """Return vLLM's experts with the fused deltas, without the configuration of a whole model."""
        experts: Any = object.__new__(EXPERTS[kind])
        parallel = SimpleNamespace(use_all2all_kernels=False)
        experts.moe_config = SimpleNamespace(activation=self.activation, moe_parallel_config=parallel)
        experts.quant_config = FUSED_MOE_UNQUANTIZED_CONFIG
        experts.activation_config = SimpleNamespace(clamp_limit=None)
        experts.quantization_emulation = False
        experts.input_dtype = None
        if context is not None:
            experts.set_lora_context(context)
        return experts

    def run(self, kind: str, context: MoELoRAContext | None, **changes: Any) -> Tensor:
        """Apply the experts to the batch, and return [tokens, hidden]."""
        operands = self.operands(kind) | changes
        self.experts(kind, context).apply(*operands.values())
        result: Tensor = operands["output"]
        return result

    def operands(self, kind: str) -> dict[str, Any]:
        """Return what vLLM hands to `apply`, in order."""
        case, layer = self.case, self.layer
        pairs, widest = case.tokens * case.top_k, max(2 * case.intermediate, case.hidden)
        w1, w2 = self.w1, self.w2
        if kind == "oai":
            w1, w2 = w1.transpose(1, 2), w2.transpose(1, 2)
        return {
            "output": torch.full_like(layer.x, float("nan")), "hidden_states": layer.x, "w1": w1, "w2": w2,
            "topk_weights": layer.weight, "topk_ids": layer.topk_ids, "activation": self.activation,
            "global_num_experts": case.experts, "expert_map": None, "a1q_scale": None, "a2_scale": None,
            "workspace13": torch.full((pairs * widest,), float("nan"), dtype=case.dtype),
            "workspace2": torch.full((pairs * widest,), float("nan"), dtype=case.dtype),
            "expert_tokens_meta": None, "apply_router_weight_on_input": False,
        }  # fmt: skip

    def expected(self, *, with_adapters: bool = True) -> Tensor:
        """Return [tokens, hidden] in float64, pair by pair: what a layer with adapters is."""
        case, layer = self.case, self.layer
        gating = Gating(case.gate)
        total = torch.zeros(case.tokens, case.hidden, dtype=torch.float64)
        for token in range(case.tokens):
            slot = int(layer.token_slot[token])
            slot = slot if with_adapters and 0 <= slot < case.slots and layer.slot_enabled[slot] else -1
            for k in range(case.top_k):
                expert, weight = int(layer.topk_ids[token, k]), float(layer.weight[token, k])
                gate_up = self.w1[expert].double() @ layer.x[token].double()
                if slot >= 0:
                    halves = [_delta(layer.w13, i, slot, expert, layer.x[token]) for i in range(case.slices)]
                    stacked = torch.stack(halves, 1).flatten() if gating.is_interleaved else torch.cat(halves)
                    gate_up += stacked
                activated = _activated(gate_up, case.gate)
                down = self.w2[expert].double() @ activated
                if slot >= 0:
                    down += _delta(layer.w2, 0, slot, expert, activated)
                total[token] += weight * down
        return total

    def replace_gemms(self, monkeypatch: Any) -> None:
        """Put the definition in place of what of vLLM needs a GPU."""
        monkeypatch.setitem(ops.route.__kwdefaults__, "backend", ops.Backend.REFERENCE)
        self.streams.install(monkeypatch)
        monkeypatch.setattr(cuda_punica, "_said", set())
        _replace_triton(monkeypatch, self)
        _replace_marlin(monkeypatch, self)
        _replace_oai(monkeypatch, self)

    def gate_up(self, x: Tensor) -> Tensor:
        """Return [pairs, 2 * intermediate] of [tokens, hidden], by the base alone."""
        self.streams.note("gemm w13")
        experts = self.layer.topk_ids.flatten().long()
        return torch.einsum("ph,pnh->pn", x.repeat_interleave(self.case.top_k, 0).float(), self.w1[experts].float())

    def down(self, activated: Tensor) -> Tensor:
        """Return [pairs, hidden] of [pairs, intermediate], weighted, by the base alone."""
        self.streams.note("gemm w2")
        experts = self.layer.topk_ids.flatten().long()
        weight = self.layer.weight.flatten()[:, None]
        return torch.einsum("pi,phi->ph", activated.float(), self.w2[experts].float()) * weight

    def activate(self, _activation: Any, output: Tensor, input: Tensor, **_named: Any) -> None:  # noqa: A002
        """Activate as vLLM would on a GPU."""
        self.streams.note("vLLM's activation")
        output.copy_(Gating(self.case.gate)(input))


def make_wrapper(slots: int, max_tokens: int = MAX_TOKENS) -> cuda_punica.LoractlPunicaWrapperGPU:
    """Return the wrapper on a CPU, with vLLM's own records of a batch."""
    if not hasattr(punica_gpu, "LoRAKernelMeta"):  # vLLM imports it only where there is Triton
        punica_gpu.LoRAKernelMeta = LoRAKernelMeta
    config = LoRAConfig(max_lora_rank=16, max_loras=slots)
    return cuda_punica.LoractlPunicaWrapperGPU(max_tokens, max_tokens, "cpu", lora_config=config)


def _delta(adapters: Any, index: int, slot: int, expert: int, x: Tensor) -> Tensor:
    rank = adapters.rank if adapters.ranks is None else int(adapters.ranks[slot])
    a, b = adapters.a[index][slot, expert, :rank].double(), adapters.b[index][slot, expert, :, :rank].double()
    return b @ (a @ x.double())


def _activated(gate_up: Tensor, gate: Gate) -> Tensor:
    if gate is Gate.SWIGLU_OAI:
        gated, up = gate_up[::2].clamp(max=7.0), gate_up[1::2].clamp(-7.0, 7.0)
        return (up + 1) * gated * torch.sigmoid(1.702 * gated)
    gated, up = gate_up.chunk(2)
    return (torch.nn.functional.silu(gated) if gate is Gate.SILU else torch.nn.functional.gelu(gated)) * up


def _replace_triton(monkeypatch: Any, layer: CudaLayer) -> None:
    def gemm(x: Tensor, w: Tensor, out: Tensor, *_rest: Any, **_named: Any) -> None:
        result = layer.gate_up(x) if w is layer.w1 else layer.down(x)
        out.copy_(result.view(out.shape))

    monkeypatch.setattr(triton_moe, "invoke_fused_moe_triton_kernel", gemm)
    monkeypatch.setattr(triton_moe, "_prepare_expert_assignment", lambda *_a, **_k: (None, None, None))
    monkeypatch.setattr(triton_moe, "try_get_optimal_moe_config", lambda *_a, **_k: {})
    monkeypatch.setattr(triton_moe, "tl", SimpleNamespace(bfloat16=None, float16=None, float32=None))
    monkeypatch.setattr(triton_moe.TritonExperts, "activation", layer.activate)
    monkeypatch.setattr(triton_moe.TritonExperts, "moe_sum", _sum)

    def one_after_another(first: Any, second: Any, *_events: Any) -> tuple[Any, Any]:
        return first(), second()

    monkeypatch.setattr(triton_moe, "maybe_execute_in_parallel", one_after_another)


def _replace_marlin(monkeypatch: Any, layer: CudaLayer) -> None:
    def fused_marlin_moe(**said: Any) -> None:
        case, x = layer.case, said["hidden_states"]
        gate_up = layer.gate_up(x).to(case.dtype)
        activated = said["intermediate_cache2"][: gate_up.shape[0] * case.intermediate].view(-1, case.intermediate)
        named = {"topk_ids": said["topk_ids"], "expert_map": said["expert_map"]}
        said["activation_func"](said["activation"], activated, gate_up, **named)
        down = layer.down(activated).to(case.dtype).view(-1, case.top_k, case.hidden)
        said["moe_sum"](down, said["output"], said["topk_ids"], said["expert_map"])

    monkeypatch.setattr(marlin_moe, "fused_marlin_moe", fused_marlin_moe)
    monkeypatch.setattr(marlin_moe.MarlinExperts, "activation", layer.activate)
    monkeypatch.setattr(marlin_moe.MarlinExperts, "moe_sum", _sum)


def _replace_oai(monkeypatch: Any, layer: CudaLayer) -> None:
    """Rows in order of expert between the two GEMMs, as those of OAI leave them."""

    def routing_data(topk_ids: Tensor, topk_weights: Tensor, _experts: int) -> tuple[Any, Any, Any]:
        pair_of_row = topk_ids.flatten().argsort(stable=True).int()
        row_of_pair = pair_of_row.argsort().int()
        gather = SimpleNamespace(src_indx=pair_of_row, dst_indx=row_of_pair)
        scatter = SimpleNamespace(src_indx=row_of_pair, dst_indx=pair_of_row)
        routing = SimpleNamespace(gate_scal=topk_weights.flatten()[pair_of_row.long()], n_expts_act=topk_ids.shape[1])
        return routing, gather, scatter

    def matmul_ogs(
        x: Tensor, _w: Tensor, _bias: Any, routing: Any, gather_indx: Any = None, scatter_indx: Any = None, *,
        y: Tensor, gammas: Tensor | None = None, **_named: Any,
    ) -> None:  # fmt: skip
        if gather_indx is not None:
            y[0] = layer.gate_up(x).to(y.dtype)[gather_indx.src_indx.long()]
            return
        assert routing.n_expts_act == 1
        assert gammas is None or gammas is routing.gate_scal
        y[0] = layer.down(x[scatter_indx.src_indx.long()]).to(y.dtype)

    module: Any = gpt_oss_triton_kernels_moe
    monkeypatch.setattr(module, "make_routing_data", routing_data)
    monkeypatch.setattr(module, "matmul_ogs", matmul_ogs, raising=False)
    monkeypatch.setattr(module, "triton_kernels_version", "3.6")
    monkeypatch.setattr(module, "masked_moe_sum", lambda pairs, _ids, output: _sum(None, pairs, output))
    monkeypatch.setattr(module, "_constrain_sm12x_block_m", lambda *_sizes: None)
    monkeypatch.setattr(module.UnfusedOAITritonExperts, "activation", layer.activate)


def _sum(_experts: Any, pairs: Tensor, output: Tensor, *_rest: Any) -> None:
    output.copy_(pairs.float().sum(dim=1))


def side_pairs(monkeypatch: Any, pairs: int) -> None:
    """Let batches of up to so many pairs run on two streams."""
    monkeypatch.setattr(cuda_experts, "_SIDE_PAIRS", pairs)
