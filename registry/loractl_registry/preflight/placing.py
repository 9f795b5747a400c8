"""Whether the tensors of an adapter have their places, their partners and their shapes in a base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from loractl_registry.preflight.base_shape import BaseShape
from loractl_registry.preflight.errors import PreflightRefusedError, Problem
from loractl_registry.preflight.layout import (
    GATE_UP,
    SAVE_WITH_PEFT,
    TRAIN_AGAIN,
    Placement,
    Side,
    Target,
    read_name,
    target_of,
)
from loractl_registry.records import ExpertLayout
from loractl_registry.safetensors_header import TensorInfo

if TYPE_CHECKING:
    from loractl_registry.adapter_config import AdapterConfig

_ALL_EXPERTS = "train all experts and projections of a layer, or none: freeze them by leaving their B at zero"
_ONE_RANK = "give all experts of a layer one rank: a rank_pattern may differ by layer and projection, not by expert"


def place(tensors: Iterable[str], base: BaseShape) -> Placement:
    """Return the target of each pair of tensors.

    Raises:
        PreflightRefusedError: A tensor has no place in the base, or no partner.
    """
    placement: dict[str, Target] = {}
    sides: dict[str, set[Side]] = {}
    problems: list[Problem] = []
    for tensor in tensors:
        name = read_name(tensor)
        if isinstance(name, Problem):
            problems.append(name)
            continue
        known = placement.get(name.pair)
        target = known if known and known.is_embedding == name.is_embedding else target_of(name, base)
        if isinstance(target, Problem):
            problems.append(target)
            continue
        placement[name.pair] = target
        sides.setdefault(name.pair, set()).add(name.side)
    refuse(problems)
    refuse(_lone(placement, sides))
    if not placement:
        raise PreflightRefusedError(Problem("the file holds no tensors, so it has no effect", SAVE_WITH_PEFT))
    return placement


def refuse(problems: Iterable[Problem]) -> None:
    """Raise PreflightRefusedError if there are any problems."""
    found = list(problems)
    if found:
        raise PreflightRefusedError(*found)


def shape_problems(tensors: Mapping[str, TensorInfo], placement: Placement, config: AdapterConfig) -> Iterator[Problem]:
    """Yield the tensors whose shape is not that of their place at the rank that the configuration says."""
    for pair, target in placement.items():
        rank = config.rank_of(pair)
        for side in Side:
            name = target.tensor_of(pair, side)
            expected, found = target.shape_of(side, rank), tuple(tensors[name].shape)
            if found != expected:
                yield Problem(
                    f"tensor {name!r} must be {list(expected)} at rank {rank} on this base, and it is {list(found)}",
                    TRAIN_AGAIN,
                )


def expert_problems(placement: Placement, base: BaseShape, config: AdapterConfig) -> Iterator[Problem]:
    """Yield what is wrong with sets of experts: mixed layouts, gaps, and ranks that the engine cannot stack."""
    layouts: dict[ExpertLayout, str] = {}
    layers: dict[str, list[str]] = {}
    for pair, target in placement.items():
        if target.layout is not ExpertLayout.NONE:
            layouts.setdefault(target.layout, pair)
            layers.setdefault(target.module, []).append(pair)
    if len(layouts) > 1:
        one, other = layouts.values()
        yield Problem(
            f"modules {one!r} and {other!r} are of two layouts, one expert a tensor and all in one,"
            " and the engine reads an adapter in one layout",
            SAVE_WITH_PEFT,
        )
        return
    for path, pairs in sorted(layers.items()):
        canonical: dict[str, str] = {}
        for pair in pairs:
            if (other := canonical.setdefault(_canonical(pair, placement[pair]), pair)) != pair:
                yield Problem(f"modules {other!r} and {pair!r} are the same, and the engine keeps one", SAVE_WITH_PEFT)
        yield from _gaps(path, set(canonical), base, next(iter(layouts)))
        yield from _uneven(pairs, placement, config)


def _lone(placement: Placement, sides: Mapping[str, set[Side]]) -> Iterator[Problem]:
    for pair, found in sides.items():
        if len(found) == 1:
            lone = next(iter(found))
            other = Side.B if lone is Side.A else Side.A
            target = placement[pair]
            yield Problem(
                f"tensor {target.tensor_of(pair, lone)!r} has no {target.tensor_of(pair, other)!r} beside it",
                SAVE_WITH_PEFT,
            )


def _canonical(pair: str, target: Target) -> str:
    if target.layout is ExpertLayout.FUSED:
        return pair
    return f"{target.module}.{target.expert}.{target.part.rpartition('.')[2]}"


def _gaps(path: str, present: set[str], base: BaseShape, layout: ExpertLayout) -> Iterator[Problem]:
    experts = base.experts[path]
    if layout is ExpertLayout.FUSED:
        wanted = [path + GATE_UP, path]
    else:
        names = dict.fromkeys(projection.name for projection in experts.projections.values())
        wanted = [f"{path}.{expert}.{name}" for expert in range(experts.count) for name in names]
    for name in wanted:
        if name not in present:
            yield Problem(
                f"module {name!r} is missing, and the engine takes the experts of a layer whole", _ALL_EXPERTS
            )


def _uneven(pairs: Iterable[str], placement: Placement, config: AdapterConfig) -> Iterator[Problem]:
    first: dict[str, tuple[str, int]] = {}
    for pair in pairs:
        rank = config.rank_of(pair)
        known, known_rank = first.setdefault(placement[pair].part, (pair, rank))
        if rank != known_rank:
            yield Problem(
                f"module {pair!r} has rank {rank} and {known!r} has rank {known_rank}: the engine stacks experts,"
                " which takes one rank",
                _ONE_RANK,
            )
