"""Requests and policies that the tests of policies share."""

from datetime import UTC, datetime, timedelta

from loractl_registry.policies import (
    Approval,
    BaseFacts,
    DataSet,
    Evidence,
    PolicyFileError,
    Request,
    Signature,
    evaluate,
    parse_policy,
)
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
CONTRIBUTOR, REVIEWER, OPERATOR = (frozenset({role}) for role in ("contributor", "reviewer", "operator"))
BASE = BaseFacts("oss", "sha256:ba5e", "apache-2.0", "hf:openai/gpt-oss-20b@" + "a" * 40)
DATA = (DataSet("tickets", "MIT", "internal"), DataSet("wiki", "CC-BY-4.0", "public"))
GOOD_EVIDENCE = (
    Evidence("effect", "sha256:e1", passed=True),
    Evidence("scan", "sha256:e2", passed=True),
    Evidence("eval", "sha256:e3", kind="lm-eval", metrics={"acc": 0.7, "toxicity": 0.01}),
)


def ago(**age):
    return NOW - timedelta(**age)


def approval(identity="rita", roles=REVIEWER, at=NOW):
    return Approval(identity, at, roles, "read it")


def request(stage=Stage.LIVE, **facts):
    """A request that the preset `team` allows, but for what `facts` say."""
    held = {
        "actor": {Stage.APPROVED: "rita", Stage.LIVE: "olga"}.get(stage, "carl"),
        "roles": {Stage.APPROVED: REVIEWER, Stage.LIVE: OPERATOR}.get(stage, CONTRIBUTOR),
        "now": NOW,
        "added_by": "carl",
        "rank": 16,
        "size_bytes": 2**20,
        "base": BASE,
        "engine": "0.32.0",
        "data": DATA,
        "signatures": (Signature("carl", is_verified=True, roles=CONTRIBUTOR),),
        "approvals": (approval(),),
        "evidence": GOOD_EVIDENCE,
    }
    return Request(VersionRef("bot", 3), "sha256:b07", stage, **{**held, **facts})


def rung_policy(rules, *, also=""):
    """A policy whose rung for candidate has `rules`, from line 4 on."""
    text = f'base.by = ["anyone"]\n[adapter.candidate]\nby = ["anyone"]\n{rules}\n{also}'
    return parse_policy(text.encode())


def decide(rules, *, also="", **facts):
    return evaluate(rung_policy(rules, also=also), request(Stage.CANDIDATE, **facts))


def denied_rules(decision):
    return [finding.rule for finding in decision.denials]


def problems_of(text):
    data = text if isinstance(text, bytes) else text.encode()
    try:
        parse_policy(data)
    except PolicyFileError as error:
        return error.problems
    return ()
