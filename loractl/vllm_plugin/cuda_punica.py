"""vLLM's punica wrapper on NVIDIA GPUs with loractl's kernels for the deltas of experts and of linear layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

from loractl.vllm_plugin import cuda_batches, cuda_dense, slot_ranks
from loractl.vllm_plugin.compat import Symbol
from loractl_kernels import ops, warmup
from loractl_kernels.operands import MAX_RANK, Adapters, Routing, Scratch
from loractl_kernels.reference import Gating

_log = logging.getLogger("vllm.loractl")
_DTYPES = frozenset({torch.bfloat16, torch.float16})

_Plan = tuple[Any, Any, Tensor | None, Tensor | None]
_NO_PLAN: _Plan = (None, None, None, None)


class LoractlPunicaWrapperGPU(PunicaWrapperGPU):  # pyright: ignore[reportGeneralTypeIssues]  (vLLM calls it final)
    """Computes the deltas of MoE layers and of linear layers with `loractl_kernels`; the rest is vLLM's.

    What the kernels do not take runs vLLM's own: ranks over 128, fully sharded adapters, experts spread over ranks, and
    deltas into a buffer of their own. The log says so, once each.
    """

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)  # pyright: ignore[reportUnknownMemberType]
        self._max_tokens = max_num_batched_tokens
        self._scratches: dict[tuple[int, int, int, int], Scratch] = {}
        self._adapters: dict[tuple[int, int], Adapters] = {}
        self._warm: set[tuple[object, ...]] = set()

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Take over which adapter each token and prompt of a batch has; vLLM's contract."""
        cuda_batches.update(self, mapping, lora_index_to_id, max_loras, vocab_size)

    def has_adapters(self) -> bool:
        """Whether any row of the batch has an adapter; known on the host, and fixed in a captured graph."""
        return not bool(self.token_mapping_meta.no_lora_flag_cpu.item())

    def takes(self, a: tuple[Tensor, ...], x: Tensor, *, fully_sharded: bool, expert_map: Tensor | None) -> bool:
        """Whether loractl's kernels can compute a projection with the stacks `a`; says in the log why not."""
        refusals = {
            f"rank {a[0].shape[2]} is over {MAX_RANK}": a[0].shape[2] > MAX_RANK,
            "adapters are fully sharded": fully_sharded,
            "experts are spread over ranks": expert_map is not None,
            f"the dtype is {x.dtype}": x.dtype not in _DTYPES or a[0].dtype != x.dtype,
            f"a batch has {x.shape[0]} tokens, and {self._max_tokens} were planned for": x.shape[0] > self._max_tokens,
        }
        for reason, holds in refusals.items():
            if holds:
                say_once(f"MoE-LoRA kernels: vLLM's own, because {reason}")
                return False
        return True

    def warm(
        self, w13: Adapters, w2: Adapters, topk_ids: Tensor, gating: Gating | None, *, side_pairs: int, has_rows: bool
    ) -> None:
        """Compile all that layers of this shape can need, once; vLLM's profiling run comes here before it serves."""
        shape = (w13.a[0].shape, len(w13.a), w13.b[0].shape, w2.a[0].shape, w2.b[0].shape, w13.ranks is None)
        key = (shape, topk_ids.shape[1], topk_ids.dtype, gating, side_pairs, has_rows)
        if key in self._warm or torch.cuda.is_current_stream_capturing():
            return
        self._warm.add(key)
        scratch = self._scratch(w13.a, topk_ids)
        warmup.warm(
            w13, w2, top_k=topk_ids.shape[1], ids_dtype=topk_ids.dtype, scratch=scratch, gating=gating,
            side_pairs=side_pairs, has_rows=has_rows,
        )  # fmt: skip

    def _scratch(self, a: tuple[Tensor, ...], topk_ids: Tensor) -> Scratch:
        slots, experts, rank, _ = a[0].shape
        key = (topk_ids.shape[1], experts, slots, 2 * rank)
        if key not in self._scratches:
            self._scratches[key] = Scratch.allocate(
                max_tokens=self._max_tokens, top_k=key[0], experts=experts, slots=slots, max_columns=key[3],
                device=topk_ids.device,
            )  # fmt: skip
        return self._scratches[key]

    def route(
        self, a: tuple[Tensor, ...], topk_ids: Tensor, slot_enabled: Tensor, token_slot: Tensor | None, *, side: bool
    ) -> Routing:
        """Plan a batch for the stacks `a` of a layer; `side` says that its kernels run on two streams."""
        slots, experts, _, _ = a[0].shape
        if token_slot is None:
            token_slot = self.token_mapping_meta.token_lora_mapping[: topk_ids.shape[0]]
        return ops.route(
            topk_ids.contiguous(),
            token_slot,
            slot_enabled,
            experts=experts,
            slots=slots,
            scratch=self._scratch(a, topk_ids),
            side=side,
        )

    def adapters(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Adapters:
        """Return the stacks of a projection, checked once."""
        key = (a[0].data_ptr(), b[0].data_ptr())
        if key not in self._adapters:
            self._adapters[key] = Adapters(a, b, slot_ranks.of(a[0]))
        return self._adapters[key]

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
    ) -> _Plan:
        """Add the deltas of gate and up; vLLM's contract.

        Returns:
            What `add_lora_w2` is to be handed: a `Routing` and the `Adapters`, where loractl's kernels run.
        """
        if not self.has_adapters():
            return _NO_PLAN
        if not add_inputs:
            say_once("MoE-LoRA kernels: vLLM's own, because deltas go into a buffer of their own")
        if not add_inputs or not self.takes(lora_a_stacked, x, fully_sharded=fully_sharded, expert_map=expert_map):
            return super().add_lora_w13(
                y, x, lora_a_stacked, lora_b_stacked, topk_ids, topk_weights, expert_map, w1, w2, num_tokens, top_k_num,
                max_loras, adapter_enabled, local_num_experts, top_k, num_slices, fully_sharded, use_tuned_config,
                add_inputs=add_inputs, token_lora_mapping=token_lora_mapping,
            )  # fmt: skip
        routing = self.route(lora_a_stacked, topk_ids, adapter_enabled, token_lora_mapping, side=False)
        adapters = self.adapters(lora_a_stacked, lora_b_stacked)
        shrunk = ops.shrink(x, adapters, routing)
        ops.expand_add(y.view(routing.pairs, -1), shrunk, adapters, routing)
        return routing, adapters, None, routing.token_slot

    def add_lora_w2(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        topk_weights: Tensor,
        sorted_token_ids_lora: Any,
        expert_ids_lora: Any,
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
        """Add the weighted deltas of the down projection; vLLM's contract."""
        if not self.has_adapters():
            return
        routing, w13 = sorted_token_ids_lora, expert_ids_lora
        if not isinstance(routing, Routing) or not isinstance(w13, Adapters):
            super().add_lora_w2(
                y, x, lora_a_stacked, lora_b_stacked, topk_weights, sorted_token_ids_lora, expert_ids_lora,
                num_tokens_post_padded_lora, token_lora_mapping, num_tokens, w1, w2, top_k_num, max_loras,
                adapter_enabled, top_k, fully_sharded, tp_rank, use_tuned_config, add_inputs=add_inputs,
            )  # fmt: skip
            return
        adapters = self.adapters(lora_a_stacked, lora_b_stacked)
        self.warm(w13, adapters, routing.topk_ids, None, side_pairs=0, has_rows=False)
        shrunk = ops.shrink(x, adapters, routing, is_second=True)
        ops.expand_add(y.view(-1, y.shape[-1]), shrunk, adapters, routing, pair_weight=topk_weights.contiguous())

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the deltas of a linear layer; vLLM's contract, traced by torch.compile."""
        add_inputs = bool(kwargs.get("add_inputs", True))
        reason = cuda_dense.refusal(y, x, lora_a_stacked, lora_b_stacked, output_slices, add_inputs=add_inputs)
        if reason:
            _say_of_linear(reason)
            super().add_lora_linear(
                y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, buffer=buffer, **kwargs
            )  # fmt: skip
            return
        batch = self.token_mapping_meta
        cuda_dense.add_lora_linear(
            y, x, lora_a_stacked, lora_b_stacked, batch.token_lora_mapping, batch.no_lora_flag_cpu, scale
        )


_said: set[str] = set()


def say_once(text: str) -> None:
    """Log a warning, once in the life of the process."""
    if text not in _said:
        _said.add(text)
        _log.warning(text)


def _say_of_linear(reason: str) -> bool:
    """Say why vLLM's own kernels run; called while a layer is traced, and no part of the trace."""
    say_once(f"LoRA kernels of linear layers: vLLM's own, because {reason}")
    return True


_compiler: Any = torch.compiler
_say_of_linear = _compiler.assume_constant_result(_say_of_linear)


def install_punica(symbols: Mapping[str, Symbol]) -> None:
    """Make vLLM's CUDA platform name `LoractlPunicaWrapperGPU`."""
    platform: Any = symbols["cuda_platform"].resolve()
    name = f"{LoractlPunicaWrapperGPU.__module__}.{LoractlPunicaWrapperGPU.__qualname__}"
    platform.get_punica_wrapper = classmethod(lambda _cls: name)
    cuda_dense.mark_compiled_graphs(symbols)
    slot_ranks.keep_linear(symbols)
