"""The reference: transformers in fp32 on CPU, with the adapter merged into its weights from the tensors alone.

Nothing of it is shared with the engine, and PEFT is not needed. What a piece does to the output is found by taking it
out of the merged weights and reading again; where that would take too long, by one backward pass.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from loractl.proof.errors import ReferenceUnavailableError
from loractl.proof.pieces import Piece
from loractl.proof.readings import Reading
from loractl_registry.safetensors_header import BASE_LIMITS, open_safetensors_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Ids = Sequence[Sequence[Sequence[int]]]
_Index: TypeAlias = "tuple[Tensor, Tensor, Tensor]"

_ELEMENT_BYTES = 4
_SHARE_OF_MEMORY = 0.6
_GRADIENTS = 2
_TOP = 8


def memory_needed(base: Path) -> int:
    """Return the bytes that weights in fp32 take, and again as much for gradients, from the headers of `base`."""
    shapes = (
        tensor.shape
        for path in base.glob("*.safetensors")
        for tensor in open_safetensors_header(path, limits=BASE_LIMITS).tensors.values()
    )
    return _GRADIENTS * _ELEMENT_BYTES * sum(map(prod, shapes))


def memory_available() -> int:
    """Return the bytes that may be used here: most of what is free."""
    kib = _available_kib()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if kib is None else kib * 1024
    return int(_SHARE_OF_MEMORY * free)


class Reference:
    """A base in transformers, and adapters merged into it for a while."""

    def __init__(self, base: Path, config: Mapping[str, object], *, available_bytes: int | None = None) -> None:
        """Load `base`.

        Raises:
            ReferenceUnavailableError: It is too large for this machine, quantised, or not known to transformers.
        """
        needed, available = memory_needed(base), available_bytes if available_bytes is not None else memory_available()
        if needed > available:
            raise ReferenceUnavailableError(
                f"the base takes {needed / 2**30:.1f} GiB in fp32 with gradients and {available / 2**30:.1f} are free",
                hint="prove by modules, or on a machine with more memory",
            )
        if config.get("quantization_config"):
            raise ReferenceUnavailableError("the base is quantised, and nothing can be merged", hint="prove by modules")
        transformers = cast("Any", importlib.import_module("transformers"))
        torch = cast("Any", importlib.import_module("torch"))
        try:
            with _without_bars(transformers):
                self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    base, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
                ).eval()
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise ReferenceUnavailableError(f"transformers cannot load the base: {error}") from error
        self._model.requires_grad_(requires_grad=False)
        self._parameters: dict[str, Tensor] = dict(self._model.named_parameters())

    @property
    def name(self) -> str:
        """What the reference is computed with."""
        return f"transformers {importlib.metadata.version('transformers')}, merged weights, float32, cpu"

    def likeliest(self, rows: Sequence[Sequence[int]]) -> Ids:
        """Return each row's own next token and the likeliest ones, in each place, as the engine reads them."""
        import torch

        with torch.no_grad():
            top = cast("list[list[list[int]]]", _listed(self._logits(rows).topk(_TOP).indices))
        return [
            [sorted({*top[number][place], *row[place + 1 : place + 2]}) for place in range(len(row))]
            for number, row in enumerate(rows)
        ]

    def read(self, rows: Sequence[Sequence[int]], ids: Ids) -> Reading:
        """Return the logprobs of `ids` on all `rows` in one batch."""
        import torch

        with torch.no_grad():
            values = iter(cast("list[float]", _listed(_picked(self._logits(rows), _index(ids)))))
        return Reading(tuple(tuple({token: next(values) for token in wanted} for wanted in places) for places in ids))

    def read_alone(self, rows: Sequence[Sequence[int]], ids: Ids) -> Reading:
        """Return the same, with each row by itself."""
        alone = [self.read([row], [own]) for row, own in zip(rows, ids, strict=True)]
        return Reading(tuple(reading.prompts[0] for reading in alone))

    def read_rounded(self, rows: Sequence[Sequence[int]], ids: Ids, unit: float) -> Reading:
        """Return the same as `read` where every module's output is off by a random `unit` of its root mean square."""
        import torch

        generator = torch.Generator().manual_seed(0)

        def rounded(_module: object, _inputs: object, output: object) -> object:
            if isinstance(output, tuple):
                return tuple(rounded(_module, _inputs, each) for each in cast("tuple[object, ...]", output))
            if not isinstance(output, torch.Tensor) or not output.is_floating_point():
                return output
            scale = output.square().mean(dim=-1, keepdim=True).sqrt()
            return output + unit * scale * torch.randn(output.shape, generator=generator)

        computing = [module for module in self._model.modules() if module._parameters or not module._modules]
        hooks = [module.register_forward_hook(rounded) for module in computing]
        try:
            return self.read(rows, ids)
        finally:
            for hook in hooks:
                hook.remove()

    def logit_scale(self, rows: Sequence[Sequence[int]]) -> float:
        """Return the largest magnitude of a logit."""
        import torch

        with torch.no_grad():
            return float(self._logits(rows).abs().max())

    @contextmanager
    def merged(self, pieces: Iterable[Piece]) -> Generator[None]:
        """Add `pieces` to the weights, and put the weights back afterwards."""
        touched = {piece.name: piece for piece in pieces}
        self._untie(touched.values())
        saved: dict[str, Tensor] = {}
        try:
            for piece in touched.values():
                view = self._view(piece)
                saved[piece.name] = view.clone()
                view += piece.delta()
            yield
        finally:
            for name, before in saved.items():
                self._view(touched[name]).copy_(before)

    def leave_one_out(
        self, pieces: Sequence[Piece], rows: Sequence[Sequence[int]], ids: Ids, *, budget_s: float
    ) -> dict[str, float] | None:
        """Return the largest change of a logprob when each of `pieces` alone is taken out of the merged weights.

        Returns None if that would take longer than `budget_s`, by the time of the first reading.
        """
        import torch

        with torch.no_grad():
            began = time.monotonic()
            index = _index(ids)
            whole = _picked(self._logits(rows), index)
            if (time.monotonic() - began) * len(pieces) > budget_s:
                return None
            return {piece.name: self._without(piece, rows, whole, index) for piece in pieces}

    def gradients(self, pieces: Sequence[Piece], rows: Sequence[Sequence[int]], ids: Ids) -> dict[str, float]:
        """Return, to first order, how far one random combination of all logprobs moves when a piece is taken out."""
        import torch

        views = {piece.name: self._parameter(piece) for piece in pieces}
        try:
            for parameter in views.values():
                parameter.requires_grad_(True)  # noqa: FBT003  (torch's own)
            logprobs = _picked(self._logits(rows), _index(ids))
            signs = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
            cast("Any", (logprobs * signs).sum()).backward()
            with torch.no_grad():
                return {piece.name: self._slope(piece) for piece in pieces}
        finally:
            for parameter in views.values():
                parameter.requires_grad_(False)  # noqa: FBT003
                parameter.grad = None

    def _slope(self, piece: Piece) -> float:
        gradient = self._parameter(piece).grad
        return 0.0 if gradient is None else abs(float((self._view(piece, gradient) * piece.delta()).sum()))

    def _without(self, piece: Piece, rows: Sequence[Sequence[int]], whole: Tensor, index: _Index) -> float:
        view = self._view(piece)
        kept = view.clone()
        view -= piece.delta()
        try:
            return float((_picked(self._logits(rows), index) - whole).abs().max())
        finally:
            view.copy_(kept)

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return [rows, places, words]; rows are padded on the right, where causal attention never looks."""
        import torch

        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return cast("Tensor", self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits)

    def _untie(self, pieces: Iterable[Piece]) -> None:
        """Give the head its own weights where an adapter changes one of the two alone, as the engine does."""
        import torch

        if any(piece.place.module in ("lm_head", "model.embed_tokens") for piece in pieces):
            head, words = self._model.get_output_embeddings(), self._model.get_input_embeddings()
            if head.weight is words.weight:
                head.weight = torch.nn.Parameter(words.weight.clone(), requires_grad=False)
                self._parameters = dict(self._model.named_parameters())

    def _name(self, piece: Piece) -> str:
        place = piece.place
        stacked = "down_proj" if place.projection == "down" else "gate_up_proj"
        names = (
            [f"{place.module}.weight"]
            if place.expert is None
            else [f"{piece.name}.weight", f"{place.module}.{stacked}"]
        )
        for name in names:
            # transformers calls Mixtral's block as everybody else's.
            for known in (name, name.replace(".block_sparse_moe.", ".mlp.")):
                if known in self._parameters:
                    return known
        raise ReferenceUnavailableError(
            f"module {piece.name!r} has no place in transformers' model", hint="prove by modules"
        )

    def _parameter(self, piece: Piece) -> Tensor:
        return self._parameters[self._name(piece)]

    def _view(self, piece: Piece, whole: Tensor | None = None) -> Tensor:
        """Return the [out, in] view of the piece's place in its parameter, or in `whole`, which is shaped like it."""
        name = self._name(piece)
        found = self._parameters[name] if whole is None else whole
        if piece.place.is_embedding:
            found = found.T
        elif piece.place.expert is not None and not name.endswith(".weight"):
            found = piece.place.rows_of(found[piece.place.expert])
        if tuple(found.shape) != (piece.b.shape[0], piece.a.shape[1]):
            raise ReferenceUnavailableError(f"module {piece.name!r} has another shape in transformers' model")
        return found


def _listed(tensor: Tensor) -> object:
    return cast("Any", tensor).tolist()


def _index(ids: Ids) -> _Index:
    """Return row, place and token of each of `ids`, in their order."""
    import torch

    found = [
        (number, place, token)
        for number, places in enumerate(ids)
        for place, wanted in enumerate(places)
        for token in wanted
    ]
    rows, places, tokens = torch.tensor(found).T
    return rows, places, tokens


def _picked(logits: Tensor, index: _Index) -> Tensor:
    """Return the logprobs of the indexed tokens, without a table of all."""
    rows, places, tokens = index
    return logits[rows, places, tokens] - logits.logsumexp(dim=-1)[rows, places]


def _available_kib() -> int | None:
    """Return what Linux says can be had without swapping: free, and caches that can be dropped."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(found.split()[1]) if found else None


@contextmanager
def _without_bars(transformers: Any) -> Generator[None]:
    """Keep transformers from drawing its own progress on our terminal."""
    logging = transformers.utils.logging
    was_drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_drawn:
            logging.enable_progress_bar()
