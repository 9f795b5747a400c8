"""What the shipped policies allow, case by case."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest
from unit.policies.policy_facts import (
    BASE,
    CONTRIBUTOR,
    GOOD_EVIDENCE,
    NOW,
    OPERATOR,
    REVIEWER,
    ago,
    approval,
    denied_rules,
    request,
)

from loractl_registry.policies import (
    PRESETS,
    BaseRequest,
    PresetNotFoundError,
    Request,
    evaluate,
    evaluate_base,
    parse_policy,
    preset,
    preset_text,
)
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

RUNGS = (Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE)


@pytest.mark.parametrize("stage", Stage)
def test_solo_is_what_one_person_could_do_before(stage):
    bare = Request(VersionRef("bot", 1), "sha256:0", stage, "ada", NOW, added_by="ada")

    decision = evaluate(preset("solo"), bare)

    assert decision.allowed is (stage in RUNGS)
    assert decision.expires is None


def test_solo_admits_any_base_and_asks_no_tenant():
    assert evaluate_base(preset("solo"), BaseRequest(BASE, "ada")).allowed
    assert evaluate(preset("solo"), request(tenant="anybody", data=())).allowed


@pytest.mark.parametrize("stage", RUNGS)
def test_team_allows_what_has_everything(stage):
    decision = evaluate(preset("team"), request(stage))

    assert decision.allowed, decision.denials
    assert decision.expires == (None if stage is Stage.CANDIDATE else NOW + timedelta(days=180))


@pytest.mark.parametrize(
    ("stage", "facts", "denied"),
    [
        (Stage.CANDIDATE, {"roles": frozenset()}, "adapter.candidate.by"),
        (Stage.CANDIDATE, {"roles": frozenset({"auditor"})}, "adapter.candidate.by"),
        (Stage.CANDIDATE, {"signatures": ()}, "adapter.candidate.signatures"),
        (Stage.CANDIDATE, {"rank": 512}, "adapter.candidate.max_rank"),
        (Stage.CANDIDATE, {"size_bytes": 9 * 2**30}, "adapter.candidate.max_size_mib"),
        (Stage.APPROVED, {"actor": "carl", "roles": CONTRIBUTOR}, "adapter.approved.by"),
        (Stage.APPROVED, {"actor": "olga", "roles": OPERATOR}, "adapter.approved.by"),
        (Stage.APPROVED, {"approvals": ()}, "adapter.approved.approvals"),
        (Stage.APPROVED, {"approvals": (approval("olga", OPERATOR),)}, "adapter.approved.approvals"),
        (Stage.APPROVED, {"added_by": "rita"}, "adapter.approved.approvals"),
        (Stage.APPROVED, {"approvals": (approval(at=ago(days=180)),)}, "adapter.approved.approvals"),
        (Stage.APPROVED, {"evidence": GOOD_EVIDENCE[1:]}, "adapter.approved.evidence[0]"),
        (Stage.APPROVED, {"evidence": (GOOD_EVIDENCE[0], *GOOD_EVIDENCE[2:])}, "adapter.approved.evidence[1]"),
        (
            Stage.APPROVED,
            {"evidence": (*GOOD_EVIDENCE[::2], replace(GOOD_EVIDENCE[1], passed=False))},
            "adapter.approved.evidence[1]",
        ),
        (Stage.APPROVED, {"evidence": GOOD_EVIDENCE[:2]}, "adapter.approved.evidence[2]"),
        (Stage.APPROVED, {"signatures": ()}, "adapter.candidate.signatures"),
        (Stage.LIVE, {"actor": "rita", "roles": REVIEWER}, "adapter.live.by"),
        (Stage.LIVE, {"approvals": (approval(at=ago(days=200)),)}, "adapter.approved.approvals"),
        (Stage.LIVE, {"break_glass": "down", "roles": REVIEWER}, "adapter.break_glass.by"),
    ],
)
def test_team_denies_by_the_rule_that_is_not_met(stage, facts, denied):
    decision = evaluate(preset("team"), request(stage, **facts))

    assert denied_rules(decision) == [denied]
    key = denied.rpartition(".")[2].split("[")[0]
    assert key in preset_text("team").decode().splitlines()[decision.denials[0].line - 1]


def test_team_lets_an_operator_break_the_glass_for_a_day():
    decision = evaluate(preset("team"), request(approvals=(), evidence=(), break_glass="wrong answers since 02:00"))

    assert decision.allowed
    assert decision.expires == NOW + timedelta(hours=24)


def test_team_lets_operators_admit_bases():
    assert evaluate_base(preset("team"), BaseRequest(BASE, "olga", OPERATOR)).allowed
    assert not evaluate_base(preset("team"), BaseRequest(BASE, "rita", REVIEWER)).allowed


def test_team_is_parsed_and_evaluated_within_20_ms():
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        evaluate(preset("team"), request())
        times.append(time.perf_counter() - begun)

    assert min(times) < 0.020


@pytest.mark.parametrize("name", PRESETS)
def test_suggested_rules_of_a_preset_are_rules(name):
    lines = preset_text(name).decode().splitlines()
    at = next((n for n, line in enumerate(lines) if line == "# [adapter.data]"), len(lines))
    suggested = [line.removeprefix("# ") for line in lines[at:]]
    inline = [line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in lines[:at]]

    parse_policy("\n".join(inline + suggested).encode())


@pytest.mark.parametrize("name", ["", "lone", "../solo", "solo.toml"])
def test_unknown_preset_is_refused(name):
    with pytest.raises(PresetNotFoundError, match="no preset"):
        preset_text(name)
