"""Every symbol that the plugin rests on is in the installed vLLM, and what it installs there does what it says."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import subprocess
import sys
import types

import pytest
import torch

from loractl.vllm_plugin import compat

needs_vllm = pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")
ROWS = [
    pytest.param(version, name, symbol, id=f"{version}-{name}")
    for version, row in compat.SUPPORTED.items()
    for name, symbol in row.items()
]


@pytest.fixture
def _cuda_platform_can_be_imported(monkeypatch, vllm_may_warn):
    """Let vLLM's CPU build import the module of its CUDA platform, which wants a library of the CUDA build."""
    library = "vllm._C_stable_libtorch"
    if importlib.util.find_spec(library) is None:
        monkeypatch.setitem(sys.modules, library, types.ModuleType(library))
    is_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(is_enabled)


@needs_vllm
@pytest.mark.usefixtures("_cuda_platform_can_be_imported")
@pytest.mark.parametrize(("version", "name", "symbol"), ROWS)
def test_symbol_is_there_with_its_parameters(version, name, symbol):
    if version != compat.installed_version():
        pytest.skip(f"needs vLLM {version}")

    found = symbol.resolve()

    if symbol.parameters:
        assert tuple(inspect.signature(found).parameters) == symbol.parameters


def test_a_symbol_that_is_gone_is_named():
    with pytest.raises(compat.UnsupportedVllmError, match=r"json\.nowhere"):
        compat.Symbol("json", "nowhere").resolve()


def test_an_unknown_version_is_refused_by_name_with_those_that_are_known(monkeypatch):
    monkeypatch.setattr(compat, "installed_version", lambda: "0.99.1")

    with pytest.raises(compat.UnsupportedVllmError, match=r"0\.99\.1.*0\.32\.0") as caught:
        compat.symbols()

    assert caught.value.hint


def test_no_vllm_at_all_is_said(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    with pytest.raises(compat.UnsupportedVllmError, match="not installed"):
        compat.symbols()


def register(times: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import logging\nlogging.basicConfig(level=logging.INFO)\nfrom loractl.vllm_plugin import register\n"
        + "register()\n" * times
    )
    code += "import torch; print('cuda touched:', torch.cuda.is_initialized())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=200
    )


@needs_vllm
def test_register_is_idempotent_and_says_once_what_is_active():
    done = register(times=2)

    assert done.returncode == 0, done.stderr[-2000:]
    assert "cuda touched: False" in done.stdout
    assert (done.stdout + done.stderr).count("LoRA kernels:") == 1


@needs_vllm
def test_register_refuses_a_back_end_that_does_not_exist():
    done = register(LORACTL_KERNELS_BACKEND="fastest")

    assert done.returncode != 0
    assert "unknown LORACTL_KERNELS_BACKEND 'fastest'" in done.stderr


def _wrapper(cls):
    from vllm.lora.layers import LoRAMapping

    wrapper = cls(16, 4, "cpu")
    mapping = LoRAMapping(index_mapping=(0, 0, 7, 0), prompt_mapping=(0, 7, 0), is_prefill=True)
    wrapper.update_metadata(mapping, [7, 8], 2, 100)
    return wrapper


@needs_vllm
@pytest.mark.usefixtures("vllm_may_warn")
@pytest.mark.parametrize("is_prefill", [True, False])
def test_dense_rows_of_the_base_are_left_alone_beside_an_adapter(is_prefill):
    pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
    from loractl.vllm_plugin.cpu_punica import LoractlPunicaWrapperCPU, install_punica

    install_punica(compat.symbols())
    wrapper = _wrapper(LoractlPunicaWrapperCPU)
    wrapper.is_prefill = is_prefill
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 32, generator=generator)
    a, b = torch.randn(2, 1, 8, 32, generator=generator), torch.randn(2, 1, 16, 8, generator=generator)
    y = torch.randn(4, 16, generator=generator)
    before = y.clone()

    wrapper.add_lora_linear(y, x, (a,), (b,), 1.0, (16,))

    base = torch.tensor([True, True, False, True])
    assert torch.equal(y[base], before[base])
    torch.testing.assert_close(y[2], before[2] + b[0, 0] @ (a[0, 0] @ x[2]), atol=1e-4, rtol=1e-5)


@needs_vllm
@pytest.mark.usefixtures("vllm_may_warn")
@pytest.mark.parametrize("is_prefill", [True, False])
def test_embedding_rows_of_the_base_are_left_alone_beside_an_adapter(is_prefill):
    pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
    from loractl.vllm_plugin.cpu_punica import LoractlPunicaWrapperCPU

    wrapper = _wrapper(LoractlPunicaWrapperCPU)
    wrapper.is_prefill = is_prefill
    generator = torch.Generator().manual_seed(0)
    x, b = torch.randn(4, 8, generator=generator), torch.randn(2, 1, 16, 8, generator=generator)
    y = torch.randn(4, 16, generator=generator)
    before = y.clone()

    wrapper.add_lora_embedding(y, x, b)

    base = torch.tensor([True, True, False, True])
    assert torch.equal(y[base], before[base])
    torch.testing.assert_close(y[2], before[2] + b[0, 0] @ x[2], atol=1e-4, rtol=1e-5)


@needs_vllm
def test_vllms_own_wrapper_still_gives_base_rows_the_last_slot_which_is_why_ours_exists():
    code = """
import torch
from vllm.lora.ops.torch_ops import bgmv_shrink
out = torch.zeros(1, 2)
bgmv_shrink(torch.ones(1, 3), torch.ones(2, 1, 2, 3), out, torch.tensor([-1]))
print(out.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)

    assert "[[3.0, 3.0]]" in done.stdout
