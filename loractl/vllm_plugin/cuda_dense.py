"""Deltas of linear layers (attention, dense MLPs) on NVIDIA GPUs, as an operator that vLLM's compiled graphs call.

vLLM traces a model once and runs the trace for every batch, so what differs from batch to batch reaches the operator
as tensors: the whole buffer of the tokens' slots, of which a batch uses the first, and the flag that no token has an
adapter. What serves all batches (scratch, true ranks) is found by the operands' own sizes and addresses rather than by
a handle, which a trace would keep as a constant, and vLLM keeps traces from one start to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loractl.vllm_plugin import slot_ranks
from loractl.vllm_plugin.compat import Symbol
from loractl_kernels import dense
from loractl_kernels.dense import MAX_SLICES, DenseScratch
from loractl_kernels.operands import MAX_RANK
from loractl_kernels.ops import Backend

NAMESPACE: Final = "loractl"
_SCHEMA: Final = (
    "add_lora_linear(Tensor(a!) y, Tensor x, Tensor[] a, Tensor[] b, Tensor token_slot, Tensor is_base_only, "
    "float scale) -> ()"
)
_DTYPES: Final = frozenset({torch.bfloat16, torch.float16})
_UNIT: Final = 16  # bytes of an aligned pointer, and what a stride must be a multiple of; Triton compiles by both

_backend = Backend.TRITON
_scratches: dict[tuple[object, ...], DenseScratch] = {}
_warmed: set[tuple[object, ...]] = set()


def refusal(
    y: Tensor,
    x: Tensor,
    a: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    output_slices: tuple[int, ...],
    *,
    add_inputs: bool,
) -> str:
    """Say why the kernels do not take a layer, or return nothing; no answer depends on the number of tokens."""
    return _refusal_of_call(y, x, output_slices, add_inputs=add_inputs) or _refusal_of_stacks(x, a, b, output_slices)


def _refusal_of_call(y: Tensor, x: Tensor, output_slices: tuple[int, ...], *, add_inputs: bool) -> str:
    if not add_inputs:
        return "deltas go into a buffer of their own"
    if x.dtype not in _DTYPES or y.dtype != x.dtype:
        return "the dtype is neither bfloat16 nor float16, or is not the input's everywhere"
    if x.dim() != 2 or y.dim() != 2 or x.stride(1) != 1 or y.stride(1) != 1:
        return "input or output is no matrix with contiguous rows"
    return "" if y.shape[1] == sum(output_slices) else "the output has other columns than its slices"


def _refusal_of_stacks(x: Tensor, a: tuple[Tensor, ...], b: tuple[Tensor, ...], output_slices: tuple[int, ...]) -> str:
    if not len(a) == len(b) == len(output_slices) <= MAX_SLICES:
        return f"a layer has over {MAX_SLICES} slices, or fewer stacks than slices"
    slots, _, rank, _ = a[0].shape
    if rank > MAX_RANK:
        return f"the stacks' rank is over {MAX_RANK}"
    for one_a, one_b, size in zip(a, b, output_slices, strict=True):
        if one_a.dtype != x.dtype or one_b.dtype != x.dtype:
            return "adapters have another dtype than the layer"
        if one_a.shape != (slots, 1, rank, x.shape[1]) or one_b.shape != (slots, 1, size, rank):
            return "adapters are fully sharded, or slices differ in rank"
        if not one_a.is_contiguous() or not one_b.is_contiguous():
            return "stacks of adapters are not contiguous"
    return ""


def add_lora_linear(
    y: Tensor,
    x: Tensor,
    a: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    token_slot: Tensor,
    is_base_only: Tensor,
    scale: float,
) -> None:
    """Add the deltas of one layer in place, for a batch of any size.

    Args:
        y: [tokens, sum of the slices' out_features]; updated. Rows without an adapter are not touched.
        x: [tokens, in_features].
        a: Per slice [slots, 1, rank, in_features].
        b: Per slice [slots, 1, out_features of the slice, rank].
        token_slot: [most tokens] int32 or int64, all of the buffer; a batch uses its first. Negative is the base.
        is_base_only: [1] bool on the host; no token has an adapter, and nothing is done.
        scale: What a delta is multiplied with.
    """
    torch.ops.loractl.add_lora_linear(y, x, list(a), list(b), token_slot, is_base_only, scale)


def _add_lora_linear(
    y: Tensor, x: Tensor, a: list[Tensor], b: list[Tensor], token_slot: Tensor, is_base_only: Tensor, scale: float
) -> None:
    """Run the kernels: what the operator does.

    A large batch is planned anew for every layer. A plan shared by all layers would save one short launch a layer;
    which batches share it is not to be seen from here.
    """
    layer = _Layer(tuple(a), tuple(b), token_slot, scale)
    layer.warm(y, x)
    if not is_base_only.item():
        layer.add(y, x, token_slot[: x.shape[0]])


def _fake_add_lora_linear(
    y: Tensor, x: Tensor, a: list[Tensor], b: list[Tensor], token_slot: Tensor, is_base_only: Tensor, scale: float
) -> None:
    """Do what the operator does to shapes: nothing."""


class _Layer:
    """A layer's adapters for one call, with what the process keeps for layers like it."""

    __slots__ = ("_key", "a", "b", "ids_dtype", "ranks", "scale", "scratch")

    def __init__(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...], token_slot: Tensor, scale: float) -> None:
        slots, _, rank, _ = a[0].shape
        self.a, self.b, self.scale, self.ids_dtype = a, b, scale, token_slot.dtype
        self.ranks = slot_ranks.of(a[0])
        self._key = (a[0].device, token_slot.shape[0], slots, rank)
        self.scratch = _scratch(self._key, token_slot.shape[0], slots, rank, a[0].device)

    def add(self, y: Tensor, x: Tensor, token_slot: Tensor) -> None:
        """Add the deltas of a batch."""
        dense.add_lora_linear(
            y, x, self.a, self.b, token_slot, scale=self.scale, ranks=self.ranks, scratch=self.scratch,
            backend=_backend,
        )  # fmt: skip

    def warm(self, y: Tensor, x: Tensor) -> None:
        """Compile all that batches of this layer can need, once; vLLM's profiling run comes here before it serves."""
        outs = tuple(one.shape[2] for one in self.b)
        key = (*self._key, self.a[0].shape[3], outs, x.dtype, self.ids_dtype, self.ranks is None, _form(y), _form(x))
        if key in _warmed or _backend is not Backend.TRITON or _is_capturing(x.device):
            return
        _warmed.add(key)
        for tokens in dense.warmup_tokens(self.scratch.max_tokens, self.scratch.max_slots):
            base = torch.full((tokens,), -1, dtype=self.ids_dtype, device=x.device)
            self.add(_untouched(y, tokens), _untouched(x, tokens), base)


def _scratch(layer: tuple[object, ...], tokens: int, slots: int, rank: int, device: torch.device) -> DenseScratch:
    """Return what layers of one rank share on one stream: shared experts may run beside another layer.

    It is as wide as any of them needs and never replaced, because captured graphs hold its address.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (*layer, stream)
    found = _scratches.get(key)
    if found is None:
        columns = dense.padded_columns(MAX_SLICES, rank)
        found = DenseScratch.allocate(max_tokens=tokens, slots=slots, max_columns=columns, device=device)
        _scratches[key] = found
    return found


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _form(matrix: Tensor) -> tuple[bool, bool]:
    """Return what Triton compiles by: whether the stride of rows is a multiple of 16, and whether 16 bytes align."""
    stride = matrix.stride(0) if matrix.shape[0] > 1 else matrix.shape[1]
    return stride % _UNIT == 0, matrix.data_ptr() % _UNIT == 0


def _untouched(matrix: Tensor, tokens: int) -> Tensor:
    """Return rows of the form of `matrix` that nobody reads or writes, and that may therefore overlap."""
    is_multiple, is_aligned = _form(matrix)
    step, start = _UNIT if is_multiple else _UNIT // 2, 0 if is_aligned else 1
    memory = torch.empty(start + tokens * step + matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return memory.as_strided((tokens, matrix.shape[1]), (step, 1), start)


def mark_compiled_graphs(symbols: Mapping[str, Symbol]) -> None:
    """Keep vLLM from loading graphs that it compiled without loractl's operators, or with others.

    Its cache goes by its configuration and by the sources that were traced; a graph traced with vLLM's own wrapper
    knows of neither this module nor the switch that turns it off.
    """
    config: Any = symbols["lora_config"].resolve()
    original: Any = config.compute_hash

    def compute_hash(self: Any) -> str:
        """Return vLLM's hash with the operator's schema."""
        return f"{original(self)} {NAMESPACE}::{_SCHEMA}"

    config.compute_hash = compute_hash


_torch: Any = torch  # whose stubs leave `Library` untyped
_LIBRARY: Final = _torch.library.Library(NAMESPACE, "FRAGMENT")
_LIBRARY.define(_SCHEMA)
for _device in ("CUDA", "CPU"):
    _LIBRARY.impl("add_lora_linear", _add_lora_linear, _device)
_torch.library.register_fake(f"{NAMESPACE}::add_lora_linear", _fake_add_lora_linear, lib=_LIBRARY)
