"""Which modules of a base an engine adapts, and their shapes, read from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loractl_registry.preflight.architectures import BUILDERS, EMBEDDINGS
from loractl_registry.preflight.config_numbers import ConfigNumbers
from loractl_registry.preflight.errors import PreflightRefusedError, Problem
from loractl_registry.preflight.modules import Experts, Inert, Linear

_MOST_LAYERS = 1024
_MOST_WORDS = 258_048  # vLLM refuses adapters on a larger lm_head


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What an adapter may touch on one base.

    Attributes:
        layers: Number of decoder layers.
        linears: By module path, as Hugging Face names it: ``model.layers.0.self_attn.q_proj``.
        experts: By module path, such as ``model.layers.0.mlp.experts``.
        inert: By module path, where an adapter would load and do nothing, or fail to load.
    """

    model_type: str
    layers: int
    linears: Mapping[str, Linear]
    experts: Mapping[str, Experts]
    inert: Mapping[str, Inert]


def read_base_shape(config: Mapping[str, object]) -> BaseShape:
    """Return which modules of a base with this config.json adapters may touch.

    Raises:
        PreflightRefusedError: The architecture is not among those whose modules are known, or a number is missing.
    """
    model_type = config.get("model_type")
    build = BUILDERS.get(model_type) if isinstance(model_type, str) else None
    if build is None:
        raise PreflightRefusedError(
            Problem(
                f"adapters on bases of type {model_type!r} cannot be checked",
                f"use a base of a known type: {', '.join(sorted(BUILDERS))}",
            )
        )
    numbers = ConfigNumbers(config)
    linears: dict[str, Linear] = {}
    experts: dict[str, Experts] = {}
    inert: dict[str, Inert] = {}
    layers = numbers.number("num_hidden_layers", most=_MOST_LAYERS)
    for layer in range(layers):
        for name, part in build(numbers, layer):
            path = f"model.layers.{layer}.{name}"
            match part:
                case Linear():
                    linears[path] = part
                case Experts():
                    experts[path] = part
                case Inert():
                    inert[path] = part
    if model_type in EMBEDDINGS:
        linears.update(_embeddings(numbers))
    return BaseShape(str(model_type), layers, linears, experts, inert)


def _embeddings(numbers: ConfigNumbers) -> Mapping[str, Linear]:
    hidden, words = numbers.number("hidden_size"), numbers.number("vocab_size")
    found = {"model.embed_tokens": Linear(words, hidden, "embed_tokens", is_embedding=True)}
    return found | ({"lm_head": Linear(hidden, words, "lm_head")} if words <= _MOST_WORDS else {})
