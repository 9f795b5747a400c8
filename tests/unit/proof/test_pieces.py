"""Pieces and their places are those that PEFT computes with."""

from __future__ import annotations

import warnings

import pytest
from support.engine import ATTENTION, peft_adapter, per_expert_adapter
from unit.proof.fixtures import GOOD, write

from loractl.proof.pieces import read_pieces
from loractl.proof.readings import Reading, differences, largest
from loractl.proof.reference_side import Reference
from loractl.proof.verdict import FP32_UNIT, TOLERANCE_FACTOR


def reading_of(model, rows, ids):
    """Read a model of transformers as a reference reads its own."""
    other = object.__new__(Reference)
    other._model = model
    return other.read(rows, ids)


def read_with_tolerance(bench, rows, ids):
    """Read, and say how far another implementation in fp32 may be from that, by the verdict's own rule."""
    reading = bench.reference.read(rows, ids)
    rounded = bench.reference.read_rounded(rows, ids, FP32_UNIT)
    return reading, TOLERANCE_FACTOR * largest(differences(reading, rounded))


@pytest.mark.parametrize("experts", [True, False], ids=["attention-and-fused-experts", "attention"])
def test_merged_reference_is_what_peft_merges(experts, bench, tmp_path):
    built = peft_adapter(bench.folder, tmp_path / "peft", seed=3, modules=ATTENTION, experts=experts)
    rows = bench.prompts.rows
    ids = bench.reference.likeliest(rows)
    base = bench.reference.read(rows, ids)

    with bench.reference.merged(list(read_pieces(built.path, bench.config))):
        merged, tolerance = read_with_tolerance(bench, rows, ids)

    assert largest(differences(merged, base)) > 0.1
    assert largest(differences(merged, reading_of(built.merged, rows, ids))) < tolerance


@pytest.mark.parametrize("name", ["rslora-3d", "alpha-pattern", "embeddings", "one-layer"])
def test_merged_reference_is_what_peft_makes_of_the_same_files(name, bench, tmp_path):
    from peft import PeftModel
    from support.engine import load_base

    fixture = next(fixture for fixture in GOOD if fixture.name == name)
    if bench.kind not in fixture.bases:
        pytest.skip("needs a base that takes embeddings")
    changes = {"target_modules": [each for each in fixture.only if each != "experts"]}
    if "experts" in fixture.only:
        changes["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    folder = write(fixture, bench.config, tmp_path / name, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = PeftModel.from_pretrained(load_base(bench.folder), folder).eval()
    rows = bench.prompts.rows
    ids = bench.reference.likeliest(rows)

    with bench.reference.merged(list(read_pieces(folder, bench.config))):
        merged, tolerance = read_with_tolerance(bench, rows, ids)

    assert largest(differences(merged, reading_of(peft, rows, ids))) < tolerance


def test_one_pair_an_expert_is_what_was_merged(bench, tmp_path):
    if bench.kind != "qwen3moe":
        pytest.skip("needs a base that takes one pair an expert")
    built = per_expert_adapter(bench.folder, tmp_path / "adapter", seed=4)
    rows = bench.prompts.rows
    ids = bench.reference.likeliest(rows)

    with bench.reference.merged(list(read_pieces(built.path, bench.config))):
        merged, tolerance = read_with_tolerance(bench, rows, ids)

    assert largest(differences(merged, reading_of(built.merged, rows, ids))) < tolerance


def test_weights_are_bitwise_as_before_when_an_adapter_is_taken_out(bench, tmp_path):
    fixture = next(fixture for fixture in GOOD if fixture.name == "all-3d")
    pieces = list(read_pieces(write(fixture, bench.config, tmp_path / "adapter"), bench.config))
    rows = bench.prompts.rows
    ids = bench.reference.likeliest(rows)
    before = bench.reference.read(rows, ids)

    with bench.reference.merged(pieces):
        merged = bench.reference.read(rows, ids)
        assert bench.reference.leave_one_out(pieces, rows, ids, budget_s=60)
        assert bench.reference.read(rows, ids) == merged
    bench.reference.read_rounded(rows, ids, 0.01)

    assert bench.reference.read(rows, ids) == before


def test_gradients_find_the_same_pieces_silent_as_leaving_them_out(bench, tmp_path):
    fixture = next(fixture for fixture in GOOD if fixture.name == "all-3d")
    pieces = list(read_pieces(write(fixture, bench.config, tmp_path / "adapter"), bench.config))
    rows = bench.prompts.rows[:1]
    ids = bench.reference.likeliest(rows)

    with bench.reference.merged(pieces):
        left_out = bench.reference.leave_one_out(pieces, rows, ids, budget_s=60)
        slopes = bench.reference.gradients(pieces, rows, ids)

    assert bench.reference.leave_one_out(pieces, rows, ids, budget_s=0) is None
    assert {name for name, effect in left_out.items() if effect == 0} == {n for n, e in slopes.items() if e == 0}
    assert any(effect > 0 for effect in slopes.values())


def test_names_of_pieces_do_not_depend_on_the_layout(bench, tmp_path):
    if bench.kind != "qwen3moe":
        pytest.skip("needs a base that takes both layouts")
    found = [
        {piece.name for piece in read_pieces(write(fixture, bench.config, tmp_path / fixture.name), bench.config)}
        for fixture in GOOD
        if fixture.name in ("experts-2d", "experts-3d")
    ]

    assert found[0] == found[1]
    assert len(found[0]) == 2 * 8 * 3


def test_difference_is_infinite_where_a_number_is_none():
    nan = Reading((({1: float("nan")},),))

    assert differences(nan, Reading((({1: 0.0},),))) == (float("inf"),)


def test_difference_of_lists_without_a_common_token_is_the_least_it_can_be():
    one, other = Reading((({1: -0.5, 2: -3.0},),)), Reading((({3: -0.25, 4: -2.5},),))

    assert differences(one, other) == (2.0,)
