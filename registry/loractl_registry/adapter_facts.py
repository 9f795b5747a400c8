"""What the files of an adapter say about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from loractl_registry.records import AdapterFacts, ExpertLayout
from loractl_registry.safetensors_header import DTYPE_BITS, TORCH_NAMES, TensorInfo

if TYPE_CHECKING:
    from loractl_registry.adapter_config import AdapterConfig

_PREFIX = "base_model.model."
_SUFFIX = re.compile(r"\.(?:lora_(?:A|B)\.weight|lora_embedding_(?:A|B))$")
_ONE_EXPERT = re.compile(r"\.experts\.\d+\.[A-Za-z0-9_]+$")
_ALL_EXPERTS = re.compile(r"\.experts(?:\.base_layer)?$")


def module_of(tensor: str) -> str | None:
    """Return the module that a tensor belongs to, without PEFT's prefix, or None if it is neither an A nor a B."""
    found = _SUFFIX.search(tensor)
    return None if found is None else tensor[: found.start()].removeprefix(_PREFIX)


def facts_of(config: AdapterConfig, tensors: Mapping[str, TensorInfo]) -> AdapterFacts:
    """Return what config and header say; whether they fit each other and a base is for preflight to judge."""
    modules = {module for name in tensors if (module := module_of(name)) is not None}
    return AdapterFacts(
        rank=_rank(config, tensors),
        alpha=config.lora_alpha,
        modules=tuple(sorted({_engine_name(module) for module in modules})),
        experts=_layout(modules),
        tensor_count=len(tensors),
        dtype=_widest(info.dtype for info in tensors.values()),
        declared_base=config.base_model_name_or_path or None,
    )


def _rank(config: AdapterConfig, tensors: Mapping[str, TensorInfo]) -> int:
    ranks = {config.r}
    for name, info in tensors.items():
        module = module_of(name)
        if module is None or not name.endswith((".lora_A.weight", ".lora_embedding_A")):
            continue
        # Fused experts stack their ranks on one axis, so there the config alone says how high one is.
        ranks.add(config.rank_of(module) if _ALL_EXPERTS.search(module) else info.shape[0])
    return max(ranks)


def _engine_name(module: str) -> str:
    if _ONE_EXPERT.search(module) or _ALL_EXPERTS.search(module):
        return "experts"
    return module.rpartition(".")[2]


def _layout(modules: Iterable[str]) -> ExpertLayout:
    found = ExpertLayout.NONE
    for module in modules:
        if _ALL_EXPERTS.search(module):
            return ExpertLayout.FUSED
        if _ONE_EXPERT.search(module):
            found = ExpertLayout.PER_EXPERT
    return found


def _widest(dtypes: Iterable[str]) -> str:
    # Equally wide dtypes come in the order of their names, so that the answer does not depend on the file's order.
    return TORCH_NAMES[max(sorted(set(dtypes)), key=lambda dtype: DTYPE_BITS[dtype])]
