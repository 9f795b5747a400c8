"""Which of vLLM's classes give way to loractl's on NVIDIA GPUs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from loractl.vllm_plugin import slot_ranks
from loractl.vllm_plugin.compat import Symbol
from loractl.vllm_plugin.cuda_warmup import install_warmup


def install_on_cuda(symbols: Mapping[str, Symbol]) -> str:
    """Put loractl's kernels behind every seam, and return what to say of it."""
    from loractl.vllm_plugin.cuda_punica import install_punica

    install_punica(symbols)
    slot_ranks.keep(symbols)
    _fuse(symbols["triton_experts"], gemms_take_deltas=True)
    _fuse(symbols["marlin_experts"])
    _put_deltas_in_gemms(symbols["triton_gemm"])
    _serve_gpt_oss_by_oai(symbols)
    install_warmup(symbols)
    return "loractl's in Triton, for experts (OAI, Triton, Marlin) and linear layers"


def _fuse(symbol: Symbol, *, gemms_take_deltas: bool = False) -> None:
    """Put `FusedDeltas` before a class of experts, under the name by which vLLM finds it."""
    from loractl.vllm_plugin.cuda_experts import FusedDeltas

    symbol.resolve()
    module = importlib.import_module(symbol.module)
    name = symbol.attribute.partition(".")[0]
    original: Any = getattr(module, name)
    members = {"__module__": __name__, "__doc__": original.__doc__, "_gemms_take_deltas": gemms_take_deltas}
    setattr(module, name, type(f"Loractl{name}", (FusedDeltas, original), members))


def _put_deltas_in_gemms(symbol: Symbol) -> None:
    from loractl.vllm_plugin.cuda_gemms import with_deltas

    original: Any = symbol.resolve()
    setattr(importlib.import_module(symbol.module), symbol.attribute, with_deltas(original))


def _serve_gpt_oss_by_oai(symbols: Mapping[str, Symbol]) -> None:
    """Let mxfp4 experts with adapters run on the OAI GEMMs, where those run, rather than on Marlin's."""
    from loractl.vllm_plugin.cuda_oai_experts import LoractlOAIExperts

    symbols["oai_experts"].resolve()
    setattr(
        importlib.import_module(symbols["oai_experts"].module),
        symbols["oai_experts"].attribute.partition(".")[0],
        LoractlOAIExperts,
    )
    oracle: Any = importlib.import_module(symbols["mxfp4_priorities"].module)
    original: Any = symbols["mxfp4_priorities"].resolve()
    backend = oracle.Mxfp4MoeBackend

    def priorities() -> list[Any]:
        """Return vLLM's order, with the unfused OAI experts before Marlin where it prefers the fused ones to Marlin.

        The fused ones take no LoRA.
        """
        order = [entry for entry in original() if entry is not backend.TRITON_UNFUSED]
        marlin, triton = (order.index(entry) if entry in order else -1 for entry in (backend.MARLIN, backend.TRITON))
        if 0 <= triton < marlin:
            order.insert(marlin, backend.TRITON_UNFUSED)
        return order

    setattr(oracle, symbols["mxfp4_priorities"].attribute, priorities)
