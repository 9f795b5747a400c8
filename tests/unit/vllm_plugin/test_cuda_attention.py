"""Only batches that a graph of the whole model can hold have their splits bounded."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest

from loractl.vllm_plugin import compat

pytestmark = pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")


@pytest.fixture
def builder(monkeypatch, vllm_may_warn):
    """vLLM's class with ours in its `__init__`, which takes over the size of the largest graph and no more."""
    from vllm.v1.attention.backends.flash_attn import FlashAttentionMetadataBuilder

    from loractl.vllm_plugin.cuda_attention import bound_splits_in_decode_alone

    def init(self, kv_cache_spec, layer_names, vllm_config, device):
        self.max_cudagraph_size = vllm_config.compilation_config.max_cudagraph_capture_size

    monkeypatch.setattr(FlashAttentionMetadataBuilder, "__init__", init)
    bound_splits_in_decode_alone(compat.symbols())
    return FlashAttentionMetadataBuilder


def config(mode: str, *, largest: int | None = 8192, seqs: int = 256, speculative: int = 0):
    from vllm.config.compilation import CUDAGraphMode

    return SimpleNamespace(
        compilation_config=SimpleNamespace(max_cudagraph_capture_size=largest, cudagraph_mode=CUDAGraphMode[mode]),
        scheduler_config=SimpleNamespace(max_num_seqs=seqs),
        num_speculative_tokens=speculative,
    )


@pytest.mark.parametrize(
    ("mode", "sizes", "bounded"),
    [
        ("FULL_AND_PIECEWISE", {}, 256),
        ("FULL_DECODE_ONLY", {}, 256),
        ("FULL_AND_PIECEWISE", {"speculative": 3}, 1024),
        ("FULL_AND_PIECEWISE", {"largest": 64}, 64),
        ("FULL_AND_PIECEWISE", {"largest": None}, None),
        ("FULL", {}, 8192),
        ("PIECEWISE", {}, 256),
        ("NONE", {}, 256),
    ],
)
def test_bound_ends_with_the_graphs_that_hold_attention(builder, mode, sizes, bounded):
    assert builder(None, [], config(mode, **sizes), "cpu").max_cudagraph_size == bounded


def test_vllm_bounds_splits_by_that_size(vllm_may_warn):
    from vllm.v1.attention.backends.flash_attn import FlashAttentionMetadataBuilder

    assert "num_actual_tokens <= self.max_cudagraph_size" in inspect.getsource(FlashAttentionMetadataBuilder.build)
    parameters = inspect.signature(FlashAttentionMetadataBuilder.__init__).parameters
    assert [*parameters] == ["self", "kv_cache_spec", "layer_names", "vllm_config", "device"]
