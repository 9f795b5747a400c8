"""Tiny bases with references, and an engine that is transformers with merged weights, right or wrong on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.engine import build_base

from loractl.proof.engine_side import AdapterReadings, EngineObservation
from loractl.proof.pieces import Piece, read_pieces
from loractl.proof.prompts import PromptSet, choose_prompts
from loractl.proof.proving import Subject
from loractl.proof.readings import Reading
from loractl.proof.record import EngineFacts
from loractl.proof.reference_side import Reference

FACTS = EngineFacts(name="fake", version="1", device="cpu", dtype="float32", torch="2", kernels="none")
ADAPTER, BASE = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
Misread = Callable[[Iterable[Piece]], Iterable[Piece]]


@dataclass(frozen=True)
class Bench:
    """A base, what is asked of it, and its reference."""

    kind: str
    folder: Path
    config: dict[str, object]
    prompts: PromptSet
    reference: Reference

    def subject(self, adapter: Path) -> Subject:
        return Subject("adapter", adapter, ADAPTER, self.folder, BASE, self.config)

    def observe(self, adapter: Path, misread: Misread = lambda pieces: pieces) -> EngineObservation:
        """Return what an engine would say that reads the adapter so."""
        rows = self.prompts.rows
        ids = self.reference.likeliest(rows)
        base = AdapterReadings(self.reference.read(rows, ids), self.reference.read_alone(rows, ids))
        with self.reference.merged(list(misread(read_pieces(adapter, self.config)))):
            own = AdapterReadings(self.reference.read(rows, ids), self.reference.read_alone(rows, ids))
        return EngineObservation(FACTS, base, {"adapter": own})


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are quicker in one thread, and far quicker where others use the cores too."""
    torch = pytest.importorskip("torch", reason="needs an engine's torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["qwen3moe", "gptoss"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp(request.param) / "base"
    build_base(request.param, folder)
    config = json.loads((folder / "config.json").read_text())
    return Bench(request.param, folder, config, choose_prompts(folder, config), Reference(folder, config))


def only_where(keeps: Callable[[Piece], bool]) -> Misread:
    """Return an engine's mistake of leaving out the other pieces."""
    return lambda pieces: (piece for piece in pieces if keeps(piece))


def at_scale(factor: float) -> Misread:
    """Return an engine's mistake of multiplying the adapter by something else."""
    return lambda pieces: (replace(piece, scale=piece.scale * factor) for piece in pieces)


def shifted(reading: Reading, by: float) -> Reading:
    """Return a reading with every logprob moved."""
    return Reading(tuple(tuple({t: v + by for t, v in row.items()} for row in rows) for rows in reading.prompts))
