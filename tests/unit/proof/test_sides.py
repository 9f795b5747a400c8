"""What the two sides do when they cannot do their work, and what a proof then rests on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from unit.proof.fixtures import GOOD, write

from loractl.proof import (
    AdapterUnderTest,
    EngineSettings,
    EngineSideError,
    ProofKind,
    observe,
    prove,
    prove_with_reference,
)
from loractl.proof.errors import ReferenceUnavailableError
from loractl.proof.module_side import module_effects
from loractl.proof.pieces import read_pieces
from loractl.proof.prompts import PromptSet, Source
from loractl.proof.record import How
from loractl.proof.reference_side import Reference, memory_needed
from loractl_registry.preflight import check_stored

SETTINGS = EngineSettings("cpu", 8, ("q_proj",), is_mixed=False, timeout_s=5)


def refusing(self, piece):
    raise ReferenceUnavailableError("nowhere")


def fixture_named(name):
    return next(fixture for fixture in GOOD if fixture.name == name)


@pytest.fixture
def adapter(bench, tmp_path):
    return write(fixture_named("all-3d"), bench.config, tmp_path / "adapter")


def python_that(says, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys, time\n{says}\n")
    script.chmod(0o700)
    monkeypatch.setattr("loractl.proof.engine_side.sys.executable", str(script))


def test_engine_that_dies_is_an_error_with_its_last_words(bench, tmp_path, monkeypatch):
    python_that("print('out of memory'); sys.exit(3)", tmp_path, monkeypatch)

    with pytest.raises(EngineSideError, match="ended with 3") as caught:
        observe(bench.folder, [], bench.prompts, SETTINGS)

    assert "out of memory" in str(caught.value)


def test_engine_that_hangs_is_ended_and_an_error(bench, tmp_path, monkeypatch):
    python_that("time.sleep(60)", tmp_path, monkeypatch)

    with pytest.raises(EngineSideError, match=r"did not finish .* in 1 s"):
        observe(bench.folder, [], bench.prompts, replace(SETTINGS, timeout_s=1))


def test_engine_sees_no_secret(bench, tmp_path, monkeypatch):
    python_that("import os; print(sorted(os.environ)); sys.exit(1)", tmp_path, monkeypatch)

    with pytest.raises(EngineSideError) as caught:
        observe(
            bench.folder, [], bench.prompts, SETTINGS, inherited={"AWS_SECRET": "x", "HF_TOKEN": "y", "PATH": "/bin"}
        )

    assert "VLLM_ENABLE_V1_MULTIPROCESSING" in str(caught.value)
    assert "AWS_SECRET" not in str(caught.value)
    assert "HF_TOKEN" not in str(caught.value)


def test_what_the_engine_answers_is_read_back(bench, tmp_path, monkeypatch):
    answer = {
        "facts": {"name": "v", "version": "1", "device": "cpu", "dtype": "float32", "torch": "2", "kernels": "k"},
        "base": {"batched": [[[[5, -1.5]]]], "alone": [[[[5, -1.25]]]]},
        "adapters": {},
        "refused": {"a": "ValueError: no"},
    }
    python_that(f"open(sys.argv[3] + '/result.json', 'w').write({json.dumps(answer)!r})", tmp_path, monkeypatch)

    found = observe(bench.folder, [AdapterUnderTest("a", tmp_path, is_fused=True)], bench.prompts, SETTINGS)

    assert found.base.batched.prompts == (({5: -1.5},),)
    assert found.base.alone.prompts == (({5: -1.25},),)
    assert found.refused == {"a": "ValueError: no"}


def test_settings_follow_from_preflight(bench, adapter):
    report = check_stored(adapter, bench.config)

    settings = EngineSettings.for_report(report, "cpu")

    assert settings.max_rank == 8
    assert settings.modules == ("experts", "k_proj", "o_proj", "q_proj", "v_proj")
    assert settings.is_mixed is (bench.kind == "qwen3moe")


def test_adapter_that_the_engine_refuses_is_an_error_in_its_words(bench, adapter):
    observation = replace(bench.observe(adapter), refused={"adapter": "ValueError: no such module"})

    with pytest.raises(EngineSideError, match="no such module"):
        prove_with_reference(bench.subject(adapter), bench.prompts, observation, bench.reference)


def test_base_that_does_not_fit_has_no_reference(bench):
    needed = memory_needed(bench.folder)

    assert 1e6 < needed < 1e8
    with pytest.raises(ReferenceUnavailableError, match="GiB") as caught:
        Reference(bench.folder, bench.config, available_bytes=needed - 1)
    assert "by modules" in (caught.value.hint or "")


def test_folder_that_transformers_cannot_load_has_no_reference(tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="transformers cannot load"):
        Reference(tmp_path, {}, available_bytes=2**30)


def test_without_an_engine_the_proof_is_by_modules(bench, adapter):
    proof = prove(bench.subject(adapter), bench.prompts, None)

    assert proof.kind is ProofKind.MODULES
    assert proof.passed
    assert "the engine did not run" in proof.verdict.findings


def test_quantised_base_is_proven_by_modules_beside_the_engine(bench, adapter):
    subject = replace(bench.subject(adapter), config={**bench.config, "quantization_config": {"quant_method": "mxfp4"}})

    proof = prove(subject, bench.prompts, bench.observe(adapter))

    assert proof.kind is ProofKind.MODULES
    assert proof.passed, proof.verdict.reasons
    assert proof.verdict.effect is not None
    assert "quantised" in (proof.measured.without_reference or "")


def test_module_without_a_place_in_transformers_is_proven_by_modules_and_the_proof_says_why(
    bench, adapter, monkeypatch
):
    observation = bench.observe(adapter)
    monkeypatch.setattr(Reference, "_name", refusing)

    proof = prove(bench.subject(adapter), bench.prompts, observation)

    assert proof.kind is ProofKind.MODULES
    assert "no reference: nowhere" in proof.verdict.findings


def test_module_effects_are_relative_where_the_base_can_be_read(bench, adapter):
    found = list(module_effects(read_pieces(adapter, bench.config), bench.folder))

    assert all(piece.how is How.MODULE for piece in found)
    assert all(piece.relative is not None and 0.001 < piece.relative < 100 for piece in found)


def test_module_effects_are_absolute_where_it_cannot(bench, adapter, tmp_path):
    found = list(module_effects(read_pieces(adapter, bench.config), tmp_path))

    assert all(piece.relative is None and piece.effect > 0 for piece in found)


def test_experts_that_the_prompts_miss_are_measured_on_further_tokens(bench, adapter):
    few = replace(bench, prompts=PromptSet(Source.RANDOM, (bench.prompts.rows[0][:2],)))

    proof = prove_with_reference(few.subject(adapter), few.prompts, few.observe(adapter), few.reference)

    elsewhere = [piece for piece in proof.measured.pieces if piece.is_elsewhere]
    assert proof.passed, proof.verdict.reasons
    assert elsewhere
    assert all(".experts." in piece.module and piece.effect > 0.01 for piece in elsewhere)
    assert proof.verdict.resolved == len(proof.measured.pieces) - len(elsewhere)


def test_experts_that_nothing_reaches_are_measured_by_their_module(bench, adapter, monkeypatch):
    monkeypatch.setattr("loractl.proof.proving._FURTHER_ROUNDS", 0)
    few = replace(bench, prompts=PromptSet(Source.RANDOM, (bench.prompts.rows[0][:2],)))

    proof = prove_with_reference(few.subject(adapter), few.prompts, few.observe(adapter), few.reference)

    assert proof.passed, proof.verdict.reasons
    assert {piece.how for piece in proof.measured.pieces} == {How.LEAVE_ONE_OUT, How.MODULE}
    assert "reached by no prompt" in " ".join(proof.verdict.findings)


def test_proof_that_would_take_too_long_goes_by_a_gradient(bench, adapter):
    proof = prove_with_reference(
        bench.subject(adapter), bench.prompts, bench.observe(adapter), bench.reference, budget_s=0
    )

    assert proof.passed, proof.verdict.reasons
    assert {piece.how for piece in proof.measured.pieces} == {How.GRADIENT}
    assert proof.verdict.resolved == 0
