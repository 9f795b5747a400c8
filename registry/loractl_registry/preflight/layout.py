"""Where each tensor of an adapter belongs, and what shape it must have there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from loractl_registry.preflight.base_shape import BaseShape, Experts, Linear
from loractl_registry.records import ExpertLayout

PREFIX = "base_model.model."
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_ONE_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<expert>0|[1-9][0-9]{0,5})\.(?P<projection>[A-Za-z0-9_]+)")
_GATE_UP = ".base_layer"


class Side(StrEnum):
    """A goes down to the rank, B back up."""

    A = "A"
    B = "B"


@dataclass(frozen=True, slots=True)
class Target:
    """The place of one pair in a base.

    Attributes:
        module: Its path, without PEFT's prefix and without the expert.
        experts: How many experts one tensor holds: 1, or all of them when fused.
        layout: Of experts, or none for an ordinary module.
    """

    module: str
    features: Linear
    experts: int
    layout: ExpertLayout

    def shape_of(self, side: Side, rank: int) -> tuple[int, int]:
        """Return the shape of the pair's tensor: fused experts stack along the rank, expert by expert in A."""
        stacked = rank * self.experts
        return (stacked, self.features.in_features) if side is Side.A else (self.features.out_features, stacked)


@dataclass(frozen=True, slots=True)
class TensorName:
    """A tensor's name, taken apart; `pair` is what A and B have in common."""

    pair: str
    side: Side


def read_name(tensor: str) -> TensorName | str:
    """Take a tensor's name apart, or return what is wrong with it."""
    if not tensor.startswith(PREFIX):
        return f"tensor {tensor!r} does not begin with {PREFIX!r}, so the engine would not find its module"
    found = _PAIR.fullmatch(tensor.removeprefix(PREFIX))
    if found is None:
        return f"tensor {tensor!r} is neither a lora_A.weight nor a lora_B.weight, and the engine would leave it out"
    return TensorName(found["module"], Side(found["side"]))


def target_of(pair: str, base: BaseShape) -> Target | str:
    """Return the place that `pair` has in `base`, or why it has none."""
    if (linear := base.linears.get(pair)) is not None:
        return Target(pair, linear, 1, ExpertLayout.NONE)
    if (one := _ONE_EXPERT.fullmatch(pair)) and (experts := base.experts.get(one["experts"])):
        return _one_expert(pair, one["experts"], int(one["expert"]), one["projection"], experts)
    path = pair.removesuffix(_GATE_UP)
    if (experts := base.experts.get(path)) is not None:
        if not experts.takes_fused:
            return f"module {pair!r} holds all experts in one tensor, which this base does not take"
        features = (
            Linear(experts.hidden, 2 * experts.intermediate)
            if pair.endswith(_GATE_UP)
            else Linear(experts.intermediate, experts.hidden)
        )
        return Target(path, features, experts.count, ExpertLayout.FUSED)
    return f"module {pair!r} is not one that the engine adapts on a {base.model_type} base of this shape"


def missing_partners(pairs: Mapping[str, Target], base: BaseShape) -> Iterator[str]:
    """Yield what a layer's experts lack: the engine fills or drops incomplete sets of experts without a word."""
    touched = {target.module for target in pairs.values() if target.layout is not ExpertLayout.NONE}
    for path in sorted(touched):
        experts = base.experts[path]
        layouts = {target.layout for target in pairs.values() if target.module == path}
        if len(layouts) > 1:
            yield f"layer {path!r} has experts in both layouts, one tensor each and all in one"
            continue
        if layouts == {ExpertLayout.FUSED}:
            wanted = [path + _GATE_UP, path]
        else:
            projections = (experts.gate, experts.up, experts.down)
            wanted = [f"{path}.{expert}.{name}" for expert in range(experts.count) for name in projections]
        yield from (
            f"module {name!r} is missing beside the others of its layer" for name in wanted if name not in pairs
        )


def _one_expert(pair: str, path: str, expert: int, projection: str, experts: Experts) -> Target | str:
    if not experts.takes_per_expert:
        return f"module {pair!r} is one expert alone, and this base keeps its experts in one tensor"
    if expert >= experts.count:
        return f"module {pair!r} names expert {expert}, and the base has experts 0 to {experts.count - 1}"
    features = experts.shape_of(projection)
    if features is None:
        known = ", ".join((experts.gate, experts.up, experts.down))
        return f"module {pair!r} names projection {projection!r}, and an expert has {known}"
    return Target(path, features, 1, ExpertLayout.PER_EXPERT)
