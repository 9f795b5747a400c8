"""The rules, one at a time, on numbers by hand."""

from __future__ import annotations

import pytest
from unit.proof.conftest import ADAPTER, BASE, FACTS

from loractl.proof.record import How, Measured, PieceEffect, PromptNumbers, ProofKind
from loractl.proof.verdict import EFFECT_FACTOR, FP32_UNIT, MODULE_FLOOR, PIECE_FACTOR, TOLERANCE_FACTOR, judge

SCALE, SENSITIVITY, NOISE = 16.0, 1e-5, 2e-6
GOOD = {
    "engine_effect": 2.0,
    "engine_noise": NOISE,
    "reference_effect": 2.0,
    "disagreement": 1e-5,
    "base_disagreement": 1e-5,
    "typical_effect": 1.0,
    "typical_disagreement": 1e-6,
}
WEAK = PromptNumbers(tokens=4, **dict.fromkeys(GOOD, 0.0))


def numbers(**changes):
    return PromptNumbers(tokens=9, **(GOOD | changes))


def piece(effect=0.5, **changes):
    return PieceEffect(**({"module": "q_proj", "effect": effect, "how": How.LEAVE_ONE_OUT} | changes))


def measured(*, prompts=(), pieces=(), **changes):
    values = {
        "kind": ProofKind.ENGINE_AND_REFERENCE,
        "adapter_digest": ADAPTER,
        "base_digest": BASE,
        "prompts_digest": BASE,
        "prompts_source": "generic",
        "engine": FACTS,
        "reference": "transformers",
        "reference_noise": NOISE,
        "sensitivity": SENSITIVITY,
        "logit_scale": SCALE,
        "hidden_size": 64,
        "layers": 2,
        "prompts": tuple(prompts) or (numbers(), WEAK),
        "pieces": tuple(pieces) or (piece(),),
    }
    return Measured(**(values | changes))


def reasons(**changes):
    return " ".join(judge(measured(**changes)).reasons)


def test_good_numbers_pass_without_a_finding():
    verdict = judge(measured())

    assert verdict.passed
    assert verdict.findings == ()
    assert (verdict.effect, verdict.disagreement, verdict.resolved) == (2.0, 1e-5, 1)
    assert verdict.noise == pytest.approx(NOISE)
    assert verdict.tolerance == pytest.approx(TOLERANCE_FACTOR * SENSITIVITY)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"engine_effect": EFFECT_FACTOR * NOISE}, "loads and does nothing", id="engine-effect-in-noise"),
        pytest.param({"reference_effect": EFFECT_FACTOR * NOISE}, "has no effect", id="reference-effect-in-noise"),
        pytest.param({"engine_noise": 0.3}, "loads and does nothing", id="noise-as-large-as-the-effect"),
        pytest.param({"disagreement": 9e-5}, "with the adapter, more than 8e-05", id="disagreement"),
        pytest.param({"base_disagreement": 9e-5}, "on the base itself", id="disagreement-on-the-base"),
    ],
)
def test_one_broken_rule_is_the_reason(changes, reason):
    assert reason in reasons(prompts=[numbers(**changes)])


def test_noise_is_never_less_than_one_rounding_of_the_largest_logit():
    verdict = judge(measured(prompts=[numbers(engine_noise=0.0)]))

    assert verdict.noise == pytest.approx(SCALE * FP32_UNIT, rel=1e-5)


def test_effect_on_one_prompt_is_enough():
    assert judge(measured(prompts=[WEAK, WEAK, numbers()])).passed


def test_wide_tolerance_does_not_let_the_base_pass_for_the_adapter():
    dropped = numbers(disagreement=2.0, typical_disagreement=1.0)

    assert "typically differ" in reasons(prompts=[dropped], sensitivity=1.0)


def test_coarse_dtype_goes_by_medians_and_says_so():
    flipped = numbers(disagreement=1.9, typical_disagreement=0.1)

    verdict = judge(measured(prompts=[flipped], sensitivity=1.0))

    assert verdict.passed, verdict.reasons
    assert "coarse" in verdict.findings[0]
    assert verdict.resolved == 0


@pytest.mark.parametrize(
    ("device", "dtype", "unit"), [("cuda", "float32", -11), ("cpu", "bfloat16", -8), ("cuda", "float16", -11)]
)
def test_tolerance_is_at_least_some_roundings_of_the_largest_logit(device, dtype, unit):
    engine = FACTS.model_copy(update={"device": device, "dtype": dtype})

    verdict = judge(measured(engine=engine, sensitivity=0.0))

    assert verdict.tolerance == pytest.approx(TOLERANCE_FACTOR * SCALE * 2.0**unit)


@pytest.mark.parametrize(
    ("silent", "name"),
    [
        (piece(PIECE_FACTOR * NOISE), "q_proj"),
        (piece(0.0), "q_proj"),
        (piece(0.0, is_zero=True, how=How.MODULE), "q_proj"),
        (piece(MODULE_FLOOR, how=How.MODULE), "q_proj"),
        (piece(1.0, how=How.MODULE, relative=MODULE_FLOOR), "q_proj"),
    ],
    ids=["in-noise", "nothing", "zero", "module-nothing", "module-relative-nothing"],
)
def test_one_silent_piece_is_a_reason_that_names_it(silent, name):
    found = reasons(pieces=[piece(module="k_proj"), silent])

    assert "1 of 2 pairs move nothing" in found
    assert name in found


def test_no_pieces_at_all_is_a_reason():
    values = measured()

    assert "no piece" in judge(values.model_copy(update={"pieces": ()})).reasons[0]


def test_missing_side_is_a_reason():
    assert "did not run" in reasons(prompts=[PromptNumbers(tokens=3)])


def test_pieces_that_no_prompt_reached_are_findings():
    pieces = [piece(), piece(is_elsewhere=True), piece(1.0, how=How.MODULE), piece(1e-5)]

    verdict = judge(measured(pieces=pieces))

    assert verdict.passed
    assert [finding.split(" pairs ")[1].split(":")[0] for finding in verdict.findings] == [
        "were reached by other prompts alone",
        "were reached by no prompt",
        "weigh too little to be told apart in the engine alone",
    ]
    assert verdict.resolved == 1


def test_proof_by_modules_says_what_it_is():
    pieces = [piece(1.0, how=How.MODULE)]
    alone = {"reference": None, "reference_noise": None, "sensitivity": None, "logit_scale": None, "engine": None}

    verdict = judge(measured(kind=ProofKind.MODULES, pieces=pieces, **alone).model_copy(update={"prompts": ()}))

    assert verdict.passed
    assert "nothing was merged" in verdict.findings[0]
    assert verdict.findings[1] == "the engine did not run"
    assert (verdict.noise, verdict.tolerance, verdict.effect) == (None, None, None)


def test_proof_by_modules_still_needs_the_engine_to_move_if_it_ran():
    none = {"reference": None, "reference_noise": None, "sensitivity": None}
    prompts = [PromptNumbers(tokens=3, engine_effect=1e-6, engine_noise=1e-6)]

    found = reasons(kind=ProofKind.MODULES, prompts=prompts, pieces=[piece(1.0, how=How.MODULE)], **none)

    assert "loads and does nothing" in found
