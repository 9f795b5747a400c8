"""A checkpoint outside of the home remembers what a home that was put back whole has forgotten."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.registry import write_adapter, write_base

from loractl_registry import Ref, Registry, Stage
from loractl_registry.trust import MissingCheckpointError, RollbackError


@pytest.fixture(params=["file", "git"])
def witness(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    if request.param == "git":
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder / "home.checkpoint"


@pytest.fixture
def home(tmp_path: Path, witness: Path) -> Path:
    with Registry.open(tmp_path / "home", witness=witness) as registry:
        registry.add_base("base", str(write_base(tmp_path / "base")), actor="ada")
        registry.add("bot", str(write_adapter(tmp_path / "bot", seed=1)), actor="ada")
    return tmp_path / "home"


def test_home_that_was_put_back_whole_is_refused(home: Path, tmp_path: Path, witness: Path) -> None:
    shutil.copytree(home, tmp_path / "copy")
    with Registry.open(home, witness=witness) as registry:
        registry.promote(Ref("bot", 1), actor="ada", to=Stage.LIVE)
        registry.revoke(Ref("bot", 1), actor="ada", reason="leaks")
    shutil.rmtree(home)
    (tmp_path / "copy").rename(home)

    with Registry.open(home, witness=witness) as registry:
        distrust = registry.snapshot("base").distrust
        with pytest.raises(RollbackError):
            registry.promote(Ref("bot", 1), actor="ada", to=Stage.LIVE)
    with Registry.open(home) as unwitnessed:
        assert unwitnessed.snapshot("base").distrust is None

    assert distrust is not None


def test_new_home_in_the_place_of_one_that_was_witnessed_is_refused(home: Path, tmp_path: Path, witness: Path) -> None:
    shutil.rmtree(home)

    with Registry.open(home, witness=witness) as registry, pytest.raises(RollbackError):
        registry.add_base("base", str(tmp_path / "base"), actor="eve")


def test_witness_that_holds_nothing_is_refused_until_it_is_written(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "new.checkpoint"
    with Registry.open(home, witness=other) as registry:
        with pytest.raises(MissingCheckpointError, match=r"new\.checkpoint"):
            registry.promote(Ref("bot", 1), actor="ada")
        registry.identities.checkpoint(actor="ada", reason="new witness")

        assert registry.promote(Ref("bot", 1), actor="ada").version.stage is Stage.CANDIDATE


def test_witness_that_cannot_be_written_lets_no_chain_begin(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home", witness=tmp_path / "missing" / "file") as registry:
        with pytest.raises(Exception, match="missing"):
            registry.add_base("base", str(write_base(tmp_path / "base")), actor="ada")
        assert registry.bases() == ()
