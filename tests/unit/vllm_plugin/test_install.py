"""Which back end runs where, what is said of it, and that vLLM then finds loractl's classes."""

from __future__ import annotations

import logging
import sys
import types
from types import SimpleNamespace

import pytest

from loractl.vllm_plugin import compat, install

pytestmark = pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")
VARIABLE = "LORACTL_KERNELS_BACKEND"


def platform(kind: str) -> SimpleNamespace:
    return SimpleNamespace(is_cpu=lambda: kind == "cpu", is_cuda=lambda: kind == "cuda", device_name=kind)


@pytest.fixture
def installed(monkeypatch, caplog, vllm_may_warn):
    """Install as if on a platform, and return whose kernels are put in place and the line in the log."""
    import vllm.platforms

    bounded: list[str] = []

    def run(kind: str, backend: str | None) -> tuple[list[str], str]:
        done: list[str] = []
        bounded.clear()

        def to(name: str):
            return lambda symbols: done.append(name) or f"kernels of {name}"

        monkeypatch.setattr(install, "_installed", False)
        monkeypatch.setattr(install, "_install_on_cpu", to("cpu"))
        monkeypatch.setattr(install, "_install_on_cuda", to("cuda"))
        monkeypatch.setattr(install, "bound_splits_in_decode_alone", lambda symbols: bounded.append(kind))
        monkeypatch.setattr(vllm.platforms, "current_platform", platform(kind), raising=False)
        monkeypatch.delenv(VARIABLE, raising=False)
        if backend is not None:
            monkeypatch.setenv(VARIABLE, backend)
        caplog.clear()
        with caplog.at_level("INFO", "vllm.loractl"):
            install.install()
            install.install()
        (line,) = caplog.messages
        assert bounded == ["cuda"] * (kind == "cuda")
        return done, line

    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    return run


@pytest.mark.parametrize(
    ("kind", "backend", "active"),
    [
        ("cpu", None, "cpu"), ("cpu", "auto", "cpu"), ("cpu", "reference", "cpu"), ("cpu", "vllm", None),
        ("cuda", None, "cuda"), ("cuda", "auto", "cuda"), ("cuda", "triton", "cuda"), ("cuda", "vllm", None),
        ("tpu", None, None), ("tpu", "auto", None), ("tpu", "vllm", None),
    ],
)  # fmt: skip
def test_back_end_follows_platform_and_environment(installed, kind, backend, active):
    done, line = installed(kind, backend)

    assert done == ([] if active is None else [active])
    whose = "vLLM's own" if active is None else f"kernels of {active}"
    assert line == f"LoRA kernels: {whose} ({VARIABLE}={backend or 'auto'}, vLLM {compat.installed_version()})"


@pytest.mark.parametrize(
    ("kind", "backend", "where"),
    [
        ("cpu", "triton", "an NVIDIA GPU"),
        ("tpu", "triton", "an NVIDIA GPU"),
        ("cuda", "reference", "vLLM's CPU build"),
        ("tpu", "reference", "vLLM's CPU build"),
    ],
)
def test_named_back_end_never_falls_back(installed, kind, backend, where):
    with pytest.raises(install.BackendUnavailableError) as refused:
        installed(kind, backend)

    assert str(refused.value).startswith(f"{VARIABLE}={backend} runs on {where} alone, and this is {kind}")
    assert refused.value.hint == f"unset {VARIABLE}, or set it to vllm"


@pytest.mark.parametrize("text", ["", "cuda", "Triton"])
def test_unknown_back_end_is_refused_with_those_there_are(installed, text):
    with pytest.raises(install.BackendUnavailableError, match=f"unknown {VARIABLE} '{text}'") as refused:
        installed("cpu", text)

    assert refused.value.hint == "use one of: auto, triton, reference, vllm"


@pytest.fixture
def on_cuda(monkeypatch, cuda_layers):
    """`install_on_cuda` done to the real vLLM, and undone after the test; returns the modules."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.layers import base_linear, fused_moe
    from vllm.lora.layers import column_parallel_linear as merged
    from vllm.model_executor.layers.fused_moe.experts import gpt_oss_triton_kernels_moe, marlin_moe, triton_moe
    from vllm.model_executor.layers.fused_moe.oracle import mxfp4, unquantized
    from vllm.v1.worker import gpu_worker

    from loractl.vllm_plugin.cuda_install import install_on_cuda

    library = "vllm._C_stable_libtorch"
    if library not in sys.modules:
        monkeypatch.setitem(sys.modules, library, types.ModuleType(library))
    from vllm.platforms import cuda

    kept = (
        (triton_moe, "TritonExperts"), (triton_moe, "invoke_fused_moe_triton_kernel"), (marlin_moe, "MarlinExperts"),
        (gpt_oss_triton_kernels_moe, "UnfusedOAITritonExperts"), (mxfp4, "_get_priority_backends_for_gpt_oss"),
        (fused_moe.FusedMoEWithLoRA, "set_lora"), (fused_moe.FusedMoEWithLoRA, "create_lora_weights"),
        (fused_moe.FusedMoE3DWithLoRA, "set_lora"), (fused_moe.FusedMoE3DWithLoRA, "create_lora_weights"),
        (base_linear.BaseLinearLayerWithLoRA, "set_lora"), (base_linear.BaseLinearLayerWithLoRA, "create_lora_weights"),
        (merged.MergedColumnParallelLinearWithLoRA, "set_lora"),
        (merged.MergedColumnParallelLinearWithLoRA, "create_lora_weights"), (LoRAConfig, "compute_hash"),
        (gpu_worker, "kernel_warmup"),
    )  # fmt: skip
    for owner, name in kept:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(
        cuda.CudaPlatformBase, "get_punica_wrapper", cuda.CudaPlatformBase.__dict__["get_punica_wrapper"]
    )
    said = install_on_cuda(compat.symbols())
    return SimpleNamespace(said=said, cuda=cuda, mxfp4=mxfp4, unquantized=unquantized)


def test_platform_names_our_wrapper(on_cuda):
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from loractl.vllm_plugin.cuda_punica import LoractlPunicaWrapperGPU

    for kind in (on_cuda.cuda.CudaPlatformBase, on_cuda.cuda.NvmlCudaPlatform, on_cuda.cuda.NonNvmlCudaPlatform):
        assert resolve_obj_by_qualname(kind.get_punica_wrapper()) is LoractlPunicaWrapperGPU
    assert on_cuda.said.startswith("loractl's in Triton")


@pytest.mark.parametrize(
    ("oracle", "family", "backend"),
    [
        ("unquantized", "UnquantizedMoeBackend", "TRITON"),
        ("mxfp4", "Mxfp4MoeBackend", "MARLIN"),
        ("mxfp4", "Mxfp4MoeBackend", "TRITON_UNFUSED"),
    ],
)
def test_vllm_finds_experts_with_fused_deltas(on_cuda, oracle, family, backend):
    from loractl.vllm_plugin.cuda_experts import FusedDeltas

    module = getattr(on_cuda, oracle)

    found = module.backend_to_kernel_cls(getattr(getattr(module, family), backend))

    assert [issubclass(experts, FusedDeltas) for experts in found] == [True]
    assert found[0].supports_lora()
    assert found[0].apply.__module__.startswith("loractl.vllm_plugin")


def test_unfused_oai_experts_come_right_before_marlin(on_cuda):
    backend = on_cuda.mxfp4.Mxfp4MoeBackend

    order = on_cuda.mxfp4._get_priority_backends_for_gpt_oss()

    assert order[order.index(backend.MARLIN) - 1] is backend.TRITON_UNFUSED
    assert order.index(backend.TRITON) < order.index(backend.TRITON_UNFUSED)
    assert order.count(backend.TRITON_UNFUSED) == 1


@pytest.mark.parametrize(
    ("vllms", "ours"),
    [
        ("TRITON MARLIN CPU", "TRITON TRITON_UNFUSED MARLIN CPU"),
        ("TRITON_UNFUSED TRITON MARLIN", "TRITON TRITON_UNFUSED MARLIN"),
        ("MARLIN TRITON", "MARLIN TRITON"),
        ("MARLIN CPU", "MARLIN CPU"),
        ("TRITON CPU", "TRITON CPU"),
    ],
)
def test_unfused_oai_experts_follow_where_vllm_puts_the_fused_ones(on_cuda, monkeypatch, vllms, ours):
    from loractl.vllm_plugin import cuda_install

    backend, name = on_cuda.mxfp4.Mxfp4MoeBackend, "_get_priority_backends_for_gpt_oss"
    monkeypatch.setattr(on_cuda.mxfp4, name, lambda: [backend[entry] for entry in vllms.split()])
    monkeypatch.setattr(
        sys.modules[compat.symbols()["oai_experts"].module], "UnfusedOAITritonExperts",
        SimpleNamespace(apply=None),
    )  # fmt: skip

    cuda_install._serve_gpt_oss_by_oai(compat.symbols())

    assert [entry.name for entry in getattr(on_cuda.mxfp4, name)()] == ours.split()
