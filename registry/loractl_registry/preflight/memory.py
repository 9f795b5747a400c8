"""What adapters cost in an engine's memory, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loractl_registry.preflight.base_shape import BaseShape
from loractl_registry.preflight.modules import Experts, Linear

RANK_LADDER = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.32.0 can be started for; an adapter of any rank up to it is padded to it."""


def rung_of(rank: int) -> int:
    """Return the lowest rank of the ladder that takes `rank`, which must be at most the highest."""
    return next(rung for rung in RANK_LADDER if rung >= rank)


def slot_bytes(
    base: BaseShape, modules: Iterable[str], rank: int, *, element_bytes: int = 2, is_mixed: bool = False
) -> int:
    """Return the bytes of one adapter slot of vLLM 0.32.0 at `rank`; n slots take n times as much.

    Every layer that has one of `modules` is wrapped, whichever layers the adapters really touch, and the parts of one
    layer, such as q, k and v, take room together.

    Args:
        base: The base's shape.
        modules: Last names of modules, ``experts`` for all projections of experts; none means all.
        rank: The rank that the engine is started for.
        element_bytes: Size of one number. Adapters take the dtype of the engine, which loads even a base in float32 in
            16 bits unless it is told otherwise.
        is_mixed: Whether the engine takes both expert layouts, so that gate and up have an A each.
    """
    asked = frozenset(modules)
    layers = {linear.layer for path, linear in base.linears.items() if not asked or _last(path) in asked}
    features = sum(
        linear.in_features + linear.out_features for linear in base.linears.values() if linear.layer in layers
    )
    if not asked:
        features += sum(linear.in_features + linear.out_features for linear in _wrapped_for_nothing(base))
    if not asked or "experts" in asked:
        features += sum(_expert_features(experts, is_mixed=is_mixed) for experts in base.experts.values())
    return features * rank * element_bytes


def _wrapped_for_nothing(base: BaseShape) -> Iterator[Linear]:
    return (inert.wrapped for inert in base.inert.values() if inert.wrapped is not None)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _expert_features(experts: Experts, *, is_mixed: bool) -> int:
    hidden, intermediate = experts.padded_hidden, experts.padded_intermediate
    shared_a = experts.is_fused_natively and not is_mixed
    gate_up = (hidden if shared_a else 2 * hidden) + 2 * intermediate
    return experts.count * (gate_up + intermediate + hidden)
