"""Where each tensor of an adapter belongs in a base, read from its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from loractl_registry.preflight.base_shape import BaseShape
from loractl_registry.preflight.errors import Problem
from loractl_registry.preflight.modules import Experts, Linear
from loractl_registry.records import ExpertLayout

PREFIX = "base_model.model."
GATE_UP = ".base_layer"
"""PEFT adapts gate and up inside, and down around them: ``experts.base_layer`` is gate and up, ``experts`` is down."""

SAVE_WITH_PEFT = "save it with PEFT's save_pretrained"
TRAIN_AGAIN = "train it on this base, or add it with the base that it was trained on: loractl add --base"
LEAVE_OUT = "train it with that module left out of target_modules"

_MATRIX = re.compile(r"(?P<pair>.+)\.lora_(?P<side>[AB])\.weight")
_LOOKUP = re.compile(r"(?P<pair>.+)\.lora_embedding_(?P<side>[AB])")
_ONE_EXPERT = re.compile(r"(?P<path>.+\.experts)\.(?P<expert>0|[1-9][0-9]{0,5})\.(?P<projection>[A-Za-z0-9_]+)")
_LAYER = re.compile(r"model\.layers\.(?P<layer>[0-9]+)\.")

# What else training leaves in a file, by how its name ends, and what to do about it.
_STRANGERS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"\.lora_[AB](\.[^.]+)?\.bias$"),
        "is a bias of LoRA, which the engine would leave out",
        "train it with lora_bias off",
    ),
    (
        re.compile(r"\.lora_(embedding_)?[AB]\.[^.]+(\.weight)?$"),
        "has the name of PEFT's adapter in it, as a bare state dict does, and the engine would not read it",
        SAVE_WITH_PEFT,
    ),
    (
        re.compile(r"\.lora_magnitude_vector(\.[^.]+)?(\.weight)?$"),
        "is a magnitude of DoRA, which the engine would leave out",
        "train it with use_dora off, as plain LoRA",
    ),
    (
        re.compile(r"\.base_layer\.(weight|bias)$"),
        "is a copy of the base's own weights, which the engine would leave out",
        "save it with save_embedding_layers=False, on a base with its own vocabulary",
    ),
)
_WHOLE_MODULE = "is neither an A nor a B of LoRA: it replaces weights of the base, which the engine would leave out"


class Side(StrEnum):
    """A goes down to the rank, B back up."""

    A = "A"
    B = "B"


@dataclass(frozen=True, slots=True)
class TensorName:
    """A tensor's name, taken apart; `pair` is what A and B have in common."""

    pair: str
    side: Side
    is_embedding: bool


@dataclass(frozen=True, slots=True)
class Target:
    """The place of one pair in a base.

    Attributes:
        module: Its path, without PEFT's prefix and without expert and projection.
        part: What it is in every layer: ``self_attn.q_proj``, ``mlp.experts.up_proj``.
        expert: Number of the one expert that it adapts, or None.
        stacked: How many experts one of its tensors holds: 1, or all of them when fused.
        layout: Of experts, or none for an ordinary module.
    """

    module: str
    part: str
    in_features: int
    out_features: int
    layout: ExpertLayout = ExpertLayout.NONE
    expert: int | None = None
    stacked: int = 1
    is_embedding: bool = False

    @property
    def layer(self) -> int | None:
        """Number of the decoder layer, or None outside of them."""
        found = _LAYER.match(self.module)
        return None if found is None else int(found["layer"])

    def shape_of(self, side: Side, rank: int) -> tuple[int, int]:
        """Return the shape of the pair's tensor; fused experts stack along the rank."""
        rows = rank * self.stacked
        return (rows, self.in_features) if side is Side.A else (self.out_features, rows)

    def tensor_of(self, pair: str, side: Side) -> str:
        """Return the full name of the pair's tensor."""
        return f"{PREFIX}{pair}.lora_embedding_{side}" if self.is_embedding else f"{PREFIX}{pair}.lora_{side}.weight"


def read_name(tensor: str) -> TensorName | Problem:
    """Take a tensor's name apart, or say what is wrong with it."""
    if not tensor.startswith(PREFIX):
        return Problem(f"tensor {tensor!r} does not begin with {PREFIX!r}, as an adapter's tensors do", SAVE_WITH_PEFT)
    name = tensor.removeprefix(PREFIX)
    if found := _MATRIX.fullmatch(name):
        return TensorName(found["pair"], Side(found["side"]), is_embedding=False)
    if found := _LOOKUP.fullmatch(name):
        return TensorName(found["pair"], Side(found["side"]), is_embedding=True)
    for ending, reason, way_out in _STRANGERS:
        if ending.search(name):
            return Problem(f"tensor {tensor!r} {reason}", way_out)
    return Problem(f"tensor {tensor!r} {_WHOLE_MODULE}", "train it with modules_to_save left out")


def target_of(name: TensorName, base: BaseShape) -> Target | Problem:
    """Return the place that a tensor has in `base`, or why it has none."""
    pair = name.pair
    if (linear := base.linears.get(pair)) is not None:
        return _linear(name, linear)
    if (inert := base.inert.get(pair)) is not None:
        return Problem(f"module {pair!r} cannot be adapted on a {base.model_type} base: {inert.reason}", LEAVE_OUT)
    if (one := _ONE_EXPERT.fullmatch(pair)) and (experts := base.experts.get(one["path"])):
        return _one_expert(pair, one["path"], int(one["expert"]), one["projection"], experts)
    if (experts := base.experts.get(pair.removesuffix(GATE_UP))) is not None:
        return _all_experts(pair, experts)
    return Problem(f"module {pair!r} is not one that the engine adapts on this {base.model_type} base", TRAIN_AGAIN)


def path_part(path: str) -> str:
    """Return what is the same in every layer of a module's path."""
    return _LAYER.sub("", path, count=1)


def _linear(name: TensorName, linear: Linear) -> Target | Problem:
    if name.is_embedding != linear.is_embedding:
        wanted = "lora_embedding_A and _B" if linear.is_embedding else "lora_A.weight and lora_B.weight"
        return Problem(f"module {name.pair!r} is adapted by {wanted}, and the file has the other kind", SAVE_WITH_PEFT)
    return Target(
        name.pair,
        path_part(name.pair),
        linear.in_features,
        linear.out_features,
        is_embedding=linear.is_embedding,
    )


def _one_expert(pair: str, path: str, expert: int, projection: str, experts: Experts) -> Target | Problem:
    if not experts.takes_per_expert:
        return Problem(
            f"module {pair!r} is one expert, and on this base adapters hold all experts in one tensor",
            "train it with target_parameters mlp.experts.gate_up_proj and mlp.experts.down_proj",
        )
    if expert >= experts.count:
        return Problem(
            f"module {pair!r} names expert {expert}, and this base has experts 0 to {experts.count - 1}", TRAIN_AGAIN
        )
    found = experts.projections.get(projection)
    if found is None:
        known = ", ".join(experts.projections)
        return Problem(f"module {pair!r} names projection {projection!r}, and an expert has {known}", TRAIN_AGAIN)
    part = f"{path_part(path)}.{found.name}"
    return Target(path, part, found.in_features, found.out_features, ExpertLayout.PER_EXPERT, expert)


def _all_experts(pair: str, experts: Experts) -> Target:
    path = pair.removesuffix(GATE_UP)
    is_gate_up = pair != path
    return Target(
        path,
        f"{path_part(path)}.{'gate_up' if is_gate_up else 'down'}",
        experts.hidden if is_gate_up else experts.intermediate,
        2 * experts.intermediate if is_gate_up else experts.hidden,
        ExpertLayout.FUSED,
        stacked=experts.count,
    )


Placement = Mapping[str, Target]
"""The target of each pair of an adapter, by the name that its A and B have in common."""
