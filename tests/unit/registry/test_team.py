"""Preset team from add to live, and what denies where one fact is missing."""

import json
import sys

import pytest
from support.evidence import LM_EVAL, Team, effect_proof
from support.registry import write_adapter, write_base

from loractl_registry import Ref, Stage
from loractl_registry.evidence import EvidenceType
from loractl_registry.ledger import facts
from loractl_registry.ledger.errors import QuarantinedError
from loractl_registry.policies import preset_text
from loractl_registry.provenance import ProvenanceInput
from loractl_registry.records import DataSetTerms
from loractl_registry.refusals import PolicyDeniedError, SelfApprovalError
from loractl_registry.trust import parse_statement
from loractl_registry.trust.envelope import unverified_payload
from loractl_registry.trust.statements import PAYLOAD_TYPE

BOT = Ref("bot", 1)
CLEAN, DIRTY = (sys.executable, "-c", "print('clean')"), (sys.executable, "-c", "raise SystemExit('a pickle')")
ON_TICKETS = ProvenanceInput(datasets=(DataSetTerms("tickets", "MIT", "internal"),))
STRICTER = {
    "# engines": "engines",
    "# data_licences": "data_licences",
    "# max_data_class": "max_data_class",
    "# metrics": "metrics",
    '{ "mmlu/acc" = { min = 0.60 }, toxicity = { max = 0.05 } }': '{ "mmlu/acc" = { min = 0.60 } }',
    '["cc-by-4.0", "mit"]          # every': '["cc-by-4.0", "mit"] # every',
    "# [adapter.data]": "[adapter.data]",
    "# classes": "classes",
    "#\n# [adapter.data.tenants]": "\n[adapter.data.tenants]",
    '# public = ["*"]': 'public = ["*"]',
    '# internal = ["acme-*"]': 'internal = ["acme-*"]',
}


def stricter():
    """The preset team with everything that it only suggests."""
    text = preset_text("team").decode()
    for old, new in STRICTER.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


class Steps:
    """What a team does between add and live; a test leaves one out."""

    def __init__(self, team, tmp_path):
        self.team, self.tmp_path = team, tmp_path

    def add(self, *, by="carl", rank=4, said=ON_TICKETS):
        folder = write_adapter(self.tmp_path / "adapter", rank=rank)
        return self.team.of(by).add("bot", str(folder), actor=by, base="tiny-moe", provenance=said).version

    def scan(self, command=CLEAN):
        return self.team.of("carl").evidence.scan(BOT, command, actor="carl")

    def prove(self, *, passed=True):
        carl = self.team.of("carl")
        proof = effect_proof(carl.version(BOT), passed=passed)
        return carl.evidence.add_effect(BOT, proof, actor="carl")

    def evaluate(self, results=LM_EVAL):
        (self.tmp_path / "results.json").write_text(json.dumps(results))
        carl = self.team.of("carl")
        return carl.evidence.add(BOT, self.tmp_path / "results.json", EvidenceType.EVAL, actor="carl")

    def to(self, stage, *, by):
        return self.team.of(by).promote(BOT, actor=by, to=stage)

    def approve(self, *, by="rita"):
        return self.team.of(by).approve(BOT, actor=by, reason="read it")

    def everything(self, *without, **changes):
        """Do every step up to approved but those named."""
        self.add(**changes.get("add", {}))
        self.to(Stage.CANDIDATE, by="carl")
        for name in ("scan", "prove", "evaluate", "approve"):
            if name not in without:
                getattr(self, name)(**changes.get(name, {}))
        return self.to(Stage.APPROVED, by="rita")


@pytest.fixture
def team(home, clock, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "installed_engine", lambda: "0.32.0")
    made = Team(home, clock)
    made.enrol("olga", "operator")
    made.enrol("carl", "contributor")
    made.enrol("rita", "reviewer")
    made.of("olga").add_base("tiny-moe", str(write_base(tmp_path / "base")), actor="olga", licence="apache-2.0")
    (home / "policy.toml").write_text(stricter())
    yield made
    made.close()


@pytest.fixture
def steps(team, tmp_path):
    return Steps(team, tmp_path)


def test_team_takes_a_version_from_add_to_live(team, steps):
    approved = steps.everything()
    live = steps.to(Stage.LIVE, by="olga")

    snapshot = team.of("olga").snapshot("tiny-moe")
    assert (approved.entered, live.entered) == ((Stage.APPROVED,), (Stage.LIVE,))
    assert [str(version.ref) for version in snapshot.versions] == ["bot@1"]
    assert (snapshot.refused, team.of("olga").identities.verify().problems) == ({}, ())


def test_promotion_binds_what_it_was_decided_on(team, steps):
    steps.everything()

    registry = team.of("olga")
    with registry._context.database.reading() as connection:
        rows = connection.execute("SELECT kind, envelope FROM statement ORDER BY sequence").fetchall()
    said = [(kind, parse_statement(unverified_payload(envelope.encode(), PAYLOAD_TYPE))) for kind, envelope in rows]
    approval = next(one for kind, one in said if kind == "approval")
    promotion = [one for kind, one in said if kind == "promotion"][-1]
    evidence = {one.digest for one in registry.evidence.select(BOT)}
    signatures = {one.digest for one in registry.file_signatures(BOT)}
    for one in (approval, promotion):
        assert evidence | signatures <= set(one.predicate.evidence)
        assert (one.predicate.tenants, one.predicate.data_classes) == (("acme-*",), ("internal",))


@pytest.mark.parametrize(
    ("without", "changes", "rule"),
    [
        pytest.param(("scan",), {}, r"there is no scan.*evidence", id="no-scan"),
        pytest.param(("prove",), {}, r"there is no effect.*evidence", id="no-effect"),
        pytest.param((), {"prove": {"passed": False}}, r"no effect meets it.*evidence", id="effect-that-failed"),
        pytest.param(("evaluate",), {}, r"there is no eval.*evidence", id="no-eval"),
        pytest.param(
            (),
            {"evaluate": {"results": {"mmlu/acc": 0.5}}},
            r"no eval meets it.*mmlu/acc at least 0\.6",
            id="low-metric",
        ),
        pytest.param(
            (), {"evaluate": {"results": {"arc/acc": 0.9}}}, r"no eval meets it.*mmlu/acc", id="another-metric"
        ),
        pytest.param(("approve",), {}, r"0 of 1 count.*adapter\.approved\.approvals", id="no-approval"),
        pytest.param(
            (),
            {"add": {"said": ProvenanceInput(datasets=(DataSetTerms("tickets", None, "internal"),))}},
            r"tickets has none of them.*adapter\.approved\.data_licences",
            id="no-licence-of-the-data",
        ),
        pytest.param(
            (),
            {"add": {"said": ProvenanceInput(datasets=(DataSetTerms("tickets", "MIT", "confidential"),))}},
            r"tickets has none of them.*adapter\.approved\.max_data_class",
            id="data-class-too-high",
        ),
    ],
)
def test_missing_fact_denies_approved_and_names_the_rule(team, steps, without, changes, rule):
    with pytest.raises(PolicyDeniedError, match=rule):
        steps.everything(*without, **changes)

    assert team.of("olga").version(BOT).stage is Stage.CANDIDATE


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        pytest.param({"rank": 257}, r"257 is more than 256.*adapter\.candidate\.max_rank", id="rank"),
        pytest.param(
            {"said": ProvenanceInput(datasets=(DataSetTerms("tickets", "MIT"),))},
            r"tickets has none of them.*adapter\.data\.classes",
            id="no-class",
        ),
        pytest.param({"said": ProvenanceInput()}, r"nobody said what it was trained on.*data", id="no-data"),
    ],
)
def test_missing_fact_denies_candidate_and_names_the_rule(team, steps, changes, rule):
    steps.add(**changes)

    with pytest.raises(PolicyDeniedError, match=rule):
        steps.to(Stage.CANDIDATE, by="carl")


def test_signature_of_a_revoked_key_denies(team, steps):
    steps.add()
    team.of("olga").identities.revoke("carl", actor="olga", reason="left")

    with pytest.raises(PolicyDeniedError, match=r"0 of 1 count.*adapter\.candidate\.signatures"):
        steps.to(Stage.CANDIDATE, by="rita")


def test_evidence_of_a_revoked_key_counts_for_nothing(team, steps):
    steps.add()
    steps.to(Stage.CANDIDATE, by="carl")
    for step in (steps.scan, steps.prove, steps.evaluate, steps.approve):
        step()
    team.of("olga").identities.revoke("carl", actor="olga", reason="left")

    with pytest.raises(PolicyDeniedError):
        steps.to(Stage.APPROVED, by="rita")
    assert [one.is_counted for one in team.of("olga").evidence.select(BOT)] == [False, False, False]


@pytest.mark.parametrize("engine", [None, "0.31.9"])
def test_engine_that_the_policy_does_not_name_denies(team, steps, monkeypatch, engine):
    monkeypatch.setattr(facts, "installed_engine", lambda: engine)
    steps.add()

    with pytest.raises(PolicyDeniedError, match=r"base\.engines"):
        steps.to(Stage.CANDIDATE, by="carl")


def test_scan_that_failed_quarantines_until_one_passes(team, steps):
    steps.add()
    steps.to(Stage.CANDIDATE, by="carl")
    for step in (steps.scan, steps.prove, steps.evaluate, steps.approve):
        step()
    failed = steps.scan(DIRTY)

    with pytest.raises(QuarantinedError, match="bot@1 is in quarantine"):
        steps.to(Stage.APPROVED, by="rita")
    lifted = steps.scan()

    assert (failed.is_quarantined, failed.is_served, lifted.is_quarantined) == (True, False, False)
    assert steps.to(Stage.APPROVED, by="rita").entered == (Stage.APPROVED,)


def test_scan_that_failed_leaves_what_is_served_and_says_so(team, steps):
    steps.everything()
    failed = steps.scan(DIRTY)

    with pytest.raises(QuarantinedError):
        steps.to(Stage.LIVE, by="olga")

    assert (failed.is_quarantined, failed.is_served) == (True, True)
    assert [str(version.ref) for version in team.of("olga").snapshot("tiny-moe").versions] == ["bot@1"]


@pytest.mark.parametrize(("name", "role"), [("carl", "contributor"), ("otto", "operator"), ("sam", "auditor")])
def test_role_that_the_rung_does_not_name_is_denied(team, steps, name, role):
    if name != "carl":
        team.enrol(name, role)
    with pytest.raises(PolicyDeniedError):
        steps.everything("approve")
    steps.approve()

    with pytest.raises(PolicyDeniedError, match=rf"does not name {name} .*adapter\.approved\.by"):
        steps.to(Stage.APPROVED, by=name)
    steps.to(Stage.APPROVED, by="rita")
    with pytest.raises(PolicyDeniedError, match=r"does not name rita .*adapter\.live\.by"):
        steps.to(Stage.LIVE, by="rita")


def test_who_added_a_version_does_not_approve_it_whatever_roles_they_have(team, steps):
    team.enrol("max", "contributor", "reviewer")
    steps.add(by="max")
    steps.to(Stage.CANDIDATE, by="max")

    with pytest.raises(SelfApprovalError, match="max added it"):
        steps.approve(by="max")
