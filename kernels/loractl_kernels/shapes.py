"""Real MoE layers as data: what is tuned for and what is measured.

From each model's public ``config.json``: ``num_local_experts`` or ``num_experts`` or ``n_routed_experts``;
``num_experts_per_tok``; ``hidden_size``; ``moe_intermediate_size``, or ``intermediate_size`` where there is no other;
``num_hidden_layers`` less the dense layers that come first. Qwen3-Coder-30B-A3B has the layers of Qwen3-30B-A3B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from loractl_kernels.errors import KernelError


class UnknownShapeError(KernelError, ValueError):
    """No shape has this name."""

    code = "kernels.unknown_shape"

    def __init__(self, name: str) -> None:
        super().__init__(f"no shape {name!r}; there are {', '.join(SHAPES)}")
        self.name = name


@dataclass(frozen=True, slots=True)
class MoeShape:
    """The experts of a model.

    Attributes:
        name: Last part of the model's name on the Hub.
        experts: Routed experts of a layer.
        top_k: Experts that a token goes to.
        hidden: Columns of a token.
        intermediate: Columns of an expert's activation.
        layers: Layers with experts.
        slices: 1 where gate and up of an adapter share an A (``3D``), 2 where each has its own (``2D``).
        is_interleaved: Whether gate and up alternate in the columns.
        ranks: Ranks that are measured.
    """

    name: str
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    layers: int
    slices: int = 2
    is_interleaved: bool = False
    ranks: tuple[int, ...] = (16,)

    @property
    def elements_per_rank(self) -> int:
        """Elements of A and B of both projections of one expert, for each rank."""
        return self.slices * self.hidden + 2 * self.intermediate + self.intermediate + self.hidden


_ALL: Final = (
    MoeShape("gpt-oss-20b", 32, 4, 2880, 2880, 24, slices=1, is_interleaved=True, ranks=(8, 32, 64)),
    MoeShape("Qwen3-30B-A3B", 128, 8, 2048, 768, 48, ranks=(8, 16, 32)),
    MoeShape("DeepSeek-V2-Lite", 64, 6, 2048, 1408, 26),
    MoeShape("Mixtral-8x7B", 8, 2, 4096, 14336, 32),
    MoeShape("OLMoE-1B-7B", 64, 8, 2048, 1024, 16),
    MoeShape("gpt-oss-120b", 128, 4, 2880, 2880, 36, slices=1, is_interleaved=True, ranks=(32,)),
    MoeShape("Qwen3-235B-A22B", 128, 8, 4096, 1536, 94),
)
SHAPES: Final[Mapping[str, MoeShape]] = MappingProxyType({shape.name: shape for shape in _ALL})
MEASURED: Final = tuple(SHAPES)[:5]
"""Shapes of the published table; the others are for tuning and for who asks."""


def shape_of(name: str) -> MoeShape:
    """Return the shape called `name`, in any case.

    Raises:
        UnknownShapeError: There is none.
    """
    for known, shape in SHAPES.items():
        if known.lower() == name.lower():
            return shape
    raise UnknownShapeError(name)
