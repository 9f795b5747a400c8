from __future__ import annotations

from pathlib import Path

import pytest
from support.registry import write_adapter, write_base

from loractl_registry import Registry, Stage, VersionRef, parse_ref


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the base ``tiny``, ``bot@1`` live, ``bot@2`` approved and ``shy@1`` a draft."""
    folder = tmp_path / "home"
    with Registry.open(folder) as registry:
        registry.add_base("tiny", str(write_base(tmp_path / "base")), actor="tester")
    for name, seed, stage in (("bot", 1, Stage.LIVE), ("bot", 2, Stage.APPROVED), ("shy", 3, None)):
        add(folder, name, seed=seed, to=stage)
    return folder


def add(home: Path, name: str, *, seed: int, rank: int = 4, to: Stage | None = None) -> VersionRef:
    folder = write_adapter(home.parent / f"{name}-{seed}", rank=rank, seed=seed, base="tiny")
    with Registry.open(home) as registry:
        ref = registry.add(name, str(folder), actor="tester").version.ref
        if to is not None:
            registry.promote(parse_ref(str(ref)), actor="tester", to=to)
    return ref
