"""What an adapter costs in the engine's memory, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from loractl_registry.preflight.base_shape import PACKED, BaseShape, Experts


def slot_bytes(base: BaseShape, modules: Iterable[str], rank: int, *, is_mixed: bool = False) -> int:
    """Return the bytes of one adapter slot of vLLM 0.32.0 at `rank`.

    Every layer that has one of `modules` is wrapped, whichever layers the adapters really touch, and modules that vLLM
    packs into one layer take room together.

    Args:
        base: The base's shape.
        modules: Module suffixes, ``experts`` for all projections of experts.
        rank: The rank that the engine is started for.
        is_mixed: Whether the engine takes both expert layouts, so that gate and up have an A each.
    """
    asked = set(modules)
    wrapped = asked | {packed for module in asked for packed in PACKED.get(module, ())}
    features = sum(
        linear.in_features + linear.out_features
        for path, linear in base.linears.items()
        if path.rpartition(".")[2] in wrapped
    )
    if "experts" in wrapped:
        features += sum(_expert_features(experts, is_mixed=is_mixed) for experts in base.experts.values())
    return features * rank * base.element_bytes


def _expert_features(experts: Experts, *, is_mixed: bool) -> int:
    shared_a = experts.is_fused_natively and not is_mixed
    gate_up = (experts.hidden if shared_a else 2 * experts.hidden) + 2 * experts.intermediate
    return experts.count * (gate_up + experts.intermediate + experts.hidden)
