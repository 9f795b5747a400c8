"""Adapters on a tiny base: good ones of every kind, and every way known of having no effect without a word.

Each is made from shapes that the base takes and random numbers, and then spoilt. `Caught` says what has to stop it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from support.preflight import PREFIX, adapter_on, pair_of, peft_values

from loractl_registry import ExpertLayout
from loractl_registry.adapter_config import parse_adapter_config

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

RANK = 4
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
STD = 0.15
EXPERTS = "model.layers.0.mlp.experts"
Q_PROJ = "model.layers.0.self_attn.q_proj"


class Caught(StrEnum):
    """Who has to stop an adapter; nobody stops a good one."""

    NOWHERE = "nowhere"
    CONFIG = "reading adapter_config.json, at add"
    PREFLIGHT = "preflight, at candidate"
    PROOF = "the proof of effect"


@dataclass(frozen=True)
class Fixture:
    """One adapter.

    Attributes:
        only: Last names of the modules that it adapts.
        config: Changes to adapter_config.json.
        spoil: Changes the tensors before they are written.
        reason: Part of what whoever stops it says.
        bases: Kinds of base, as `support.engine.build_base` calls them, that it is made for.
    """

    name: str
    only: tuple[str, ...]
    layout: ExpertLayout | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    spoil: Callable[[Tensors], Tensors] = lambda tensors: tensors
    caught: Caught = Caught.NOWHERE
    reason: str = ""
    bases: tuple[str, ...] = ("qwen3moe",)
    seed: int = 1

    @property
    def is_fused(self) -> bool:
        return self.layout is ExpertLayout.FUSED


def write(fixture: Fixture, base_config: Mapping[str, object], folder: Path, **changes: object) -> Path:
    """Write the adapter and return its folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = peft_values(RANK, target_modules=list(fixture.only)) | fixture.config | changes
    tensors = fixture.spoil(_random(fixture, base_config))
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _random(fixture: Fixture, base_config: Mapping[str, object]) -> Tensors:
    import torch

    generator = torch.Generator().manual_seed(fixture.seed)
    shapes = shapes_of(adapter_on(base_config, only=fixture.only, layout=fixture.layout))
    patterns = fixture.config.get("rank_pattern")
    if patterns:
        config = parse_adapter_config(json.dumps(peft_values(RANK) | {"rank_pattern": patterns}).encode())
        shapes = _at_their_ranks(shapes, config)
    return {name: torch.randn(*shape, generator=generator) * STD for name, shape in shapes.items()}


def _at_their_ranks(shapes, config):
    found = {}
    for name, shape in shapes.items():
        module, _, side = name.removeprefix(PREFIX).partition(".lora_")
        rank = config.rank_of(module)
        found[name] = (rank, shape[1]) if side.startswith("A") else (shape[0], rank)
    return found


def shapes_of(tensors):
    return {name: info.shape for name, info in tensors.items()}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def zeroed(*parts: str) -> Callable[[Tensors], Tensors]:
    """Zero every tensor whose name has all of `parts`."""

    def spoil(tensors: Tensors) -> Tensors:
        return {name: tensor * 0 if all(part in name for part in parts) else tensor for name, tensor in tensors.items()}

    return spoil


def scaled(part: str, factor: float) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor * factor if part in name else tensor for name, tensor in tensors.items()}


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not all(part in name for part in parts)}


def with_more(shapes: Mapping[str, Iterable[int]]) -> Callable[[Tensors], Tensors]:
    def spoil(tensors: Tensors) -> Tensors:
        import torch

        generator = torch.Generator().manual_seed(9)
        return tensors | {name: torch.randn(*shape, generator=generator) * STD for name, shape in shapes.items()}

    return spoil


def disjoint(part: str) -> Callable[[Tensors], Tensors]:
    """Let A fill only the ranks that B does not read, so that neither is zero and their product is."""

    def spoil(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for name, tensor in tensors.items():
            if part in name:
                mask = tensor.new_zeros(RANK)
                mask[: RANK // 2] = 1
                found[name] = tensor * mask[:, None] if ".lora_A" in name else tensor * (1 - mask)
        return found

    return spoil


def cancelling(part: str) -> Callable[[Tensors], Tensors]:
    """Let the second half of the ranks undo the first, up to rounding."""

    def spoil(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for name, tensor in tensors.items():
            if part in name:
                half = RANK // 2
                first = tensor[:half] if ".lora_A" in name else tensor[:, :half]
                found[name] = first.repeat(2, 1) if ".lora_A" in name else _signed(first)
        return found

    return spoil


def _signed(first):
    import torch

    return torch.cat([first, -first], dim=1)


def fused_expert_zeroed(expert: int, part: str, *, rows: slice = slice(None)) -> Callable[[Tensors], Tensors]:
    """Zero one expert's columns of the fused B whose name has `part`, in `rows` alone."""

    def spoil(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for name, tensor in tensors.items():
            if f"{part}.lora_B" in name:
                changed = tensor.clone()
                changed[rows, expert :: tensor.shape[1] // RANK] = 0
                found[name] = changed
        return found

    return spoil


def shared_a(tensors: Tensors) -> Tensors:
    """Give every expert of a layer, gate and up alike, the same A."""
    found = dict(tensors)
    first: dict[tuple[str, ...], torch.Tensor] = {}
    for name, tensor in tensors.items():
        if ".experts." in name and ".lora_A" in name:
            found[name] = first.setdefault((name.split(".experts.")[0], *map(str, tensor.shape)), tensor)
    return found


BOTH = ("qwen3moe", "gptoss")
FUSED, SINGLE = ExpertLayout.FUSED, ExpertLayout.PER_EXPERT
ALL = (*ATTENTION, "experts")

GOOD = (
    Fixture("attention", ATTENTION, bases=BOTH),
    Fixture("experts-2d", ("experts",), SINGLE, seed=2),
    Fixture("experts-3d", ("experts",), FUSED, seed=3, bases=BOTH),
    Fixture("all-2d", ALL, SINGLE, seed=4),
    Fixture("all-3d", ALL, FUSED, seed=5, bases=BOTH),
    Fixture("shared-a", ("experts",), SINGLE, spoil=shared_a, seed=6),
    Fixture("rslora-2d", ALL, SINGLE, {"use_rslora": True}, seed=7),
    Fixture("rslora-3d", ALL, FUSED, {"use_rslora": True}, seed=8, bases=BOTH),
    Fixture("rank-pattern", ALL, SINGLE, {"rank_pattern": {"q_proj": 8, "down_proj": 2}}, seed=9),
    Fixture("alpha-pattern", ATTENTION, config={"alpha_pattern": {"q_proj": 32}}, seed=10, bases=BOTH),
    Fixture("embeddings", ("embed_tokens", "lm_head"), seed=11),
    Fixture("one-layer", ("v_proj",), spoil=without("layers.1"), seed=12, bases=BOTH),
    Fixture("weak", ALL, SINGLE, spoil=scaled(".lora_B", 0.02), seed=13),
)
"""Nobody may stop these."""

_GATE_UP = f"{EXPERTS}.base_layer"
NO_OPS = (
    Fixture("alpha-0", ATTENTION, config={"lora_alpha": 0}, caught=Caught.CONFIG, reason="lora_alpha"),
    Fixture("dora", ATTENTION, config={"use_dora": True}, caught=Caught.CONFIG, reason="use_dora"),
    Fixture(
        "target-parameters-of-2d",
        ("experts",),
        FUSED,
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        without(f"{EXPERTS}.lora_"),
        Caught.PREFLIGHT,
        f"module '{EXPERTS}' is missing",
    ),
    *(
        Fixture(name, ATTENTION, spoil=renamed(old, new), caught=Caught.PREFLIGHT, reason=reason, bases=BOTH)
        for name, old, new, reason in (
            ("no-prefix", PREFIX, "", "does not begin with"),
            ("prefix-twice", PREFIX, PREFIX * 2, "not one that the engine adapts"),
            ("prefix-of-another-wrapper", "model.layers", "model.language_model.layers", "not one that"),
            ("prefix-without-model", f"{PREFIX}model.", PREFIX, "not one that"),
            ("nested-wrapper", "_proj.lora", "_proj.base_layer.lora", "not one that"),
            ("name-of-an-adapter", ".weight", ".default.weight", "name of PEFT's adapter"),
            ("layer-beyond-the-last", "layers.1", "layers.7", "not one that"),
            ("packed-name", "q_proj", "qkv_proj", "not one that"),
            ("unknown-module", "v_proj", "value_projection", "not one that"),
        )
    ),
    Fixture(
        "inert-router",
        ATTENTION,
        spoil=with_more(shapes_of(pair_of("model.layers.0.mlp.gate", 128, 8))),
        caught=Caught.PREFLIGHT,
        reason="cannot be adapted",
    ),
    Fixture("all-b-zero", ALL, SINGLE, spoil=zeroed(".lora_B"), caught=Caught.PREFLIGHT, reason="no effect at all"),
    Fixture("all-a-zero", ALL, FUSED, spoil=zeroed(".lora_A"), caught=Caught.PREFLIGHT, reason="all zero", bases=BOTH),
    Fixture(
        "b-zero-of-one-module",
        ALL,
        SINGLE,
        spoil=zeroed("k_proj", ".lora_B"),
        caught=Caught.PREFLIGHT,
        reason="all zero",
    ),
    Fixture(
        "experts-b-zero-3d",
        ALL,
        FUSED,
        spoil=zeroed("experts", ".lora_B"),
        caught=Caught.PREFLIGHT,
        reason="all zero",
        bases=BOTH,
    ),
    Fixture(
        "dropped-expert",
        ("experts",),
        SINGLE,
        spoil=without(f"{EXPERTS}.3."),
        caught=Caught.PREFLIGHT,
        reason="missing",
    ),
    Fixture(
        "dropped-projection",
        ("experts",),
        SINGLE,
        spoil=without(".up_proj."),
        caught=Caught.PREFLIGHT,
        reason="missing",
    ),
    Fixture(
        "expert-beyond-the-last",
        ("experts",),
        SINGLE,
        spoil=renamed("experts.7.", "experts.8."),
        caught=Caught.PREFLIGHT,
        reason="experts 0 to 7",
    ),
    Fixture(
        "half-of-3d",
        ("experts",),
        FUSED,
        spoil=without("base_layer"),
        caught=Caught.PREFLIGHT,
        reason="missing",
        bases=BOTH,
    ),
    Fixture("rank-said-wrong", ALL, SINGLE, {"r": 8}, caught=Caught.PREFLIGHT, reason="at rank 8"),
    Fixture(
        "lone-a", ATTENTION, spoil=without("layers.0", "q_proj", "lora_B"), caught=Caught.PREFLIGHT, reason="beside it"
    ),
    Fixture("alpha-tiny", ALL, SINGLE, {"lora_alpha": 1e-9}, caught=Caught.PROOF, reason="no effect"),
    Fixture("alpha-tiny-3d", ALL, FUSED, {"lora_alpha": 1e-9}, caught=Caught.PROOF, reason="no effect", bases=BOTH),
    Fixture(
        "b-tiny", ATTENTION, spoil=scaled(".lora_B", 1e-12), caught=Caught.PROOF, reason="move nothing", bases=BOTH
    ),
    Fixture("b-underflows", ATTENTION, spoil=scaled(".lora_B", 1e-38), caught=Caught.PROOF, reason="move nothing"),
    Fixture(
        "ranks-that-never-meet", ATTENTION, spoil=disjoint("_proj"), caught=Caught.PROOF, reason="no effect", bases=BOTH
    ),
    Fixture(
        "one-pair-of-ranks-that-never-meet",
        ATTENTION,
        spoil=disjoint(Q_PROJ),
        caught=Caught.PROOF,
        reason=Q_PROJ,
        bases=BOTH,
    ),
    Fixture("ranks-that-cancel", ATTENTION, spoil=cancelling(Q_PROJ), caught=Caught.PROOF, reason=Q_PROJ),
    Fixture(
        "one-layer-b-zero", ATTENTION, spoil=zeroed(Q_PROJ, ".lora_B"), caught=Caught.PROOF, reason=Q_PROJ, bases=BOTH
    ),
    Fixture(
        "one-expert-zero-2d",
        ALL,
        SINGLE,
        spoil=zeroed(f"{EXPERTS}.5.", ".lora_B"),
        caught=Caught.PROOF,
        reason=f"{EXPERTS}.5.",
    ),
    Fixture(
        "one-expert-zero-3d",
        ALL,
        FUSED,
        spoil=fused_expert_zeroed(5, EXPERTS),
        caught=Caught.PROOF,
        reason=f"{EXPERTS}.5.down_proj",
        bases=BOTH,
    ),
    Fixture(
        "one-gate-and-up-zero-3d",
        ALL,
        FUSED,
        spoil=fused_expert_zeroed(2, _GATE_UP),
        caught=Caught.PROOF,
        reason=f"{EXPERTS}.2.gate_proj",
        bases=BOTH,
    ),
    Fixture(
        "one-up-zero-3d",
        ALL,
        FUSED,
        spoil=fused_expert_zeroed(2, _GATE_UP, rows=slice(96, None)),
        caught=Caught.PROOF,
        reason=f"{EXPERTS}.2.up_proj",
    ),
    Fixture(
        "one-up-zero-3d-interleaved",
        ALL,
        FUSED,
        spoil=fused_expert_zeroed(2, _GATE_UP, rows=slice(1, None, 2)),
        caught=Caught.PROOF,
        reason=f"{EXPERTS}.2.up_proj",
        bases=("gptoss",),
    ),
)
"""Each of these would load, or be dropped, and change nothing or less than its files say."""


def for_base(fixtures: Iterable[Fixture], kind: str) -> list[Fixture]:
    """Return the fixtures that are made for this kind of base."""
    return [fixture for fixture in fixtures if kind in fixture.bases]
