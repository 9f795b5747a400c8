"""A real engine on CPU: good adapters are proven, and what it drops without a word is found out by its own numbers.

One start of vLLM a kind of base answers for all adapters of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.engine import build_base
from unit.proof.fixtures import ALL, GOOD, NO_OPS, Caught, Fixture, for_base, write

from loractl.proof import (
    AdapterUnderTest,
    EffectProof,
    EngineObservation,
    EngineSettings,
    EngineSideError,
    PromptSet,
    Subject,
    choose_prompts,
    observe,
    prove,
    prove_modules,
    prove_with_reference,
)
from loractl.proof.readings import differences, largest
from loractl.proof.reference_side import Reference
from loractl.proof.verdict import EFFECT_FACTOR, FP32_UNIT
from loractl_registry.preflight import PreflightRefusedError, check_stored

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

# vLLM 0.32.0 loads each of these without an error; preflight is what stops them.
LOADED_AND_DROPPED = (
    "prefix-of-another-wrapper",
    "prefix-without-model",
    "layer-beyond-the-last",
    "all-b-zero",
    "all-a-zero",
)
TOLD_WRONG = "all-3d-said-to-be-2d"


@dataclass(frozen=True)
class Proven:
    """One engine's answers about every fixture of a base."""

    kind: str
    base: Path
    config: dict[str, object]
    prompts: PromptSet
    folders: dict[str, Path]
    observation: EngineObservation
    reference: Reference

    def subject(self, name: str) -> Subject:
        adapter, base = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
        return Subject(name, self.folders[name], adapter, self.base, base, self.config)

    def proof_of(self, name: str) -> EffectProof:
        return prove_with_reference(self.subject(name), self.prompts, self.observation, self.reference)

    def effect_of(self, name: str) -> float:
        base, own = self.observation.base, self.observation.adapters[name]
        return largest(differences(base.batched, own.batched))


def _asked(kind: str) -> list[Fixture]:
    no_ops = [each for each in NO_OPS if each.caught is Caught.PROOF or each.name in LOADED_AND_DROPPED]
    return for_base((*GOOD, *no_ops), kind)


@pytest.fixture(scope="module", params=["qwen3moe", "gptoss"])
def proven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    kind = request.param
    root = tmp_path_factory.mktemp(f"proof-{kind}")
    build_base(kind, root / "base")
    config = json.loads((root / "base" / "config.json").read_text())
    prompts = choose_prompts(root / "base", config)
    asked = _asked(kind)
    folders = {fixture.name: write(fixture, config, root / fixture.name) for fixture in asked}
    under_test = [AdapterUnderTest(each.name, folders[each.name], each.is_fused) for each in asked]
    if kind == "qwen3moe":
        folders[TOLD_WRONG] = folders["all-3d"]
        under_test.append(AdapterUnderTest(TOLD_WRONG, folders["all-3d"], is_fused=False))
    modules = (*ALL, "embed_tokens", "lm_head") if kind == "qwen3moe" else ALL
    settings = EngineSettings("cpu", 8, tuple(sorted(modules)), is_mixed=kind == "qwen3moe", slots=2)
    observation = observe(root / "base", under_test, prompts, settings)
    return Proven(kind, root / "base", config, prompts, folders, observation, Reference(root / "base", config))


def test_engine_says_what_it_is_and_hardly_depends_on_the_batch(proven):
    facts, base = proven.observation.facts, proven.observation.base

    assert (facts.version, facts.device, facts.dtype) == ("0.32.0", "cpu", "float32")
    assert largest(differences(base.batched, base.alone)) < 1e-4


def test_every_good_adapter_is_proven_and_every_pair_is_told_apart(proven):
    proofs = {fixture.name: proven.proof_of(fixture.name) for fixture in for_base(GOOD, proven.kind)}

    assert {name: proof.verdict.reasons for name, proof in proofs.items() if not proof.passed} == {}
    assert all(proof.verdict.resolved == len(proof.measured.pieces) for proof in proofs.values())
    assert all(EffectProof.parse(proof.to_json()) == proof for proof in proofs.values())


def test_every_no_op_that_preflight_passes_is_refused(proven):
    names = [fixture.name for fixture in for_base(NO_OPS, proven.kind) if fixture.caught is Caught.PROOF]

    passed = [name for name in names if proven.proof_of(name).passed]

    assert names
    assert passed == []


def test_what_the_engine_drops_without_a_word_has_no_effect_and_fails_preflight(proven):
    names = [name for name in LOADED_AND_DROPPED if name in proven.observation.adapters]
    rounding = EFFECT_FACTOR * proven.reference.logit_scale(proven.prompts.rows) * FP32_UNIT

    assert names
    assert not proven.observation.refused.keys() & set(LOADED_AND_DROPPED)
    for name in names:
        with pytest.raises(PreflightRefusedError):
            check_stored(proven.folders[name], proven.config)
        if name != "layer-beyond-the-last":
            assert proven.effect_of(name) < rounding, name


def test_adapter_in_one_layout_that_is_announced_in_the_other_does_not_pass(proven):
    if proven.kind != "qwen3moe":
        pytest.skip("needs an engine that takes both layouts")
    try:
        proof = proven.proof_of(TOLD_WRONG)
    except EngineSideError:
        assert TOLD_WRONG in proven.observation.refused
    else:
        assert not proof.passed
        assert not prove_modules(proven.subject(TOLD_WRONG), proven.prompts, proven.observation).passed


def test_base_that_is_too_large_to_merge_is_proven_by_modules_and_says_so(proven):
    subject = replace(proven.subject("all-3d"), config={**proven.config, "quantization_config": {"quant_method": "x"}})

    proof = prove(subject, proven.prompts, proven.observation)

    assert proof.passed, proof.verdict.reasons
    assert proof.kind == "modules"
    assert proof.measured.engine is not None
    assert "nothing was merged" in proof.verdict.findings[0]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small are quicker in one thread, and far quicker where others use the cores too."""
    torch = pytest.importorskip("torch", reason="needs an engine's torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
