"""The smallest parts of an adapter that can be without effect, and the place of each in a model of transformers.

A piece is one pair of tensors; where one pair holds all experts of a layer, it is one expert's gate, up or down. Names
are the same for either layout. Where fused tensors keep what of which expert follows PEFT's ``target_parameters``: A of
expert `e` in rows ``e * rank`` and on, B in every `count`-th column from `e`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loractl_registry import ExpertLayout
from loractl_registry.adapter_config import AdapterConfig, read_adapter_config
from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.preflight.base_shape import BaseShape, read_base_shape
from loractl_registry.preflight.layout import Side, Target
from loractl_registry.preflight.modules import Experts
from loractl_registry.preflight.placing import place
from loractl_registry.safetensors_header import open_safetensors_header

if TYPE_CHECKING:
    from torch import Tensor

GATE_AND_UP_INTERLEAVED = frozenset({"gpt_oss"})
"""Model types whose fused experts alternate rows of gate and up; the others have all of gate before all of up."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece adds to the weights.

    Attributes:
        module: Module of the whole, as Hugging Face names it.
        expert: Number of the expert in a stacked parameter, or None.
        projection: ``gate``, ``up`` or ``down`` of an expert, or None.
        is_embedding: Whether the weight is [words, hidden], the transpose of a matrix's.
        is_interleaved: Whether gate and up alternate, in a parameter that is [experts, in, out].
    """

    module: str
    expert: int | None = None
    projection: str | None = None
    is_embedding: bool = False
    is_interleaved: bool = False

    def rows_of(self, stacked: Tensor) -> Tensor:
        """Return the [out, in] view of this projection in `stacked`, one expert of a parameter that holds them all."""
        weight = stacked.T if self.is_interleaved else stacked
        if self.projection == "down":
            return weight
        second = int(self.projection == "up")
        if self.is_interleaved:
            return weight[second::2]
        half = weight.shape[0] // 2
        return weight[half:] if second else weight[:half]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: what it adds to an output is ``scale * b @ (a @ x)``.

    Attributes:
        a: [rank, in] fp32.
        b: [out, rank] fp32.
    """

    name: str
    pair: str
    place: Place
    scale: float
    a: Tensor
    b: Tensor

    def delta(self) -> Tensor:
        """Return what it adds to the weight, [out, in]."""
        return self.scale * (self.b @ self.a)


def read_pieces(folder: Path, base_config: Mapping[str, object]) -> Iterator[Piece]:
    """Yield every piece of the adapter in `folder`, one pair of tensors in memory at a time.

    Raises:
        PreflightRefusedError: Preflight would refuse its names.
        RegistryError: The files are malformed.
    """
    config = read_adapter_config(folder)
    shape = read_base_shape(base_config)
    placement = place(open_safetensors_header(folder / WEIGHTS).tensors, shape)
    safetensors = cast("Any", importlib.import_module("safetensors"))
    with safetensors.safe_open(folder / WEIGHTS, framework="pt") as tensors:
        for pair, target in placement.items():
            a, b = (tensors.get_tensor(target.tensor_of(pair, side)).float() for side in Side)
            yield from _pieces_of(pair, target, config, shape, (a, b))


def _pieces_of(
    pair: str, target: Target, config: AdapterConfig, shape: BaseShape, tensors: tuple[Tensor, Tensor]
) -> Iterator[Piece]:
    scale = config.scaling_of(pair)
    a, b = tensors
    match target.layout:
        case ExpertLayout.NONE:
            yield Piece(pair, pair, Place(target.module, is_embedding=target.is_embedding), scale, a, b)
        case ExpertLayout.PER_EXPERT:
            own = target.part.rpartition(".")[2]
            kind = _kind(own, shape.experts[target.module])
            found = Place(target.module, target.expert, kind, is_interleaved=_alternates(shape))
            yield Piece(f"{target.module}.{target.expert}.{own}", pair, found, scale, a, b)
        case ExpertLayout.FUSED:
            yield from _fused(pair, target, scale, shape, tensors)


def _fused(
    pair: str, target: Target, scale: float, shape: BaseShape, tensors: tuple[Tensor, Tensor]
) -> Iterator[Piece]:
    a, b = tensors
    names = _names(shape.experts[target.module])
    is_interleaved = _alternates(shape)
    half = target.out_features // 2
    if target.part.endswith("gate_up"):
        halves = (slice(0, None, 2), slice(1, None, 2)) if is_interleaved else (slice(0, half), slice(half, None))
        rows = dict(zip(("gate", "up"), halves, strict=True))
    else:
        rows = {"down": slice(None)}
    rank = a.shape[0] // target.stacked
    for expert in range(target.stacked):
        own_a, own_b = a[expert * rank : (expert + 1) * rank], b[:, expert :: target.stacked]
        for kind, part in rows.items():
            found = Place(target.module, expert, kind, is_interleaved=is_interleaved)
            yield Piece(f"{target.module}.{expert}.{names[kind]}", pair, found, scale, own_a, own_b[part])


def _alternates(shape: BaseShape) -> bool:
    return shape.model_type in GATE_AND_UP_INTERLEAVED


def _names(experts: Experts) -> Mapping[str, str]:
    """Return the base's names of gate, up and down, which come in this order."""
    return dict(
        zip(("gate", "up", "down"), dict.fromkeys(each.name for each in experts.projections.values()), strict=True)
    )


def _kind(name: str, experts: Experts) -> str:
    return next(kind for kind, own in _names(experts).items() if own == name)
