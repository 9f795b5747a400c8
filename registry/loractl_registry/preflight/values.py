"""Whether the numbers of an adapter can have an effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from loractl_registry.preflight.errors import PreflightRefusedError, Problem
from loractl_registry.preflight.layout import Placement, Side
from loractl_registry.preflight.placing import refuse

if TYPE_CHECKING:
    from loractl_registry.tensor_values import TensorValues

_DIVERGED = "the training diverged; add a checkpoint from before that"
_UNTRAINED = "train it, or leave out of target_modules what was not trained"


def check_values(values: Mapping[str, TensorValues], placement: Placement) -> tuple[str, ...]:
    """Return what is odd about the values of an adapter whose names and shapes are right.

    A pair with an A or a B of zeros has no effect. That may well be so for an expert that no token was sent to, or in
    one layer, and is a finding. Where it is so for a module in all its layers and experts, training never reached it,
    and whoever reads that the adapter covers it would be misled.

    Raises:
        PreflightRefusedError: A tensor is not finite, or all pairs of a module are without effect.
    """
    refuse(
        Problem(f"tensor {name!r} has values that are not finite", _DIVERGED)
        for name, each in values.items()
        if not each.is_finite
    )
    pairs: dict[str, list[str]] = {}
    without_effect: dict[str, list[str]] = {}
    for pair, target in placement.items():
        pairs.setdefault(target.part, []).append(pair)
        for side in Side:
            if values[name := target.tensor_of(pair, side)].is_all_zero:
                without_effect.setdefault(target.part, []).append(name)
                break
    if sum(map(len, pairs.values())) == sum(map(len, without_effect.values())):
        first = next(iter(without_effect.values()))[0]
        raise PreflightRefusedError(
            Problem(f"tensor {first!r} is all zero, and so is one of every pair: it has no effect at all", _UNTRAINED)
        )
    refuse(
        Problem(f"tensor {names[0]!r} is all zero, and so is one of every pair of {part}", _UNTRAINED)
        for part, names in without_effect.items()
        if len(names) == len(pairs[part])
    )
    return tuple(
        f"{part}: {len(names)} of {len(pairs[part])} pairs are without effect, such as {names[0]}, which is all zero"
        for part, names in sorted(without_effect.items())
    )
