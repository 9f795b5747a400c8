"""``loractl prove`` on a tiny base: a good adapter is proven, and one of no effect ends with code 3."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.cli import LORACTL, Result, clean_environment
from support.engine import build_base
from unit.proof.fixtures import GOOD, NO_OPS, Caught, write

from loractl.proof import EffectProof

pytestmark = pytest.mark.timeout(600)
GOOD_ONE = next(fixture for fixture in GOOD if fixture.name == "all-2d")
NO_OP = next(fixture for fixture in NO_OPS if fixture.caught is Caught.PROOF and "qwen3moe" in fixture.bases)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prove")
    build_base("qwen3moe", root / "base")
    config = json.loads((root / "base" / "config.json").read_text())
    home = root / "home"
    for argv in (
        ("base", "add", "tiny", str(root / "base")),
        ("add", "good", str(write(GOOD_ONE, config, root / "good")), "--base", "tiny"),
        ("add", "silent", str(write(NO_OP, config, root / "silent")), "--base", "tiny"),
    ):
        added = loractl(home, *argv)
        assert added.code == 0, added.err
    return home


def loractl(home: Path, *argv: str) -> Result:
    done = subprocess.run([*LORACTL, *argv], env=clean_environment(home), capture_output=True, text=True, timeout=400)
    return Result(done.returncode, done.stdout, done.stderr)


def kept_for(home: Path, ref: str) -> list[dict[str, object]]:
    return loractl(home, "evidence", "list", ref, "--json").data


@pytest.mark.engine
def test_engine_and_reference_prove_a_good_adapter(home, tmp_path):
    proven = loractl(home, "prove", "good@1", "--device", "cpu", "--out", str(tmp_path / "proof.json"), "--json")

    assert proven.code == 0, proven.err
    assert proven.data["verdict"]["passed"] is True
    assert proven.data["measured"]["kind"] == "engine-and-reference"
    kept = EffectProof.parse((tmp_path / "proof.json").read_bytes())
    assert kept.passed
    assert kept.measured.adapter_digest == proven.data["measured"]["adapter_digest"]


def test_adapter_of_no_effect_ends_with_code_3_and_the_reasons(home):
    proven = loractl(home, "prove", "silent@1", "--no-engine")

    assert proven.code == 3
    assert "silent@1 does not have the effect that it should" in proven.out
    assert "no:" in proven.out
    assert [(one["type"], one["passed"]) for one in kept_for(home, "silent@1")] == [("effect", False)]


def test_tensors_alone_are_measured_without_an_engine(home):
    proven = loractl(home, "prove", "good@1", "--no-engine")

    assert proven.code == 0, proven.err
    assert "good@1 has its effect" in proven.out
    assert "not started" in proven.out
    assert "modules" in proven.out
    assert [(one["kind"], one["passed"]) for one in kept_for(home, "good@1")][-1:] == [("modules", True)]


def test_proof_is_only_shown_where_nobody_wants_it_kept(home):
    before = kept_for(home, "good@1")

    proven = loractl(home, "prove", "good@1", "--no-engine", "--no-record", "--json")

    assert (proven.code, proven.data["evidence"]) == (0, None)
    assert kept_for(home, "good@1") == before


def test_adapter_of_an_unknown_base_is_refused(home, tmp_path):
    config = json.loads((home.parent / "base" / "config.json").read_text())
    shutil.copytree(home.parent / "base", tmp_path / "other")
    (tmp_path / "other" / "generation_config.json").write_text('{"max_new_tokens": 7}')
    assert loractl(home, "base", "add", "other", str(tmp_path / "other")).code == 0  # or the only base would be taken
    added = loractl(
        home, "add", "stray", str(write(GOOD_ONE, config, tmp_path / "stray", base_model_name_or_path="x/y"))
    )
    assert added.code == 0, added.err

    proven = loractl(home, "prove", "stray@1", "--no-engine")

    assert proven.code != 0
    assert "stray@1" in proven.err
    assert "--base" in proven.err


ASKING = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["anyone"]
[[adapter.approved.evidence]]
type = "effect"
"""


@pytest.mark.engine
def test_promotion_to_candidate_proves_first_where_the_policy_asks_for_it(home):
    (home / "policy.toml").write_text(ASKING)

    refused = loractl(home, "promote", "silent@1")
    skipped = loractl(home, "promote", "silent@1", "--to", "approved", "--no-prove")
    good = loractl(home, "promote", "good@1", "--to", "approved", "--json")

    assert (refused.code, skipped.code) == (3, 3)
    assert "does not have the effect that it should" in refused.err
    assert "adapter.approved.evidence" in skipped.err
    assert [one["passed"] for one in kept_for(home, "silent@1")][-1] is False
    assert (good.code, good.data["stage"]) == (0, "approved")
    assert any(one["passed"] for one in kept_for(home, "good@1") if one["type"] == "effect")
