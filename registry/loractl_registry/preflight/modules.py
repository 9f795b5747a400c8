"""The modules of a base, as far as an adapter on them is concerned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Linear:
    """A module whose adapter is one A and one B.

    Attributes:
        in_features: Size of the vectors that A takes; for an embedding, the number of words.
        layer: The engine's name of the layer that it is a part of, such as ``qkv_proj`` for ``q_proj``.
        is_embedding: Whether it looks vectors up, and so keeps its pair under ``lora_embedding_A`` and ``_B``.
    """

    in_features: int
    out_features: int
    layer: str
    is_embedding: bool = False


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer.

    Attributes:
        projections: By the names that adapters use for one expert's projections, what each is.
        takes_per_expert: Whether adapters with one pair an expert and projection can be loaded.
        is_fused_natively: Whether the engine by itself expects one pair for gate and up of all experts, one for down.
        padded_hidden, padded_intermediate: Sizes that the engine's kernels round up to, and adapters with them.
    """

    count: int
    hidden: int
    intermediate: int
    projections: Mapping[str, Projection]
    takes_per_expert: bool
    is_fused_natively: bool
    padded_hidden: int
    padded_intermediate: int


@dataclass(frozen=True, slots=True)
class Projection:
    """One matrix of one expert.

    Attributes:
        name: The one name for it, where a base has several.
    """

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Inert:
    """A module where the engine takes an adapter and then leaves it out, or cannot take one.

    Attributes:
        reason: Why, as the end of a sentence about the module.
        wrapped: What the engine reserves room for, if it does.
    """

    reason: str
    wrapped: Linear | None = None


Part = Linear | Experts | Inert
