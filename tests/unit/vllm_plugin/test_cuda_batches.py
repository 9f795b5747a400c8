"""What the wrapper holds of a batch is what vLLM's own code would have put there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOTS, TOKENS, VOCABULARY = 5, 16, 1000
IDS = (None, 7, 1, None, 300)
INDICES = ("_token_lora_indices", "_sampler_indices", "_sampler_indices_padded", "_embeddings_indices")
ON_THE_HOST = ("no_lora_flag_cpu", "num_active_loras_cpu")
BY_SLOT = ("active_lora_ids", "num_tokens_per_lora", "lora_token_start_loc")
BY_ROW = ("token_lora_mapping", "token_indices_sorted_by_lora_ids")
rows = st.lists(st.sampled_from((0, 1, 7, 300)), min_size=1, max_size=TOKENS).map(tuple)


@pytest.fixture
def wrappers(cuda_layers):
    """Ours, and one that goes by vLLM's own code."""
    ours, theirs = cuda_layers.make_wrapper(SLOTS, TOKENS), cuda_layers.make_wrapper(SLOTS, TOKENS)
    for wrapper in (ours, theirs):
        for meta in (wrapper.token_mapping_meta, wrapper.prompt_mapping_meta):
            meta.captured_lora_counts = [1, 2, 4, 6]
    return ours, theirs


def mapping_of(tokens, prompts, *, is_prefill: bool = False):
    from vllm.lora.layers import LoRAMapping

    return LoRAMapping(tokens, prompts, is_prefill)


def take(wrappers, mapping) -> None:
    ours, theirs = wrappers
    ours.update_metadata(mapping, list(IDS), SLOTS, VOCABULARY)
    type(theirs).__base__.update_metadata(theirs, mapping, list(IDS), SLOTS, VOCABULARY)


def same(ours, theirs, names, count: int | None = None) -> bool:
    return all(torch.equal(getattr(ours, name)[:count], getattr(theirs, name)[:count]) for name in names)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=rows, prompts=rows, is_prefill=st.booleans())
def test_batch_after_batch_is_vllms(wrappers, tokens, prompts, is_prefill):
    take(wrappers, mapping_of(tokens, prompts, is_prefill=is_prefill))

    ours, theirs = wrappers
    assert ours.indices_len == theirs.indices_len
    assert ours.is_prefill == theirs.is_prefill
    for name, count in zip(INDICES, ours.indices_len, strict=True):
        assert same(ours, theirs, [name], count)
    for name, given_ids in (("token_mapping_meta", tokens), ("prompt_mapping_meta", prompts)):
        mine, own = getattr(ours, name), getattr(theirs, name)
        assert same(mine, own, (*ON_THE_HOST, *BY_SLOT))
        assert not any(given_ids) or same(mine, own, BY_ROW, len(given_ids))  # vLLM leaves them stale without adapters


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=rows)
def test_rows_without_an_adapter_and_beyond_the_batch_are_the_base(wrappers, tokens):
    take(wrappers, mapping_of((7,) * TOKENS, (7,)))

    take(wrappers, mapping_of(tokens, tokens))

    slots = [IDS.index(lora_id) if lora_id else -1 for lora_id in tokens]
    assert wrappers[0].token_mapping_meta.token_lora_mapping.tolist() == slots + [-1] * (TOKENS - len(tokens))


def test_adapter_in_no_slot_is_refused(wrappers):
    with pytest.raises(KeyError, match="8"):
        wrappers[0].update_metadata(mapping_of((8,), (8,)), list(IDS), SLOTS, VOCABULARY)
