"""One real engine a kind of base, with adapters and what each must answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.engine import (
    ATTENTION,
    BaseKind,
    BuiltAdapter,
    RunningEngine,
    build_base,
    cpu_plan,
    peft_adapter,
    per_expert_adapter,
    running_engine,
)

if TYPE_CHECKING:
    import torch

SLOTS, HOST_SLOTS = 2, 3


@dataclass(frozen=True)
class World:
    """A running engine, its adapters by the name that requests use, and merged references for them and the base."""

    kind: BaseKind
    engine: RunningEngine
    adapters: Mapping[str, BuiltAdapter]
    references: Mapping[str, torch.nn.Module]


@pytest.fixture(scope="session", params=["qwen3moe", "gptoss"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    kind: BaseKind = request.param
    root = tmp_path_factory.mktemp(kind)
    base = build_base(kind, root / "base")
    adapters = {
        "attention@1": peft_adapter(root / "base", root / "attention", seed=1, modules=ATTENTION, experts=False),
        "fused@1": peft_adapter(root / "base", root / "fused", seed=2, experts=True),
        "both@1": peft_adapter(root / "base", root / "both", seed=3, modules=ATTENTION, experts=True),
    }
    if kind == "qwen3moe":
        adapters["per-expert@1"] = per_expert_adapter(root / "base", root / "per-expert", seed=4)
    else:
        adapters["fused@2"] = peft_adapter(root / "base", root / "fused-2", seed=5, experts=True)
    # gpt-oss runs in its native layout, Qwen3-MoE with both at once: between them, every way that vLLM loads experts.
    plan = cpu_plan(
        slots=SLOTS, host_slots=HOST_SLOTS, is_mixed=kind == "qwen3moe", modules=tuple(sorted((*ATTENTION, "experts")))
    )
    with running_engine(root / "base", plan, root / "engine.log") as engine:
        for name, adapter in adapters.items():
            admitted = engine.port("admit", ref=name, path=str(adapter.path), is_fused=adapter.is_fused)
            assert admitted.status_code == 200, admitted.text
        references = {"base": base, **{name: adapter.merged for name, adapter in adapters.items()}}
        yield World(kind, engine, adapters, references)
