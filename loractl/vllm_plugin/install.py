"""Put loractl's kernels behind vLLM's seams, as the platform and `LORACTL_KERNELS_BACKEND` say."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from enum import StrEnum

from loractl.engine.errors import EngineError
from loractl.vllm_plugin import compat
from loractl.vllm_plugin.cuda_attention import bound_splits_in_decode_alone

_log = logging.getLogger("vllm.loractl")  # under vLLM's root, so that its handlers print it
_BACKEND_VARIABLE = "LORACTL_KERNELS_BACKEND"
_installed = False


class Backend(StrEnum):
    """Whose MoE-LoRA kernels run. `auto` takes ours where they are, and a named one never falls back."""

    AUTO = "auto"
    TRITON = "triton"
    REFERENCE = "reference"
    VLLM = "vllm"


class BackendUnavailableError(EngineError):
    """The named back end cannot run here."""

    code = "engine.backend_unavailable"


def install() -> None:
    """Install what this process needs; a second call does nothing.

    Raises:
        UnsupportedVllmError: The installed vLLM is not a known version.
        BackendUnavailableError: The environment names a back end that cannot run here.
    """
    global _installed  # noqa: PLW0603  (vLLM may call a plugin several times in a process)
    if _installed:
        return
    symbols = compat.symbols()
    backend = _chosen_backend()
    from vllm.platforms import current_platform

    if backend is Backend.VLLM:
        active = "vLLM's own"
    elif current_platform.is_cpu() and backend is not Backend.TRITON:
        active = _install_on_cpu(symbols)
    elif current_platform.is_cuda() and backend is not Backend.REFERENCE:
        active = _install_on_cuda(symbols)
    elif backend is Backend.AUTO:
        active = "vLLM's own"
    else:
        where = "an NVIDIA GPU" if backend is Backend.TRITON else "vLLM's CPU build"
        raise BackendUnavailableError(
            f"{_BACKEND_VARIABLE}={backend} runs on {where} alone, and this is {current_platform.device_name}",
            hint=f"unset {_BACKEND_VARIABLE}, or set it to vllm",
        )
    if current_platform.is_cuda():  # whichever kernels run: the graphs of prefills are captured for all of them
        bound_splits_in_decode_alone(symbols)
    _installed = True
    _log.info("LoRA kernels: %s (%s=%s, vLLM %s)", active, _BACKEND_VARIABLE, backend, compat.installed_version())


def _install_on_cpu(symbols: Mapping[str, compat.Symbol]) -> str:
    from loractl.vllm_plugin.cpu_experts import serve_experts_on_cpu
    from loractl.vllm_plugin.cpu_punica import install_punica

    install_punica(symbols)
    serve_experts_on_cpu(symbols)
    return "loractl's reference in torch"


def _install_on_cuda(symbols: Mapping[str, compat.Symbol]) -> str:
    from loractl.vllm_plugin.cuda_install import install_on_cuda

    return install_on_cuda(symbols)


def _chosen_backend() -> Backend:
    text = os.environ.get(_BACKEND_VARIABLE, Backend.AUTO)
    try:
        return Backend(text)
    except ValueError:
        raise BackendUnavailableError(
            f"unknown {_BACKEND_VARIABLE} {text!r}", hint=f"use one of: {', '.join(Backend)}"
        ) from None
