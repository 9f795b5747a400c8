"""What each piece adds to its module's output, from the files alone: nothing is merged and no base is loaded whole."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loractl.proof.pieces import Piece
from loractl.proof.record import How, PieceEffect, rounded
from loractl_registry.safetensors_header import BASE_LIMITS, open_safetensors_header

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES = 16
CANCELLED = 2.0**-20
"""A product that is this much smaller than the sum of its terms' magnitudes is their rounding, and means zero."""


def module_effects(pieces: Iterable[Piece], base: Path | None = None) -> Iterator[PieceEffect]:
    """Yield the effect of each piece, one in memory at a time; beside the base's own output if `base` can be read."""
    with ExitStack() as stack:
        weights = BaseWeights(base, stack) if base is not None else None
        for piece in pieces:
            yield module_effect(piece, weights.output_scale if weights else None)


def module_effect(piece: Piece, output_scale: Callable[[Piece, Tensor], float | None] | None = None) -> PieceEffect:
    """Return the root mean square of what `piece` adds to its module's output, for inputs of unit variance."""
    inputs = _inputs(piece)
    down = piece.a @ inputs
    added = piece.scale * (piece.b @ down)
    terms = piece.scale * (piece.b.abs() @ down.abs())
    effect, most = _rms(added), _rms(terms)
    is_zero = effect <= CANCELLED * most
    own = output_scale(piece, inputs) if output_scale else None
    return PieceEffect(
        module=piece.name,
        effect=0.0 if is_zero else rounded(effect),
        how=How.MODULE,
        relative=rounded(effect / own) if own else None,
        is_zero=is_zero,
    )


class BaseWeights:
    """The base's weights as they lie on disk, of which one module's at a time is read."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._file_of: dict[str, Path] = {
            name: path
            for path in sorted(folder.glob("*.safetensors"))
            for name in open_safetensors_header(path, limits=BASE_LIMITS).tensors
        }
        self._open: dict[Path, Any] = {}

    def output_scale(self, piece: Piece, inputs: Tensor) -> float | None:
        """Return the root mean square of the module's own output, or None if its weights are not plain numbers here."""
        weight = self._weight(piece)
        if weight is None or tuple(weight.shape) != (piece.b.shape[0], piece.a.shape[1]):
            return None
        return _rms(weight.float() @ inputs) or None

    def _weight(self, piece: Piece) -> Tensor | None:
        place = piece.place
        if place.expert is None:
            found = self._slice(f"{place.module}.weight")
            return found[:].T if found is not None and place.is_embedding else None if found is None else found[:]
        single = self._slice(f"{piece.name}.weight")
        if single is not None:
            return cast("Tensor", single[:])
        stacked = self._slice(f"{place.module}.{'down_proj' if place.projection == 'down' else 'gate_up_proj'}")
        if stacked is None:
            return None
        return place.rows_of(cast("Tensor", stacked[place.expert]))

    def _slice(self, name: str) -> Any:
        path = self._file_of.get(name)
        if path is None:
            return None
        if path not in self._open:
            safetensors = cast("Any", importlib.import_module("safetensors"))
            self._open[path] = self._stack.enter_context(safetensors.safe_open(path, framework="pt"))
        found = self._open[path].get_slice(name)
        return found if found.get_dtype() in ("F64", "F32", "F16", "BF16") else None


def _inputs(piece: Piece) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(piece.name.encode()))
    return torch.randn(piece.a.shape[1], SAMPLES, generator=generator)


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
