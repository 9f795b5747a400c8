"""Whether a base takes an adapter, whether every tensor of it is used, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.preflight.base_shape import BaseShape, read_base_shape
from loractl_registry.preflight.errors import PreflightRefusedError
from loractl_registry.preflight.layout import PREFIX, Side, Target, missing_partners, read_name, target_of
from loractl_registry.preflight.memory import slot_bytes
from loractl_registry.records import ExpertLayout
from loractl_registry.safetensors_header import TensorInfo, open_safetensors_header

if TYPE_CHECKING:
    from loractl_registry.adapter_config import AdapterConfig
    from loractl_registry.tensor_values import TensorValues

RANK_LADDER = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_TRAIN_AGAIN = "train it on this base, or add it with the base that it was trained on: loractl add --base"


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What preflight found out about an adapter that the base takes.

    Attributes:
        tensor_count: Tensors of the file; every one of them has its place.
        modules: What it touches, with how many layers of each.
        experts: Layout of the expert tensors.
        rank: Largest rank.
        engine_rank: The rank of vLLM's ladder that an engine has to be started for.
        slot_bytes: Bytes that one slot takes in an engine for this adapter alone, at `engine_rank`.
        findings: What is odd but not wrong.
    """

    base_type: str
    tensor_count: int
    modules: Mapping[str, int]
    experts: ExpertLayout
    rank: int
    engine_rank: int
    slot_bytes: int
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
    from loractl_registry.tensor_values import read_tensor_values  # numpy, likewise

    weights = folder / WEIGHTS
    header = open_safetensors_header(weights)
    # Names and shapes first: they are read already, and a refusal there spares the reading of every value.
    report = check_adapter(header.tensors, read_adapter_config(folder), base_config)
    return replace(report, findings=check_values(read_tensor_values(weights, header)))


def check_adapter(
    tensors: Mapping[str, TensorInfo], config: AdapterConfig, base_config: Mapping[str, object]
) -> PreflightReport:
    """Check names, places, shapes and ranks, without reading a value.

    Raises:
        PreflightRefusedError: Each problem names the tensor, what was expected and what was found.
    """
    base = read_base_shape(base_config)
    pairs, sides = _placed(tensors, base)
    problems = list(_pairing(sides))
    if not problems:
        problems = [*_shapes(tensors, pairs, config), *missing_partners(pairs, base)]
    if problems:
        raise PreflightRefusedError(*problems, hint=_TRAIN_AGAIN)
    rank = max(config.rank_of(pair) for pair in pairs)
    engine_rank = next(rung for rung in RANK_LADDER if rung >= rank)
    modules = _touched(pairs)
    return PreflightReport(
        base_type=base.model_type,
        tensor_count=len(tensors),
        modules=modules,
        experts=next((t.layout for t in pairs.values() if t.layout is not ExpertLayout.NONE), ExpertLayout.NONE),
        rank=rank,
        engine_rank=engine_rank,
        slot_bytes=slot_bytes(base, modules, engine_rank),
        findings=(),
    )


def check_values(values: Mapping[str, TensorValues]) -> tuple[str, ...]:
    """Return what is odd about the values of an adapter whose names and shapes are right.

    One expert whose tensors are zero was never routed to while training, which is a finding. Everything else that is
    zero has no effect and is refused, and so is what is not finite.

    Raises:
        PreflightRefusedError: Naming the tensors.
    """
    broken = [f"tensor {name!r} has values that are not finite" for name, each in values.items() if not each.is_finite]
    if broken:
        raise PreflightRefusedError(*broken, hint="the training diverged; add a checkpoint from before that")
    zero = [name for name, each in values.items() if each.is_all_zero]
    lone = [name for name in zero if _is_one_expert(name) and not _all_zero_beside(name, values)]
    if wrong := [f"tensor {name!r} is all zero, so it has no effect" for name in zero if name not in set(lone)]:
        raise PreflightRefusedError(
            *wrong, hint="train it, or leave modules that were not trained out of target_modules"
        )
    return (f"{len(lone)} tensors of single experts are all zero: those experts were not trained",) if lone else ()


def _placed(tensors: Iterable[str], base: BaseShape) -> tuple[dict[str, Target], dict[str, set[Side]]]:
    pairs: dict[str, Target] = {}
    sides: dict[str, set[Side]] = {}
    problems: dict[str, None] = {}
    for tensor in tensors:
        name = read_name(tensor)
        if isinstance(name, str):
            problems[name] = None
            continue
        target = pairs.get(name.pair) or target_of(name.pair, base)
        if isinstance(target, str):
            problems[target] = None
            continue
        pairs[name.pair] = target
        sides.setdefault(name.pair, set()).add(name.side)
    if problems:
        raise PreflightRefusedError(*problems, hint=_TRAIN_AGAIN)
    if not pairs:
        raise PreflightRefusedError("the file holds no tensors, so it has no effect", hint="save the adapter again")
    return pairs, sides


def _pairing(sides: Mapping[str, set[Side]]) -> Iterator[str]:
    for pair, found in sides.items():
        if len(found) == 1:
            lone = next(iter(found))
            other = Side.B if lone is Side.A else Side.A
            yield f"tensor {PREFIX + pair}.lora_{lone}.weight has no lora_{other}.weight beside it"


def _shapes(tensors: Mapping[str, TensorInfo], pairs: Mapping[str, Target], config: AdapterConfig) -> Iterator[str]:
    for pair, target in pairs.items():
        rank = config.rank_of(pair)
        for side in Side:
            name = f"{PREFIX}{pair}.lora_{side}.weight"
            expected, found = target.shape_of(side, rank), tuple(tensors[name].shape)
            if found != expected:
                yield f"tensor {name!r} must be {list(expected)} at rank {rank} on this base, and it is {list(found)}"


def _touched(pairs: Mapping[str, Target]) -> dict[str, int]:
    layers: dict[str, set[str]] = {}
    for target in pairs.values():
        layers.setdefault(target.module.rpartition(".")[2], set()).add(target.module)
    return {name: len(paths) for name, paths in sorted(layers.items())}


def _is_one_expert(tensor: str) -> bool:
    return _expert_group(tensor) is not None


def _expert_group(tensor: str) -> tuple[str, str] | None:
    """Return what the tensors of all experts of one layer, projection and side have in common, or None."""
    head, found, tail = tensor.partition(".experts.")
    number, _, rest = tail.partition(".")
    return (head, rest) if found and number.isdigit() else None


def _all_zero_beside(tensor: str, values: Mapping[str, TensorValues]) -> bool:
    group = _expert_group(tensor)
    return all(each.is_all_zero for name, each in values.items() if _expert_group(name) == group)
