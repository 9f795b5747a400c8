"""What each rule allows and denies, and until when."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from unit.policies.policy_facts import (
    BASE,
    CONTRIBUTOR,
    DATA,
    GOOD_EVIDENCE,
    NOW,
    OPERATOR,
    REVIEWER,
    ago,
    approval,
    decide,
    denied_rules,
    request,
    rung_policy,
)

from loractl_registry.policies import (
    BaseFacts,
    BaseRequest,
    DataSet,
    Evidence,
    Signature,
    Verdict,
    evaluate,
    evaluate_base,
    parse_policy,
)
from loractl_registry.stages import Stage

ONE_APPROVAL = 'approvals = { count = 1, by = ["role:reviewer"] }'
TWO_APPROVALS = 'approvals = { count = 2, by = ["role:reviewer", "olga"] }'
EVAL = '[[adapter.candidate.evidence]]\ntype = "eval"\n'
ACC = EVAL + 'kinds = ["lm-eval"]\nmetrics = { acc = { min = 0.6 }, loss = { max = 2 } }'
DATA_RULES = '[adapter.data.tenants]\npublic = ["*"]\ninternal = ["acme-*", "umbrella"]'
GLASS = '[adapter.break_glass]\nby = ["role:operator"]\nhours = 24'


def evaluation(metrics, kind="lm-eval", **more):
    return (Evidence("eval", "sha256:e", kind=kind, metrics=metrics, **more),)


def data(licence, data_class=None):
    return (DataSet("a", licence, data_class), DataSet("b", "MIT", "public"))


@pytest.mark.parametrize(
    ("rules", "facts", "is_allowed"),
    [
        pytest.param("max_rank = 16", {"rank": 16}, True, id="rank-at-the-cap"),
        pytest.param("max_rank = 16", {"rank": 17}, False, id="rank-above"),
        pytest.param("max_rank = 16", {"rank": None}, False, id="rank-unknown"),
        pytest.param("max_size_mib = 1", {"size_bytes": 2**20}, True, id="size-at-the-cap"),
        pytest.param("max_size_mib = 1", {"size_bytes": 2**20 + 1}, False, id="size-one-byte-above"),
        pytest.param("max_size_mib = 1", {"size_bytes": None}, False, id="size-unknown"),
        pytest.param('bases = ["oss"]', {}, True, id="base-by-name"),
        pytest.param('bases = ["sha256:ba5e"]', {}, True, id="base-by-digest"),
        pytest.param('bases = ["qwen"]', {}, False, id="other-base"),
        pytest.param('bases = ["oss"]', {"base": None}, False, id="base-unknown"),
        pytest.param('base_licences = ["Apache-2.0"]', {}, True, id="base-licence-in-any-case"),
        pytest.param('base_licences = ["mit"]', {}, False, id="base-licence-not-named"),
        pytest.param(
            'base_licences = ["mit"]', {"base": replace(BASE, licence=None)}, False, id="base-licence-unknown"
        ),
        pytest.param('base_licences = ["mit"]', {"base": None}, False, id="base-licence-of-no-base"),
        pytest.param('data_licences = ["mit", "cc-by-4.0"]', {}, True, id="data-licences"),
        pytest.param('data_licences = ["mit"]', {}, False, id="one-data-licence-not-named"),
        pytest.param('data_licences = ["mit"]', {"data": data(None)}, False, id="one-data-licence-unknown"),
        pytest.param('data_licences = ["mit"]', {"data": ()}, False, id="data-unknown"),
        pytest.param('max_data_class = "internal"', {}, True, id="class-at-the-cap"),
        pytest.param('max_data_class = "public"', {}, False, id="class-above"),
        pytest.param('max_data_class = "confidential"', {"data": data("MIT")}, False, id="class-unknown"),
        pytest.param('max_data_class = "confidential"', {"data": data("MIT", "secret")}, False, id="class-undefined"),
        pytest.param('max_data_class = "confidential"', {"data": ()}, False, id="no-data-no-class"),
        pytest.param('signatures = { count = 1, by = ["carl"] }', {}, True, id="signed"),
        pytest.param('signatures = { count = 1, by = ["anyone"] }', {"signatures": ()}, False, id="unsigned"),
        pytest.param(
            'signatures = { count = 1, by = ["anyone"] }',
            {"signatures": (Signature("carl", is_verified=False),)},
            False,
            id="signature-does-not-verify",
        ),
        pytest.param('signatures = { count = 1, by = ["role:operator"] }', {}, False, id="signed-by-another-role"),
        pytest.param(
            'signatures = { count = 2, by = ["role:contributor"] }',
            {"signatures": (Signature("carl", True, CONTRIBUTOR), Signature("CARL ", True, CONTRIBUTOR))},
            False,
            id="one-signer-twice",
        ),
        pytest.param(ONE_APPROVAL, {}, True, id="approved"),
        pytest.param(ONE_APPROVAL, {"approvals": ()}, False, id="not-approved"),
        pytest.param(ONE_APPROVAL, {"approvals": (approval(roles=OPERATOR),)}, False, id="approved-by-another-role"),
        pytest.param(ONE_APPROVAL, {"approvals": (approval(roles=frozenset()),)}, False, id="role-was-taken-away"),
        pytest.param(ONE_APPROVAL, {"approvals": (approval("carl"),)}, False, id="approved-by-who-added"),
        pytest.param(ONE_APPROVAL, {"approvals": (approval(" Carl"),)}, False, id="approved-by-who-added-in-disguise"),
        pytest.param(ONE_APPROVAL, {"added_by": None}, False, id="nobody-knows-who-added"),
        pytest.param(ONE_APPROVAL, {"added_by": ""}, False, id="who-added-is-empty"),
        pytest.param(
            'approvals = { count = 1, by = ["anyone"], four_eyes = false }',
            {"approvals": (approval("carl"),), "added_by": None},
            True,
            id="two-eyes",
        ),
        pytest.param(TWO_APPROVALS, {"approvals": (approval(), approval("olga", OPERATOR))}, True, id="two-approvals"),
        pytest.param(TWO_APPROVALS, {"approvals": (approval(), approval("RITA"))}, False, id="one-person-twice"),
        pytest.param(ONE_APPROVAL, {"approvals": (approval(at=NOW + timedelta(minutes=2)),)}, True, id="skewed-clock"),
        pytest.param(ONE_APPROVAL, {"approvals": (approval(at=NOW + timedelta(seconds=121)),)}, False, id="future"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 0.6, "loss": 2.0})}, True, id="metrics-at-the-bounds"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 0.59, "loss": 1})}, False, id="metric-below"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 0.7, "loss": 2.1})}, False, id="metric-above"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 0.7})}, False, id="metric-missing"),
        pytest.param(ACC, {"evidence": evaluation({"acc": float("nan"), "loss": 1})}, False, id="metric-nan"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 1, "loss": 1}, kind="mine")}, False, id="other-kind"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 1, "loss": 1}, kind=None)}, False, id="kind-unknown"),
        pytest.param(ACC, {"evidence": evaluation({"acc": 1, "loss": 1}, passed=False)}, False, id="eval-failed"),
        pytest.param(
            ACC,
            {"evidence": evaluation({"acc": 0.9}) + evaluation({"loss": 1})},
            False,
            id="one-item-has-to-meet-all",
        ),
        pytest.param(
            EVAL.replace("eval", "scan"), {"evidence": (Evidence("scan", "d"),)}, False, id="scan-without-verdict"
        ),
        pytest.param(EVAL.replace("eval", "effect"), {}, True, id="effect-proved"),
        pytest.param(EVAL.replace("eval", "effect"), {"evidence": GOOD_EVIDENCE[1:]}, False, id="effect-not-proved"),
        pytest.param(EVAL.replace("eval", "card"), {"evidence": (Evidence("card", "d"),)}, True, id="card"),
    ],
)
def test_rule_allows_only_what_it_says(rules, facts, is_allowed):
    decision = decide(rules, **facts)

    assert decision.allowed is is_allowed
    assert len(decision.denials) == (0 if is_allowed else 1)
    for finding in decision.denials:
        assert finding.line == 4
        assert finding.required
        assert finding.seen
        assert finding.way_out


@pytest.mark.parametrize(
    ("who", "actor", "roles", "is_allowed"),
    [
        ('["anyone"]', "x", (), True),
        ('["role:operator"]', "olga", ("operator",), True),
        ('["role:operator"]', "olga", ("reviewer",), False),
        ('["role:operator"]', "operator", (), False),
        ('["role:operator"]', "role:operator", (), False),
        ('["olga", "role:auditor"]', "olga", (), True),
        ('["olga"]', "Olga", (), False),
    ],
)
def test_rung_is_climbed_by_whom_it_names(who, actor, roles, is_allowed):
    policy = parse_policy(f'base.by = ["anyone"]\nadapter.candidate.by = {who}'.encode())

    decision = evaluate(policy, request(Stage.CANDIDATE, actor=actor, roles=frozenset(roles)))

    assert decision.allowed is is_allowed
    assert denied_rules(decision) == ([] if decision.allowed else ["adapter.candidate.by"])


@pytest.mark.parametrize(
    ("rule", "base", "is_allowed"),
    [
        ('allow = ["oss"]', {}, True),
        ('allow = ["sha256:ba5e"]', {"name": "x"}, True),
        ('allow = ["sha256:other"]', {}, False),
        ('licences = ["APACHE-2.0"]', {}, True),
        ('licences = ["mit"]', {"licence": None}, False),
        ('sources = ["hf:openai/*"]', {}, True),
        ('sources = ["hf:openai/gpt-oss-20b"]', {}, True),
        (f'sources = ["hf:openai/gpt-oss-20b@{"b" * 40}"]', {}, False),
        ('sources = ["hf:open/*"]', {}, False),
        ('sources = ["hf:openai/*"]', {"source": "hf:openai-evil/x"}, False),
        ('sources = ["/srv/models/*"]', {"source": "/srv/models/oss"}, True),
        ('sources = ["/srv/models/*"]', {"source": "/srv/models/../../tmp/x"}, False),
        ('sources = ["/srv/models/*"]', {"source": None}, False),
        ('sources = ["*"]', {"source": ""}, False),
        ('sources = ["*a*b"]', {"source": "ab"}, True),
        ('sources = ["a*a"]', {"source": "a"}, False),
        ('sources = ["*x*y*"]', {"source": "ayx"}, False),
        ('sources = ["a*bc*c"]', {"source": "abc"}, False),
    ],
)
def test_base_is_governed_on_its_own_and_under_every_adapter(rule, base, is_allowed):
    policy = parse_policy(f'[base]\nby = ["anyone"]\n{rule}\n[adapter.candidate]\nby = ["anyone"]'.encode())
    facts = replace(BASE, **base)

    admitted = evaluate_base(policy, BaseRequest(facts, "olga"))
    climbed = evaluate(policy, request(Stage.CANDIDATE, base=facts))

    assert admitted.allowed is climbed.allowed is is_allowed
    assert not is_allowed or admitted.subject_digest == facts.digest
    assert [one.line for one in (*admitted.denials, *climbed.denials)] == ([] if is_allowed else [3, 3])


def test_unknown_base_is_denied_where_a_rule_asks_for_it():
    rules = 'by = ["anyone"]\nallow = ["a"]\nlicences = ["b"]\nsources = ["c"]\nengines = ["0.32.*"]'
    policy = parse_policy(f'[base]\n{rules}\n[adapter.candidate]\nby = ["anyone"]'.encode())

    decision = evaluate(policy, request(Stage.CANDIDATE, base=None, engine=None))

    assert denied_rules(decision) == ["base.allow", "base.licences", "base.sources", "base.engines"]


@pytest.mark.parametrize(("engine", "is_allowed"), [("0.32.1", True), ("0.33.0", False), (None, False)])
def test_engine_is_one_that_is_named(engine, is_allowed):
    policy = parse_policy(b'[base]\nby = ["anyone"]\nengines = ["0.32.*"]\n[adapter.candidate]\nby = ["anyone"]')

    assert evaluate(policy, request(Stage.CANDIDATE, engine=engine)).allowed is is_allowed


def test_base_is_admitted_by_whom_it_names_and_by_nobody_without_a_rule():
    policy = parse_policy(b'[base]\nby = ["role:operator"]')

    assert evaluate_base(policy, BaseRequest(BASE, "olga", OPERATOR)).allowed
    assert denied_rules(evaluate_base(policy, BaseRequest(BASE, "carl", CONTRIBUTOR))) == ["base.by"]
    assert denied_rules(evaluate_base(parse_policy(b""), BaseRequest(BASE, "olga", OPERATOR))) == ["base"]


@pytest.mark.parametrize(
    ("tenant", "held", "denied"),
    [
        ("acme-eu", DATA, []),
        ("umbrella", DATA, []),
        ("other", DATA, ["adapter.data.tenants.internal"]),
        ("other", DATA[1:], []),
        (None, DATA, []),
        ("acme-eu", data("MIT", "confidential"), ["adapter.data.tenants.confidential"]),
        ("acme-eu", data("MIT"), ["adapter.data.classes"]),
        (None, (), ["adapter.data.classes"]),
    ],
)
def test_tenant_may_use_only_what_every_data_class_is_open_to(tenant, held, denied):
    decision = decide("", also=DATA_RULES, tenant=tenant, data=held)

    assert denied_rules(decision) == denied


def test_class_without_tenants_points_to_the_table_around_it():
    (finding,) = decide("", also=DATA_RULES, tenant="acme-eu", data=data("MIT", "confidential")).denials

    assert (finding.line, finding.required) == (5, "no tenant at all")


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in ("candidate", "approved", "live")])
def test_stage_that_nobody_climbs_to_is_denied(stage):
    decision = evaluate(rung_policy(""), request(stage))

    assert denied_rules(decision) == [f"adapter.{stage}"]


def test_rung_also_takes_what_the_rungs_below_it_take():
    policy = rung_policy("max_rank = 8", also='[adapter.approved]\nby = ["rita"]\n[adapter.live]\nby = ["olga"]')

    decision = evaluate(policy, request(Stage.LIVE, rank=16))

    assert [(one.rule, one.line) for one in decision.denials] == [("adapter.candidate.max_rank", 4)]
    assert [one.rule for one in decision.findings] == ["adapter.candidate.max_rank", "adapter.live.by"]


@pytest.mark.parametrize(
    ("age", "expires"),
    [
        pytest.param(timedelta(0), NOW + timedelta(days=30), id="fresh"),
        pytest.param(timedelta(days=10), NOW + timedelta(days=20), id="from-the-approval-on"),
        pytest.param(timedelta(days=30, seconds=-1), NOW + timedelta(seconds=1), id="a-second-before"),
        pytest.param(timedelta(days=30), None, id="at-the-second"),
    ],
)
def test_decision_expires_with_the_approval_that_it_needs(age, expires):
    decision = decide(f"{ONE_APPROVAL}\nexpires_days = 30", approvals=(approval(at=NOW - age),))

    assert (decision.allowed, decision.expires) == (expires is not None, expires)


def test_approval_may_have_to_be_fresher_than_the_rung():
    rules = 'approvals = { count = 1, by = ["role:reviewer"], max_age_days = 5 }\nexpires_days = 30'

    assert decide(rules, approvals=(approval(at=ago(days=4)),)).expires == NOW + timedelta(days=26)
    assert not decide(rules, approvals=(approval(at=ago(days=5)),)).allowed


def test_newest_approvals_say_when_it_ends_and_none_needed_means_now():
    old, new = approval(at=ago(days=20)), approval("remy", at=ago(days=2))

    assert decide(f"{ONE_APPROVAL}\nexpires_days = 30", approvals=(old, new)).expires == NOW + timedelta(days=28)
    assert decide("expires_days = 30").expires == NOW + timedelta(days=30)
    assert decide("").expires is None


def test_earliest_rung_ends_the_decision_in_utc():
    policy = rung_policy("expires_days = 9", also='[adapter.approved]\nby = ["anyone"]\nexpires_days = 3')
    zone = timezone(timedelta(hours=5))

    decision = evaluate(policy, request(Stage.APPROVED, now=NOW.astimezone(zone)))

    assert decision.expires == NOW + timedelta(days=3)
    assert decision.expires.tzinfo is UTC


def test_broken_glass_waives_approvals_and_evidence_and_ends_by_itself():
    decision = decide(
        f"{ONE_APPROVAL}\n{EVAL}", also=GLASS, approvals=(), evidence=(), roles=OPERATOR, break_glass="down"
    )

    assert decision.allowed
    assert decision.expires == NOW + timedelta(hours=24)
    assert [one.rule for one in decision.findings if one.verdict is Verdict.WAIVED] == [
        "adapter.candidate.approvals",
        "adapter.candidate.evidence[0]",
    ]


@pytest.mark.parametrize(
    ("rules", "also", "facts", "denied"),
    [
        ("", "", {}, "adapter.break_glass"),
        ("", GLASS, {"roles": REVIEWER}, "adapter.break_glass.by"),
        ("", GLASS, {"break_glass": " "}, "adapter.break_glass.hours"),
        ("max_rank = 8", GLASS, {}, "adapter.candidate.max_rank"),
        ('signatures = { count = 2, by = ["anyone"] }', GLASS, {}, "adapter.candidate.signatures"),
        ("", f"{GLASS}\n{DATA_RULES}", {"tenant": "other"}, "adapter.data.tenants.internal"),
        ("", GLASS, {"stage": Stage.LIVE}, "adapter.approved"),
    ],
)
def test_broken_glass_waives_nothing_else(rules, also, facts, denied):
    held = {"stage": Stage.CANDIDATE, "roles": OPERATOR, "break_glass": "down", **facts}

    decision = evaluate(rung_policy(rules, also=also), request(**held))

    assert denied_rules(decision)[:1] == [denied]


def test_time_without_zone_or_end_is_refused():
    with pytest.raises(ValueError, match="with its zone"):
        request(now=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="with its zone"):
        approval(at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="between the years"):
        request(now=datetime(9999, 12, 31, tzinfo=UTC))


def test_facts_and_decisions_are_frozen():
    policy = rung_policy("")

    with pytest.raises(FrozenInstanceError):
        request().rank = 1
    with pytest.raises(FrozenInstanceError):
        evaluate(policy, request()).allowed = True
    with pytest.raises(ValueError, match="frozen"):
        policy.document.base = None


def test_long_lists_are_shown_short():
    approvals = tuple(approval(f"p{n:02}", roles=frozenset()) for n in range(20))

    (finding,) = decide(ONE_APPROVAL, approvals=approvals).denials

    assert finding.seen.endswith("p07 is not named and 12 more")


def test_registry_does_not_import_policies_by_itself():
    probe = "import sys, loractl_registry, loractl.cli; sys.exit('loractl_registry.policies' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", probe]).returncode == 0


def test_base_facts_may_lack_everything_but_name_and_digest():
    assert BaseFacts("a", "sha256:1").source is None
