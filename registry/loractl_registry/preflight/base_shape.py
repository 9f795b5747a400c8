"""Which modules of a base vLLM wraps, and their shapes, read from config.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from loractl_registry.preflight.errors import PreflightRefusedError

PACKED: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("q_proj", "k_proj", "v_proj"),
    "k_proj": ("q_proj", "k_proj", "v_proj"),
    "v_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_proj": ("gate_proj", "up_proj"),
    "up_proj": ("gate_proj", "up_proj"),
}
"""Modules that vLLM keeps in one layer: an adapter on one of them takes room for all."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Features of one linear module."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer.

    Attributes:
        gate, up, down: What adapters call the projections of one expert.
        takes_per_expert, takes_fused: Which tensor layouts vLLM loads for this base.
        is_fused_natively: Whether vLLM keeps gate and up behind one shared A.
    """

    count: int
    hidden: int
    intermediate: int
    gate: str
    up: str
    down: str
    takes_per_expert: bool
    takes_fused: bool
    is_fused_natively: bool

    def shape_of(self, projection: str) -> Linear | None:
        """Return the features of one expert's `projection`, or None if there is no such projection."""
        if projection in (self.gate, self.up):
            return Linear(self.hidden, self.intermediate)
        return Linear(self.intermediate, self.hidden) if projection == self.down else None


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What an adapter may touch on one base.

    Attributes:
        linears: By module path, such as ``model.layers.0.self_attn.q_proj``.
        experts: By module path, such as ``model.layers.0.mlp.experts``.
        element_bytes: Size of one weight of an adapter on the GPU.
    """

    model_type: str
    linears: Mapping[str, Linear]
    experts: Mapping[str, Experts]
    element_bytes: int


class _Config:
    """Whole positive numbers of a config.json, by name."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def number(self, *names: str) -> int:
        for name in names:
            value = self.values.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
                return value
        raise PreflightRefusedError(
            f"the base's config.json has no usable {names[0]}: {self.values.get(names[0])!r}",
            hint="admit the base again from an unchanged copy of its repository",
        )

    def number_or(self, default: int, *names: str) -> int:
        return self.number(*names) if any(self.values.get(name) is not None for name in names) else default

    def layers_listed(self, name: str) -> frozenset[int]:
        value = self.values.get(name)
        listed = cast("list[object]", value) if isinstance(value, list) else []
        return frozenset(layer for layer in listed if isinstance(layer, int))


def read_base_shape(config: Mapping[str, object]) -> BaseShape:
    """Return which modules of a base with this config.json adapters may touch.

    Raises:
        PreflightRefusedError: The architecture is not among those whose modules are known, or a number is missing.
    """
    model_type = config.get("model_type")
    build = _BUILDERS.get(model_type) if isinstance(model_type, str) else None
    if build is None:
        raise PreflightRefusedError(
            f"adapters on bases of type {model_type!r} cannot be checked",
            hint=f"known types: {', '.join(sorted(_BUILDERS))}",
        )
    linears: dict[str, Linear] = {}
    experts: dict[str, Experts] = {}
    read = _Config(config)
    for layer in range(read.number("num_hidden_layers")):
        path = f"model.layers.{layer}"
        linears.update(_attention(read, f"{path}.self_attn"))
        for name, part in build(read, layer):
            if isinstance(part, Experts):
                experts[f"{path}.{name}"] = part
            else:
                linears[f"{path}.{name}"] = part
    return BaseShape(str(model_type), linears, experts, _element_bytes(config))


def _attention(config: _Config, path: str) -> Iterator[tuple[str, Linear]]:
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    head_dim = config.number_or(hidden // heads, "head_dim")
    queries = heads * head_dim
    keys = config.number_or(heads, "num_key_value_heads") * head_dim
    yield f"{path}.q_proj", Linear(hidden, queries)
    yield f"{path}.k_proj", Linear(hidden, keys)
    yield f"{path}.v_proj", Linear(hidden, keys)
    yield f"{path}.o_proj", Linear(queries, hidden)


_Parts = Iterator[tuple[str, Linear | Experts]]


def _dense(config: _Config, _layer: int) -> _Parts:
    hidden, intermediate = config.number("hidden_size"), config.number("intermediate_size")
    yield "mlp.gate_proj", Linear(hidden, intermediate)
    yield "mlp.up_proj", Linear(hidden, intermediate)
    yield "mlp.down_proj", Linear(intermediate, hidden)


def _experts(config: _Config, *, count: int, intermediate: int, names: tuple[str, str, str]) -> Experts:
    return Experts(
        count, config.number("hidden_size"), intermediate, *names,
        takes_per_expert=True, takes_fused=True, is_fused_natively=False,
    )  # fmt: skip


_GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")


def _qwen3_moe(config: _Config, layer: int) -> _Parts:
    count = config.number_or(0, "num_experts", "num_local_experts")
    step = config.number_or(1, "decoder_sparse_step")
    if layer in config.layers_listed("mlp_only_layers") or count == 0 or (layer + 1) % step:
        yield from _dense(config, layer)
    else:
        intermediate = config.number("moe_intermediate_size")
        yield "mlp.experts", _experts(config, count=count, intermediate=intermediate, names=_GATE_UP_DOWN)


def _olmoe(config: _Config, _layer: int) -> _Parts:
    count = config.number("num_experts", "num_local_experts")
    yield (
        "mlp.experts",
        _experts(config, count=count, intermediate=config.number("intermediate_size"), names=_GATE_UP_DOWN),
    )


def _mixtral(config: _Config, _layer: int) -> _Parts:
    yield (
        "block_sparse_moe.experts",
        _experts(
            config,
            count=config.number("num_local_experts", "num_experts"),
            intermediate=config.number("intermediate_size"),
            names=("w1", "w3", "w2"),
        ),
    )


def _gpt_oss(config: _Config, _layer: int) -> _Parts:
    yield (
        "mlp.experts",
        Experts(
            config.number("num_local_experts", "num_experts"),
            config.number("hidden_size"),
            config.number("intermediate_size"),
            *_GATE_UP_DOWN,
            # The base itself keeps its experts fused, so nothing writes one tensor an expert for it.
            takes_per_expert=False,
            takes_fused=True,
            is_fused_natively=True,
        ),
    )


_BUILDERS: Mapping[str, Callable[[_Config, int], _Parts]] = {
    "gpt_oss": _gpt_oss,
    "llama": _dense,
    "mistral": _dense,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "qwen2": _dense,
    "qwen3": _dense,
    "qwen3_moe": _qwen3_moe,
}


def _element_bytes(config: Mapping[str, object]) -> int:
    return 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2
