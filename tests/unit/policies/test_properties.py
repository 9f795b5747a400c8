"""What holds for every policy and every request."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.policies.policy_facts import BASE, DATA, GOOD_EVIDENCE, NOW, OPERATOR, request

from loractl_registry.policies import (
    Approval,
    BaseRequest,
    DataSet,
    Evidence,
    Signature,
    Verdict,
    evaluate,
    evaluate_base,
    parse_policy,
    preset,
)
from loractl_registry.stages import Stage

PEOPLE = st.sampled_from(["carl", "rita", "olga", "RITA"])
ROLE_NAMES = ("contributor", "reviewer", "operator", "auditor")
ROLES = st.frozensets(st.sampled_from(ROLE_NAMES), min_size=1, max_size=3)
WHO = st.sampled_from(['["anyone"]', '["anyone"]', '["role:reviewer"]', '["role:reviewer", "role:operator", "carl"]'])
TIMES = st.sampled_from([-40, -29, -1, 0, 0, 1]).map(lambda days: NOW + timedelta(days=days))
APPROVALS = st.builds(Approval, PEOPLE, TIMES, ROLES)
SIGNATURES = st.builds(Signature, PEOPLE, st.sampled_from([True, True, False]), ROLES)
DATA_SETS = st.builds(
    DataSet, st.sampled_from("ab"), st.sampled_from([None, "mit"]), st.sampled_from([None, "public", "internal"])
)
EVIDENCE = st.builds(
    Evidence,
    st.sampled_from(["eval", "scan", "effect"]),
    st.sampled_from(["sha256:1", "sha256:2"]),
    passed=st.sampled_from([True, True, None, False]),
    metrics=st.dictionaries(st.just("acc"), st.floats(0, 1) | st.floats()),
)
# Most facts are good ones, so that a single approval or piece of evidence often decides.
REQUESTS = st.builds(
    request,
    st.sampled_from([Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE] * 3 + list(Stage)),
    actor=PEOPLE,
    roles=st.sampled_from([frozenset(ROLE_NAMES)] * 3 + [OPERATOR, frozenset()]),
    added_by=st.sampled_from(["carl", "carl", "rita", None]),
    rank=st.sampled_from([16, 16, 16, 512, None]),
    base=st.sampled_from([BASE, BASE, None]),
    data=st.just(DATA) | st.lists(DATA_SETS, max_size=2).map(tuple),
    signatures=st.lists(SIGNATURES, max_size=3).map(tuple),
    approvals=st.lists(APPROVALS, max_size=3).map(tuple),
    evidence=st.just(GOOD_EVIDENCE) | st.lists(EVIDENCE, max_size=4).map(tuple),
    tenant=st.sampled_from([None, None, "acme", "other"]),
    break_glass=st.sampled_from([None, None, None, "down"]),
)


@st.composite
def rungs(draw, stage):
    parts = [f"[adapter.{stage}]", f"by = {draw(WHO)}"]
    if draw(st.booleans()):
        parts.append("expires_days = 30")
    if draw(st.booleans()):
        parts.append(f"signatures = {{ count = {draw(st.sampled_from([1, 1, 2]))}, by = {draw(WHO)} }}")
    if draw(st.booleans()):
        four_eyes = str(draw(st.booleans())).lower()
        parts.append(
            f"approvals = {{ count = {draw(st.sampled_from([1, 1, 2]))}, by = {draw(WHO)}, four_eyes = {four_eyes} }}"
        )
    for kind in draw(st.sets(st.sampled_from(["eval", "scan", "effect"]), max_size=2)):
        parts += [f"[[adapter.{stage}.evidence]]", f'type = "{kind}"']
        if kind == "eval":
            parts.append(f"metrics.acc.min = {draw(st.floats(-1, 1))}")
    return "\n".join(parts)


@st.composite
def policies(draw):
    parts = ['base.by = ["anyone"]']
    parts += [
        draw(rungs(stage)) for stage in ("candidate", "approved", "live")[: draw(st.sampled_from([0, 1, 2, 3, 3, 3]))]
    ]
    if draw(st.integers(0, 3)) == 0:
        parts.append('[adapter.data.tenants]\npublic = ["*"]\ninternal = ["acme"]')
    if draw(st.booleans()):
        parts.append('[adapter.break_glass]\nby = ["role:operator"]\nhours = 24')
    return parse_policy("\n".join(parts).encode())


POLICIES = st.one_of(st.sampled_from([preset("solo"), preset("team")]), policies(), policies())


@settings(deadline=None)
@given(REQUESTS)
def test_empty_policy_denies_every_request(wanted):
    decision = evaluate(parse_policy(b""), wanted)

    assert not decision.allowed
    assert decision.expires is None
    assert not evaluate_base(parse_policy(b""), BaseRequest(BASE, wanted.actor, wanted.roles)).allowed


@settings(deadline=None)
@given(REQUESTS)
def test_policy_about_bases_alone_denies_every_version(wanted):
    assert not evaluate(parse_policy(b'[base]\nby = ["anyone"]'), wanted).allowed


@settings(deadline=None)
@given(REQUESTS)
def test_policy_about_adapters_alone_denies_every_version(wanted):
    assert not evaluate(parse_policy(b'[adapter.candidate]\nby = ["anyone"]'), wanted).allowed


@settings(deadline=None, max_examples=300)
@given(POLICIES, REQUESTS, APPROVALS)
def test_one_more_approval_never_denies_nor_ends_earlier(policy, wanted, approval):
    before = evaluate(policy, wanted)
    after = evaluate(policy, replace(wanted, approvals=(*wanted.approvals, approval)))

    assert after.allowed or not before.allowed
    if before.allowed:
        assert before.expires is None or after.expires >= before.expires


@settings(deadline=None, max_examples=300)
@given(POLICIES, REQUESTS, st.data())
def test_less_evidence_or_fewer_signatures_never_allow(policy, wanted, data):
    before = evaluate(policy, wanted)
    kept = tuple(one for one in wanted.evidence if data.draw(st.booleans()))
    signed = tuple(one for one in wanted.signatures if data.draw(st.booleans()))

    after = evaluate(policy, replace(wanted, evidence=kept, signatures=signed))

    assert before.allowed or not after.allowed


@settings(deadline=None)
@given(POLICIES, REQUESTS)
def test_higher_rung_never_asks_less_of_a_version(policy, wanted):
    def denied(stage):
        rules = evaluate(policy, replace(wanted, stage=stage)).denials
        return {one.rule for one in rules if one.rule != f"adapter.{stage}.by"}

    assert denied(Stage.CANDIDATE) <= denied(Stage.APPROVED) <= denied(Stage.LIVE)


@settings(deadline=None)
@given(POLICIES, REQUESTS, st.randoms())
def test_digest_of_a_decision_does_not_depend_on_the_order_of_facts(policy, wanted, random):
    def shuffled(items):
        return tuple(random.sample(items, len(items)))

    again = replace(
        wanted,
        approvals=shuffled(wanted.approvals),
        evidence=shuffled(wanted.evidence),
        signatures=shuffled(wanted.signatures),
        data=shuffled(wanted.data),
    )

    assert evaluate(policy, wanted).digest == evaluate(policy, again).digest


@settings(deadline=None)
@given(POLICIES, REQUESTS)
def test_decision_is_the_sum_of_its_findings_and_each_says_all_of_it(policy, wanted):
    decision = evaluate(policy, wanted)

    assert decision.allowed == all(one.verdict is not Verdict.DENIED for one in decision.findings)
    assert len({one.rule for one in decision.findings}) == len(decision.findings)
    assert decision.expires is None or (decision.allowed and decision.expires > wanted.now)
    assert decision.policy_digest == policy.digest
    for finding in decision.findings:
        assert finding.rule
        assert finding.required
        assert finding.seen
        assert finding.why
        assert (finding.way_out is None) == (finding.verdict is Verdict.ALLOWED)


@settings(deadline=None)
@given(POLICIES, REQUESTS)
def test_digest_changes_with_the_decision(policy, wanted):
    decision = evaluate(policy, wanted)

    assert replace(decision, allowed=not decision.allowed).digest != decision.digest
    assert replace(decision, subject="other@1").digest != decision.digest
    assert replace(decision, policy_digest="sha256:0").digest != decision.digest
