"""Every known way of having no effect is stopped, by preflight or by the proof, and every good adapter passes."""

from __future__ import annotations

import pytest
from unit.proof.conftest import at_scale, only_where
from unit.proof.fixtures import GOOD, NO_OPS, RANK, Caught, Fixture, for_base, write

from loractl.proof import ProofKind, prove_modules, prove_with_reference
from loractl_registry.file_errors import AdapterConfigError
from loractl_registry.preflight import PreflightRefusedError, check_stored

KINDS = ("qwen3moe", "gptoss")


def on_bases(fixtures, *caught: Caught):
    """Parametrize over the bases and those of their fixtures that are to be caught so."""
    return pytest.mark.parametrize(
        ("bench", "fixture"),
        [
            pytest.param(kind, fixture, id=f"{kind}-{fixture.name}")
            for kind in KINDS
            for fixture in for_base(fixtures, kind)
            if fixture.caught in caught
        ],
        indirect=["bench"],
    )


def made(fixture: Fixture, bench, tmp_path):
    return write(fixture, bench.config, tmp_path / fixture.name)


def proven(bench, adapter, **mistake):
    return prove_with_reference(
        bench.subject(adapter), bench.prompts, bench.observe(adapter, **mistake), bench.reference
    )


@on_bases(GOOD, Caught.NOWHERE)
def test_good_adapter_passes_preflight_and_both_proofs(bench, fixture, tmp_path):
    adapter = made(fixture, bench, tmp_path)

    report = check_stored(adapter, bench.config)
    whole = proven(bench, adapter)
    modules = prove_modules(bench.subject(adapter), bench.prompts, None)

    assert report.findings == ()
    assert whole.passed, whole.verdict.reasons
    assert whole.kind is ProofKind.ENGINE_AND_REFERENCE
    assert modules.passed, modules.verdict.reasons
    assert modules.kind is ProofKind.MODULES
    assert {piece.module for piece in whole.measured.pieces} == {piece.module for piece in modules.measured.pieces}


@on_bases(NO_OPS, Caught.CONFIG)
def test_no_op_by_its_config_is_never_taken_in(bench, fixture, tmp_path):
    with pytest.raises(AdapterConfigError, match=fixture.reason):
        check_stored(made(fixture, bench, tmp_path), bench.config)


@on_bases(NO_OPS, Caught.PREFLIGHT)
def test_no_op_by_its_names_or_values_is_stopped_by_preflight(bench, fixture, tmp_path):
    with pytest.raises(PreflightRefusedError) as caught:
        check_stored(made(fixture, bench, tmp_path), bench.config)

    assert fixture.reason in str(caught.value)


@on_bases(NO_OPS, Caught.PROOF)
def test_no_op_that_passes_preflight_is_stopped_by_both_proofs(bench, fixture, tmp_path):
    adapter = made(fixture, bench, tmp_path)
    check_stored(adapter, bench.config)

    whole = proven(bench, adapter)
    modules = prove_modules(bench.subject(adapter), bench.prompts, None)

    assert not whole.passed
    assert fixture.reason in " ".join(whole.verdict.reasons)
    assert not modules.passed
    assert "move nothing" in " ".join(modules.verdict.reasons)


MISTAKES = {
    "drops-everything": (only_where(lambda piece: False), "loads and does nothing"),
    "drops-experts": (only_where(lambda piece: piece.place.expert is None), "differ"),
    "drops-attention": (only_where(lambda piece: piece.place.expert is not None), "differ"),
    "drops-one-expert": (only_where(lambda piece: piece.place.expert != 5), "differ"),
    "drops-every-up": (only_where(lambda piece: piece.place.projection != "up"), "differ"),
    "drops-one-layer": (only_where(lambda piece: "layers.1" not in piece.name), "differ"),
    "drops-one-pair": (only_where(lambda piece: piece.name != "model.layers.1.self_attn.k_proj"), "differ"),
    "scales-without-the-root": (at_scale(RANK**-0.5), "differ"),
    "doubles-the-scale": (at_scale(2), "differ"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_good_adapter_in_an_engine_that_misreads_it_is_stopped(mistake, bench, tmp_path):
    misread, reason = MISTAKES[mistake]
    rslora = next(fixture for fixture in GOOD if fixture.name == "rslora-3d")

    proof = proven(bench, made(rslora, bench, tmp_path), misread=misread)

    assert not proof.passed
    assert reason in " ".join(proof.verdict.reasons)


def test_every_pair_of_a_good_adapter_is_told_apart_in_the_engine(bench, tmp_path):
    fixture = next(fixture for fixture in GOOD if fixture.name == "all-3d")

    proof = proven(bench, made(fixture, bench, tmp_path))

    assert proof.verdict.resolved == len(proof.measured.pieces) == 2 * (4 + 3 * 8)
    assert proof.verdict.findings == ()
