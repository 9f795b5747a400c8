"""What was signed is what counts: every way to say something else in the database is refused and named."""

import shutil
from datetime import timedelta

import pytest
from support.registry import write_adapter, write_base
from support.tampering import (
    CUT,
    FLIP,
    HOLE,
    RENAME,
    RENUMBER,
    REORDER,
    REPLAY,
    SWAP,
    UNREVOKE,
    WIPE,
    copied,
    made_older,
    restored,
    run_sql,
)

from loractl_registry import NotFoundError, Ref, Registry, Stage
from loractl_registry.ledger import pen
from loractl_registry.ledger.errors import DisagreementError, StandingExpiredError
from loractl_registry.refusals import RevokedBytesError
from loractl_registry.trust import RollbackError, TrustError

BOT, SLY, GONE = Ref("bot", 1), Ref("sly", 1), Ref("gone", 1)

EXPIRING = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["anyone"]
expires_days = 1
[adapter.live]
by = ["anyone"]
"""


@pytest.fixture
def shop(registry, add):
    """A live bot, a candidate that is sly, and a version that was revoked."""
    for name, seed, to in (("bot", 1, Stage.LIVE), ("sly", 2, Stage.CANDIDATE), ("gone", 3, Stage.LIVE)):
        add(name, seed)
        registry.promote(Ref(name, 1), actor="ada", to=to)
    registry.revoke(GONE, actor="ada", reason="leaks")
    return registry


def refs(snapshot):
    return [str(version.ref) for version in snapshot.versions]


def test_every_move_is_signed_in_the_transaction_of_its_event(shop, home):
    moves = [event for event in shop.history() if event.to_stage is not None]

    verified = shop.identities.verify()

    assert verified.problems == ()
    # Beside the first identity, its inventory and the base.
    assert verified.statements == 3 + len(moves)
    assert all(event.detail["signer"] == "ada" for event in moves)
    assert len({event.detail["statement"] for event in moves}) == len(moves)
    assert (home / "keys/ada.pem").stat().st_mode & 0o777 == 0o600


def test_only_what_was_signed_answers(shop):
    snapshot = shop.snapshot("tiny-moe")

    assert refs(snapshot) == ["bot@1"]
    assert (snapshot.refused, snapshot.distrust, snapshot.until) == ({}, None, None)


@pytest.mark.parametrize(
    ("attack", "answering", "refused", "said"),
    [
        pytest.param(
            FLIP, ["bot@1"], "sly@1", "says live, and the signed statements say candidate", id="stage-flipped"
        ),
        pytest.param(UNREVOKE, ["bot@1"], "gone@1", "signed statements say revoked", id="revoked-raised"),
        pytest.param(RENAME, [], "evil@1", "no signed statement is about it", id="renamed"),
        pytest.param(RENUMBER, [], "bot@7", "no signed statement is about it", id="renumbered"),
        pytest.param(SWAP, [], "bot@1", "the database says content", id="digest-swapped"),
    ],
)
def test_row_that_disagrees_is_refused_and_named(shop, home, attack, answering, refused, said):
    run_sql(home, *attack)

    snapshot = shop.snapshot("tiny-moe")

    assert refs(snapshot) == answering
    assert [str(ref) for ref in snapshot.refused] == [refused]
    assert said in next(iter(snapshot.refused.values()))
    assert snapshot.distrust is None
    assert any(refused in problem or said in problem for problem in shop.identities.verify().problems)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        pytest.param(REPLAY, "statement 15 of the chain", id="statement-replayed"),
        pytest.param(REORDER, "stands where sequence 2 must", id="reordered"),
        pytest.param(HOLE, "stands where sequence 3 must", id="removed-in-the-middle"),
        pytest.param(CUT, "a signed checkpoint has seen 14", id="cut-at-the-end"),
        pytest.param(WIPE, "a signed checkpoint has seen 14", id="wiped"),
    ],
)
def test_chain_that_was_edited_lets_nothing_answer_and_nothing_change(shop, home, clock, attack, said):
    run_sql(home, *attack)

    with Registry.open(home, clock=clock) as fresh:
        snapshot = fresh.snapshot("tiny-moe")
        with pytest.raises(TrustError):
            fresh.promote(SLY, actor="ada")
        with pytest.raises(TrustError):
            fresh.revoke(BOT, actor="ada", reason="x")

    assert snapshot.versions == ()
    assert said in snapshot.distrust
    assert [str(ref) for ref in snapshot.refused] == ["bot@1"]


def test_chain_that_was_cut_is_noticed_by_who_had_verified_it(shop, home):
    assert refs(shop.snapshot("tiny-moe")) == ["bot@1"]

    run_sql(home, *CUT)

    assert "checkpoint has seen 14" in shop.snapshot("tiny-moe").distrust


def test_database_that_was_restored_is_refused_until_it_was_meant(shop, home, tmp_path, clock):
    backup = copied(home, tmp_path / "backup.db")
    shop.revoke(BOT, actor="ada", reason="leaks")
    shop.close()
    restored(home, backup)

    with Registry.open(home, clock=clock) as registry:
        before = registry.snapshot("tiny-moe")
        with pytest.raises(RollbackError):
            registry.promote(SLY, actor="ada")
        registry.identities.checkpoint(actor="ada", reason="meant it")
        after = registry.snapshot("tiny-moe")
        event = registry.history()[-1]

    assert (before.versions, "ends at sequence 14" in before.distrust) == ((), True)
    assert (refs(after), after.distrust) == (["bot@1"], None)
    assert (event.action, event.reason) == ("registry.checkpoint", "meant it")


def test_missing_checkpoint_lets_nothing_answer(shop, home):
    (home / "checkpoint.json").unlink()

    assert "no checkpoint" in shop.snapshot("tiny-moe").distrust
    with pytest.raises(NotFoundError):
        shop.promote(SLY, actor="ada")


def test_checkpoint_of_another_home_lets_nothing_answer(shop, home, tmp_path, clock):
    with Registry.open(tmp_path / "other", clock=clock) as other:
        other.identities.create("eve", actor="eve")
    shutil.copy(tmp_path / "other/checkpoint.json", home / "checkpoint.json")

    assert shop.snapshot("tiny-moe").distrust is not None


def test_chain_that_somebody_else_began_is_refused(shop, home, tmp_path, clock):
    with Registry.open(tmp_path / "other", clock=clock) as other:
        other.add_base("tiny-moe", str(write_base(tmp_path / "base")), actor="eve")
        other.add("sly", str(write_adapter(tmp_path / "adapter-2", seed=2)), actor="eve")
        other.promote(SLY, actor="eve", to=Stage.LIVE)
    shop.close()
    restored(home, tmp_path / "other/registry.db")

    with Registry.open(home, clock=clock) as registry:
        assert registry.snapshot("tiny-moe").distrust is not None


def test_manifest_that_was_edited_to_fit_other_files_is_damage(shop, home):
    run_sql(home, "UPDATE content SET manifest = (SELECT manifest FROM content ORDER BY digest LIMIT 1)")

    assert sum(not one.is_intact for one in shop.verify()) == 2


def test_manifest_of_a_base_that_was_edited_is_damage(shop, home):
    run_sql(home, "UPDATE base SET manifest = '[]'")

    found = shop.verify_base("tiny-moe", full=True)

    assert (found.is_intact, found.damaged[0].path) == (False, "the manifest")


def test_row_that_disagrees_can_only_be_revoked(shop, home):
    run_sql(home, "UPDATE version SET stage = 'approved' WHERE name = 'sly'")

    for act in (
        lambda: shop.promote(SLY, actor="ada"),
        lambda: shop.demote(SLY, actor="ada", reason="x"),
        lambda: shop.retire(SLY, actor="ada", reason="x"),
        lambda: shop.approve(SLY, actor="ada", reason="x"),
    ):
        with pytest.raises(DisagreementError, match="sly@1"):
            act()
    shop.revoke(SLY, actor="ada", reason="flipped")

    assert shop.version(SLY).stage is Stage.REVOKED
    assert shop.identities.verify().problems == ()


def test_live_row_that_only_says_so_makes_way(shop, home, add):
    add("sly", 5)
    run_sql(home, f"{FLIP[0]} AND number = 1")

    promotion = shop.promote(Ref("sly", 2), actor="ada", to=Stage.LIVE)

    assert promotion.replaced is None
    assert shop.version(SLY).stage is Stage.CANDIDATE
    assert shop.identities.verify().problems == ()


def test_bytes_that_were_revoked_by_a_statement_stay_so_whatever_the_row_says(shop, home, add):
    add("again", 3)
    run_sql(home, "UPDATE version SET stage = 'draft' WHERE name = 'gone'")

    with pytest.raises(RevokedBytesError, match="gone@1"):
        shop.promote(Ref("again", 1), actor="ada")


def test_home_of_an_older_loractl_serves_again_once_its_first_identity_signed(shop, home, clock):
    made_older(home)

    with Registry.open(home, clock=clock) as registry:
        before = registry.snapshot("tiny-moe")
        made = registry.identities.create("grace", actor="grace")
        after = registry.snapshot("tiny-moe")
        verified = registry.identities.verify()

    assert before.versions == ()
    assert "loractl identity create" in before.distrust
    assert (made.is_trusted, made.roles) == (True, ("auditor", "contributor", "operator", "reviewer"))
    assert refs(after) == ["bot@1"]
    assert verified.problems == ()


def test_every_stage_of_an_older_home_is_signed_for(registry, add, home, clock):
    for seed in range(7):
        add("bot", seed)
    registry.promote(Ref("bot", 2), actor="ada")
    registry.promote(Ref("bot", 3), actor="ada", to=Stage.APPROVED)
    registry.promote(Ref("bot", 4), actor="ada", to=Stage.LIVE)
    registry.promote(Ref("bot", 5), actor="ada", to=Stage.APPROVED)
    registry.retire(Ref("bot", 5), actor="ada", reason="x")
    registry.promote(Ref("bot", 6), actor="ada")
    registry.reject(Ref("bot", 6), actor="ada", reason="x")
    registry.revoke(Ref("bot", 7), actor="ada", reason="x")
    made_older(home)

    with Registry.open(home, clock=clock) as older:
        older.promote(Ref("bot", 1), actor="ada")

        assert older.identities.verify().problems == ()


def test_new_first_identity_signs_for_nothing_where_a_checkpoint_remembers_one(
    registry, tmp_path, home, clock, monkeypatch
):
    with monkeypatch.context() as killed:
        killed.setattr(pen, "write_checkpoint", lambda *_: None)  # the one before the commit is all that there is
        registry.identities.create("ada", actor="ada")
    first = (home / "checkpoint.json").read_bytes()
    registry.add_base("tiny-moe", str(write_base(tmp_path / "base")), actor="ada")
    registry.add("bot", str(write_adapter(tmp_path / "adapter", seed=1)), actor="ada")
    run_sql(home, *WIPE, "UPDATE version SET stage = 'live'")
    (home / "checkpoint.json").write_bytes(first)

    with Registry.open(home, clock=clock) as again:
        with pytest.raises(DisagreementError):
            again.demote(BOT, actor="ada", reason="x")
        assert again.snapshot("tiny-moe").versions == ()


def test_clock_that_was_set_back_dates_no_statement_before_the_last(shop, home, clock):
    clock.now -= timedelta(minutes=3)

    shop.promote(SLY, actor="ada")

    assert shop.identities.verify().problems == ()


def test_approval_that_expired_lets_nothing_answer_to_the_second(registry, add, home, clock):
    (home / "policy.toml").write_text(EXPIRING)
    add("bot", 1)
    registry.promote(BOT, actor="ada", to=Stage.LIVE)
    snapshot = registry.snapshot("tiny-moe")
    assert refs(snapshot) == ["bot@1"]

    clock.now = snapshot.until - timedelta(seconds=10)
    last = registry.snapshot("tiny-moe")
    clock.now = snapshot.until
    over = registry.snapshot("tiny-moe")

    assert refs(last) == ["bot@1"]
    assert (over.versions, over.until) == ((), None)
    assert "expired on" in next(iter(over.refused.values()))


def test_climb_does_not_build_on_what_expired(registry, add, home, clock):
    (home / "policy.toml").write_text(EXPIRING)
    add("bot", 1)
    registry.promote(BOT, actor="ada", to=Stage.APPROVED)
    clock.now += timedelta(days=2)

    with pytest.raises(StandingExpiredError, match=r"bot@1: it expired on 2026-02-01"):
        registry.promote(BOT, actor="ada", to=Stage.LIVE)
    registry.demote(BOT, actor="ada", reason="to be judged again")
    registry.promote(BOT, actor="ada", to=Stage.LIVE)

    assert refs(registry.snapshot("tiny-moe")) == ["bot@1"]


def test_events_that_were_cut_off_are_missed_by_their_statements(shop, home):
    run_sql(home, "DELETE FROM audit WHERE sequence > 11", "UPDATE sqlite_sequence SET seq = 11 WHERE name = 'audit'")

    problems = shop.identities.verify().problems

    assert problems
    assert all("is named by no event" in problem for problem in problems)
