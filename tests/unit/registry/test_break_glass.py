"""The glass: who may break it, what it sets aside and what not, and that it ends by itself."""

from datetime import timedelta

import pytest
from support.registry import write_adapter, write_base
from support.tampering import run_sql

from loractl_registry import Ref, Registry, Stage, VersionRef
from loractl_registry.ledger.errors import DisagreementError
from loractl_registry.refusals import DamagedFilesError, PolicyDeniedError, RevokedBytesError, StageError
from loractl_registry.trust.errors import RoleError

BOT = Ref("bot", 1)
TEAM = """
[base]
by = ["role:operator"]
[adapter.candidate]
by = ["role:contributor"]
max_rank = 8
[adapter.approved]
by = ["role:reviewer"]
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[[adapter.approved.evidence]]
type = "eval"
[adapter.live]
by = ["role:operator"]
[adapter.break_glass]
by = ["role:operator"]
hours = 4
"""


@pytest.fixture
def night(registry, home, clock, tmp_path):
    """Two drafts of bot under a policy of a team; ada has every role, otto operates, rita reviews."""
    registry.identities.create("ada", actor="ada")
    for name, role in (("otto", "operator"), ("rita", "reviewer")):
        registry.identities.create(name, actor="ada")
        with Registry.open(home, clock=clock, identity="ada") as first:
            first.identities.trust(name, home / f"keys/{name}.pem.pub", [role], actor="ada")
    (home / "policy.toml").write_text(TEAM)
    with Registry.open(home, clock=clock, identity="ada") as first:
        first.add_base("tiny-moe", str(write_base(tmp_path / "base")), actor="ada")
        for seed in (1, 2):
            first.add("bot", str(write_adapter(tmp_path / str(seed), seed=seed)), actor="ada")
    with Registry.open(home, clock=clock, identity="otto") as opened:
        yield opened


def answering(registry):
    return [str(version.ref) for version in registry.snapshot("tiny-moe").versions]


def test_operator_takes_a_draft_to_live_for_some_hours(night):
    with pytest.raises(PolicyDeniedError):
        night.promote(BOT, actor="otto", to=Stage.APPROVED)

    approved = night.break_glass(BOT, actor="otto", reason="the live one leaks")
    live = night.break_glass(BOT, actor="otto", reason="the live one leaks")
    event = night.history("bot")[-1]

    assert (approved.version.stage, live.version.stage) == (Stage.APPROVED, Stage.LIVE)
    assert answering(night) == ["bot@1"]
    assert (event.action, event.reason) == ("adapter.break_glass", "the live one leaks")
    assert event.detail["waived"] == ["adapter.approved.approvals", "adapter.approved.evidence[0]"]
    assert night.identities.standing(live.version).break_glass == "the live one leaks"
    assert night.identities.verify().problems == ()


def test_it_ends_by_itself_to_the_second(night, clock):
    began = clock.now
    night.break_glass(BOT, actor="otto", reason="x", to=Stage.LIVE)
    until = night.snapshot("tiny-moe").until

    clock.now = until - timedelta(seconds=10)
    last = answering(night)
    clock.now = until - timedelta(seconds=1)
    over = night.snapshot("tiny-moe")

    assert timedelta(hours=4) < until - began < timedelta(hours=4, seconds=10)
    assert last == ["bot@1"]
    assert (over.versions, over.until) == ((), None)
    assert "expired on" in over.refused[VersionRef("bot", 1)]
    assert night.broken_glass() == {VersionRef("bot", 1): until}


def test_what_was_live_makes_way_and_can_come_back(night, home, clock):
    night.break_glass(BOT, actor="otto", reason="x", to=Stage.LIVE)

    second = night.break_glass(Ref("bot", 2), actor="otto", reason="worse", to=Stage.LIVE)

    assert second.replaced == VersionRef("bot", 1)
    assert answering(night) == ["bot@1", "bot@2"]
    assert set(night.broken_glass()) == {VersionRef("bot", 1), VersionRef("bot", 2)}


@pytest.mark.parametrize(
    ("who", "error"), [pytest.param("rita", PolicyDeniedError, id="policy"), pytest.param("ada", None, id="everyone")]
)
def test_policy_says_who_breaks_it(night, home, clock, who, error):
    with Registry.open(home, clock=clock, identity=who) as other:
        if error is None:
            assert other.break_glass(BOT, actor=who, reason="x").version.stage is Stage.APPROVED
            return
        with pytest.raises(error, match=r"adapter\.break_glass\.by"):
            other.break_glass(BOT, actor=who, reason="x")

    assert answering(night) == []


def test_only_an_operators_signature_counts_whatever_the_policy_says(night, home, clock):
    (home / "policy.toml").write_text(
        TEAM.replace('[adapter.break_glass]\nby = ["role:operator"]', '[adapter.break_glass]\nby = ["anyone"]')
    )

    with Registry.open(home, clock=clock, identity="rita") as reviewer, pytest.raises(RoleError, match="break-glass"):
        reviewer.break_glass(BOT, actor="rita", reason="x")

    assert night.version(BOT).stage is Stage.DRAFT


def test_policy_without_the_rule_has_no_glass(night, home):
    (home / "policy.toml").write_text(TEAM.partition("[adapter.break_glass]")[0])

    with pytest.raises(PolicyDeniedError, match="no rule of the policy allows it"):
        night.break_glass(BOT, actor="otto", reason="x")


def test_preset_solo_has_no_glass(registry, add):
    add()

    with pytest.raises(PolicyDeniedError, match="no rule of the policy allows it"):
        registry.break_glass(BOT, actor="ada", reason="x")


def test_caps_hold_behind_the_glass_too(night, home):
    (home / "policy.toml").write_text(TEAM.replace("max_rank = 8", "max_rank = 2"))

    with pytest.raises(PolicyDeniedError, match=r"adapter\.candidate\.max_rank"):
        night.break_glass(BOT, actor="otto", reason="x")


def test_damaged_files_and_revoked_bytes_stay_out(night, home, tmp_path, clock):
    weights = night.version(BOT).path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedFilesError):
        night.break_glass(BOT, actor="otto", reason="x")
    night.revoke(Ref("bot", 2), actor="otto", reason="leaks")
    again = night.add("again", str(tmp_path / "2"), actor="otto").version

    with pytest.raises(RevokedBytesError):
        night.break_glass(again.ref, actor="otto", reason="x")


@pytest.mark.parametrize("to", [Stage.CANDIDATE, Stage.DRAFT, Stage.REVOKED])
def test_it_leads_to_what_is_served_and_nowhere_else(night, to):
    with pytest.raises(StageError):
        night.break_glass(BOT, actor="otto", reason="x", to=to)


def test_what_is_live_needs_no_glass(night):
    night.break_glass(BOT, actor="otto", reason="x", to=Stage.LIVE)

    with pytest.raises(StageError):
        night.break_glass(BOT, actor="otto", reason="x", to=Stage.LIVE)


def test_row_that_was_edited_is_not_built_upon(night, home):
    run_sql(home, "UPDATE version SET stage = 'approved', base_id = (SELECT id FROM base) WHERE number = 1")

    with pytest.raises(DisagreementError):
        night.break_glass(BOT, actor="otto", reason="x")


def test_review_afterwards_takes_the_mark_away(night, home, clock):
    night.break_glass(BOT, actor="otto", reason="x")
    (home / "policy.toml").write_text(TEAM.replace('[[adapter.approved.evidence]]\ntype = "eval"\n', ""))
    night.demote(BOT, actor="otto", reason="to be reviewed")
    unmarked = night.broken_glass()
    with Registry.open(home, clock=clock, identity="rita") as reviewer:
        reviewer.approve(BOT, actor="rita", reason="read it")
        reviewer.promote(BOT, actor="rita", to=Stage.APPROVED)

    assert unmarked == {}
    assert night.identities.standing(night.version(BOT)).break_glass is None
    assert night.snapshot("tiny-moe").until is None
    assert answering(night) == ["bot@1"]


def test_ordinary_climb_on_top_keeps_the_end_and_the_mark(night, clock):
    night.break_glass(BOT, actor="otto", reason="x")
    until = night.snapshot("tiny-moe").until
    with pytest.raises(PolicyDeniedError):
        night.promote(BOT, actor="otto", to=Stage.LIVE)

    assert night.snapshot("tiny-moe").until == until
    assert set(night.broken_glass()) == {VersionRef("bot", 1)}


def test_event_that_was_edited_away_is_missed(night, home):
    night.break_glass(BOT, actor="otto", reason="x")
    run_sql(home, "UPDATE audit SET action = 'adapter.promote' WHERE action = 'adapter.break_glass'")

    assert any("was changed" in problem for problem in night.identities.verify().problems)
    assert night.identities.standing(night.version(BOT)).break_glass == "x"
