"""What vLLM's LoRA layers have to know of a batch, worked out on the host and sent to the GPU in one piece.

vLLM 0.32.0 loops over tokens in Python, sorts and counts on the GPU, and waits for the GPU several times, before each
batch whose requests have changed: milliseconds before a prefill, in which the GPU has nothing to do. Here the host
does it with NumPy and waits for nothing. What the wrapper holds afterwards is the same, but that rows without an
adapter always say so: vLLM leaves stale slots behind them, which the kernels of a captured graph would read.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_Ints = npt.NDArray[np.int64]


def update(wrapper: Any, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int) -> None:
    """Take over a batch; in place of vLLM's `PunicaWrapperGPU.update_metadata`.

    Args:
        wrapper: vLLM's wrapper, whose tensors are written in place: captured graphs hold their addresses.
        mapping: vLLM's `LoRAMapping`, an adapter's id for each token and each prompt, 0 for none.
        lora_index_to_id: The id in each slot.
        max_loras: Slots.
        vocab_size: Of the model.

    Raises:
        KeyError: An adapter of the batch is in no slot.
    """
    slot_of = {lora_id: slot for slot, lora_id in enumerate(lora_index_to_id) if lora_id is not None}
    tokens, prompts = _slots(mapping.index_mapping, slot_of), _slots(mapping.prompt_mapping, slot_of)
    padded = np.arange(len(prompts)) + np.where(prompts < 0, max_loras - 1, prompts) * len(prompts)
    parts: list[tuple[Tensor, _Ints]] = [
        (wrapper._token_lora_indices, tokens),
        (wrapper._sampler_indices, prompts),
        (wrapper._sampler_indices_padded, padded),
        (wrapper._embeddings_indices, np.maximum(tokens, 0) * vocab_size),
        *_kernel_parts(wrapper.token_mapping_meta, tokens),
        *_kernel_parts(wrapper.prompt_mapping_meta, prompts),
    ]
    wrapper.is_prefill = mapping.is_prefill
    wrapper.indices_len[:] = [len(tokens), len(prompts), len(prompts), len(tokens)]
    _send(parts, torch.device(wrapper.device))
    wrapper.token_mapping_meta.token_lora_mapping[len(tokens) :].fill_(-1)


def _slots(ids: tuple[int, ...], slot_of: dict[int, int]) -> _Ints:
    """Return the slot of each id, -1 for none."""
    given = np.fromiter(ids, np.int64, len(ids))
    slots = np.full(len(ids), -1, np.int64)
    for lora_id in set(given[given > 0].tolist()):
        slots[given == lora_id] = slot_of[lora_id]
    return slots


def _kernel_parts(meta: Any, slots: _Ints) -> list[tuple[Tensor, _Ints]]:
    """Set what vLLM's `LoRAKernelMeta` holds on the host, and return what goes into its tensors."""
    present, counts = np.unique(slots, return_counts=True)
    is_base_only = not bool((present >= 0).any())
    if is_base_only:
        present, counts = present[:0], counts[:0]
    active = len(present)
    if active and meta.captured_lora_counts:
        at = bisect.bisect_left(meta.captured_lora_counts, active)
        active = meta.captured_lora_counts[at] if at < len(meta.captured_lora_counts) else active
    meta.no_lora_flag_cpu.fill_(is_base_only)
    meta.num_active_loras_cpu.fill_(active)
    return [
        (meta.token_lora_mapping, slots),
        (meta.token_indices_sorted_by_lora_ids, np.argsort(slots, kind="stable")),
        (meta.active_lora_ids, _filled(meta.active_lora_ids, -1, present)),
        (meta.num_tokens_per_lora, _filled(meta.num_tokens_per_lora, 0, counts)),
        (meta.lora_token_start_loc, _filled(meta.lora_token_start_loc, 0, np.concatenate(([0], np.cumsum(counts))))),
    ]


def _filled(like: Tensor, value: int, start: _Ints) -> _Ints:
    """Return an array as long as `like` that begins with `start` and goes on with `value`."""
    whole = np.full(like.shape[0], value, np.int64)
    whole[: len(start)] = start
    return whole


def _send(parts: list[tuple[Tensor, _Ints]], device: torch.device) -> None:
    """Write each array to the beginning of its tensor, by one copy to the device."""
    # Pinned anew each time: PyTorch keeps the memory until the copy has been made, and hands it out again then.
    host = torch.empty(sum(len(values) for _, values in parts), dtype=torch.int64, pin_memory=device.type == "cuda")
    np.concatenate([values for _, values in parts], out=host.numpy())
    there = host.to(device, non_blocking=True)
    start = 0
    for target, values in parts:
        target[: len(values)].copy_(there[start : start + len(values)])
        start += len(values)
