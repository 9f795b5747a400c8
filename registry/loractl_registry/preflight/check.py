"""Whether a base takes an adapter, whether every tensor of it is used, and what it will cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.preflight.base_shape import read_base_shape
from loractl_registry.preflight.errors import PreflightRefusedError, Problem
from loractl_registry.preflight.layout import Placement
from loractl_registry.preflight.memory import RANK_LADDER, rung_of, slot_bytes
from loractl_registry.preflight.placing import expert_problems, place, refuse, shape_problems
from loractl_registry.preflight.values import check_values
from loractl_registry.records import ExpertLayout
from loractl_registry.safetensors_header import TensorInfo, open_safetensors_header

if TYPE_CHECKING:
    from loractl_registry.adapter_config import AdapterConfig

_ELEMENT_BYTES = 2  # of an adapter in an engine on a GPU


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What preflight found out about an adapter that the base takes.

    Attributes:
        tensor_count: Tensors of the file; every one of them has its place.
        modules: What it touches, with how many layers of each.
        layers: How many of the base's decoder layers it touches.
        base_layers: How many the base has.
        experts: Layout of the expert tensors.
        rank: Largest rank.
        engine_rank: The rank of vLLM's ladder that an engine has to be started for.
        slot_bytes: GPU bytes that one slot takes in an engine for this adapter alone, at `engine_rank`.
        host_bytes: Bytes that it takes in the engine's host memory while it is kept there.
        findings: What is odd but not wrong.
    """

    base_type: str
    tensor_count: int
    modules: Mapping[str, int]
    layers: int
    base_layers: int
    experts: ExpertLayout
    rank: int
    engine_rank: int
    slot_bytes: int
    host_bytes: int
    findings: tuple[str, ...]

    def __str__(self) -> str:
        touched = ", ".join(f"{name} in {layers} layers" for name, layers in self.modules.items())
        return (
            f"all {self.tensor_count} tensors used ({touched}), rank {self.rank}, "
            f"{self.slot_bytes / 2**20:.1f} MiB a slot at rank {self.engine_rank}"
        )


def check_stored(folder: Path, base_config: Mapping[str, object]) -> PreflightReport:
    """Run preflight on the files of a stored version.

    Raises:
        PreflightRefusedError: The base does not take it, or part of it would have no effect.
        DeniedError: The files themselves are malformed.
    """
    from loractl_registry.adapter_config import read_adapter_config  # pydantic, which reading and listing do without
    from loractl_registry.tensor_values import read_tensor_values

    weights = folder / WEIGHTS
    header = open_safetensors_header(weights)
    # Names and shapes first: they are read already, and a refusal there spares the reading of every value.
    placement, report = _check(header.tensors, read_adapter_config(folder), base_config)
    odd_values = check_values(read_tensor_values(weights, header), placement)
    return replace(report, findings=(*report.findings, *odd_values))


def check_adapter(
    tensors: Mapping[str, TensorInfo], config: AdapterConfig, base_config: Mapping[str, object]
) -> PreflightReport:
    """Check names, places, shapes and ranks, without reading a value.

    Raises:
        PreflightRefusedError: Each problem names the tensor, what was expected and what was found.
    """
    return _check(tensors, config, base_config)[1]


def _check(
    tensors: Mapping[str, TensorInfo], config: AdapterConfig, base_config: Mapping[str, object]
) -> tuple[Placement, PreflightReport]:
    base = read_base_shape(base_config)
    placement = place(tensors, base)
    refuse(shape_problems(tensors, placement, config))
    refuse(expert_problems(placement, base, config))
    rank = _engine_sees_rank(placement, config)
    modules = _touched(placement)
    report = PreflightReport(
        base_type=base.model_type,
        tensor_count=len(tensors),
        modules=modules,
        layers=len({target.layer for target in placement.values() if target.layer is not None}),
        base_layers=base.layers,
        experts=next((t.layout for t in placement.values() if t.layout is not ExpertLayout.NONE), ExpertLayout.NONE),
        rank=rank,
        engine_rank=rung_of(rank),
        slot_bytes=slot_bytes(base, modules, rung_of(rank), element_bytes=_ELEMENT_BYTES),
        host_bytes=sum(prod(tensor.shape) for tensor in tensors.values()) * _ELEMENT_BYTES,
        findings=(),
    )
    return placement, report


def _engine_sees_rank(placement: Placement, config: AdapterConfig) -> int:
    """Return the largest rank of the adapter.

    Raises:
        PreflightRefusedError: The configuration names a higher one for a module that is not there. The engine goes by
            the configuration, and would refuse the adapter when it is asked for.
    """
    used = max(config.rank_of(pair) for pair in placement)
    idle = {name: rank for name, rank in config.rank_pattern.items() if rank > max(used, config.r)}
    if idle:
        name, rank = next(iter(idle.items()))
        raise PreflightRefusedError(
            Problem(
                f"rank_pattern gives {name!r} rank {rank}, the file has no such module, and the engine would want a"
                f" rank of {rank} all the same",
                f"take {name!r} out of rank_pattern in adapter_config.json, and add it again",
            )
        )
    highest = max(used, config.r)
    if highest > RANK_LADDER[-1]:
        raise PreflightRefusedError(
            Problem(f"rank {highest} is above the engine's highest, {RANK_LADDER[-1]}", "train it with a lower rank")
        )
    return highest


def _touched(placement: Placement) -> dict[str, int]:
    paths: dict[str, set[str]] = {}
    for target in placement.values():
        paths.setdefault(target.module.rpartition(".")[2], set()).add(target.module)
    return {name: len(found) for name, found in sorted(paths.items())}
