"""The verbs: what each does, what it refuses, and what it writes down."""

from datetime import timedelta

import pytest
from support.registry import BaseShape, write_adapter, write_base

from loractl_registry import Ref, Registry, Stage, VersionRef, lifecycle, parse_ref
from loractl_registry.actors import ActorError, ReasonError
from loractl_registry.preflight import PreflightRefusedError
from loractl_registry.refusals import (
    AdapterNotFoundError,
    BaseGoneError,
    DamagedFilesError,
    NoBaseError,
    NothingToRollBackError,
    NotLiveError,
    PolicyDeniedError,
    RevokedBytesError,
    StageError,
    VersionNotFoundError,
)

ONE, TWO = Ref("bot", 1), Ref("bot", 2)


@pytest.fixture
def live(registry, add):
    """Add `count` versions of a name, each promoted to live in turn."""

    def _live(count, name="bot"):
        for seed in range(count):
            ref = add(name, seed).ref
            registry.promote(Ref(*_pair(ref)), actor="ada", to=Stage.LIVE)

    return _live


def _pair(ref):
    return ref.name, ref.number


def stages(registry, name="bot"):
    return [version.stage for version in registry.versions(name=name)]


def trail(registry, name="bot"):
    return [(e.action, e.subject, e.from_stage, e.to_stage) for e in registry.history(name)]


def damage(version):
    file = version.path / "adapter_model.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_promote_climbs_one_rung_at_a_time(registry, add):
    add()

    entered = [registry.promote(ONE, actor="ada").entered for _ in range(3)]

    assert entered == [(Stage.CANDIDATE,), (Stage.APPROVED,), (Stage.LIVE,)]


def test_promote_to_live_enters_every_rung_and_writes_each_down(registry, add):
    add()

    promotion = registry.promote(ONE, actor="grace", to=Stage.LIVE, reason="it is good")

    assert promotion.from_stage is Stage.DRAFT
    assert promotion.entered == (Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE)
    assert promotion.version == registry.version(Ref("bot", None))
    assert promotion.preflight is not None
    events = registry.history("bot")[1:]
    assert [(e.from_stage, e.to_stage) for e in events] == [
        ("draft", "candidate"),
        ("candidate", "approved"),
        ("approved", "live"),
    ]
    assert {(e.actor, e.reason) for e in events} == {("grace", "it is good")}
    assert "tensors used" in events[0].detail["preflight"]


def test_promote_to_a_stage_already_held_changes_nothing(registry, live):
    live(1)
    before = registry.history()

    promotion = registry.promote(ONE, actor="ada", to=Stage.LIVE)

    assert promotion.entered == ()
    assert registry.history() == before


def test_version_that_was_live_is_approved_after_its_successor(registry, live):
    live(2)

    assert stages(registry) == [Stage.APPROVED, Stage.LIVE]
    assert trail(registry)[-2:] == [
        ("adapter.demote", "bot@1", "live", "approved"),
        ("adapter.promote", "bot@2", "approved", "live"),
    ]
    assert registry.history("bot")[-2].detail["replaced_by"] == "bot@2"


def test_promotion_names_what_it_replaced(registry, add):
    add(seed=0)
    add(seed=1)
    registry.promote(ONE, actor="ada", to=Stage.LIVE)

    assert registry.promote(TWO, actor="ada", to=Stage.LIVE).replaced == VersionRef("bot", 1)


@pytest.mark.parametrize(
    ("verb", "start", "end"),
    [
        ("demote", Stage.CANDIDATE, Stage.DRAFT),
        ("demote", Stage.APPROVED, Stage.CANDIDATE),
        ("demote", Stage.LIVE, Stage.APPROVED),
        ("reject", Stage.CANDIDATE, Stage.REJECTED),
        ("retire", Stage.APPROVED, Stage.RETIRED),
        ("retire", Stage.LIVE, Stage.RETIRED),
        ("revoke", Stage.CANDIDATE, Stage.REVOKED),
        ("revoke", Stage.LIVE, Stage.REVOKED),
    ],
)
def test_step_down_leads_where_the_rules_say(registry, add, verb, start, end):
    add()
    registry.promote(ONE, actor="ada", to=start)

    change = getattr(registry, verb)(ONE, actor="grace", reason="because")

    assert (change.from_stage, change.version.stage) == (start, end)
    assert trail(registry)[-1] == (f"adapter.{verb}", "bot@1", start, end)
    assert registry.history("bot")[-1].reason == "because"


@pytest.mark.parametrize("verb", ["reject", "retire", "revoke"])
def test_step_out_twice_is_one_event(registry, add, verb):
    add()
    registry.promote(ONE, actor="ada", to=Stage.CANDIDATE if verb == "reject" else Stage.APPROVED)
    first = getattr(registry, verb)(ONE, actor="ada", reason="because")
    before = registry.history()

    second = getattr(registry, verb)(ONE, actor="ada", reason="again")

    assert second.version == first.version
    assert second.from_stage is second.version.stage
    assert registry.history() == before


@pytest.mark.parametrize(
    ("act", "start"),
    [
        (lambda r: r.demote(ONE, actor="ada", reason="x"), None),
        (lambda r: r.reject(ONE, actor="ada", reason="x"), None),
        (lambda r: r.retire(ONE, actor="ada", reason="x"), None),
        (lambda r: r.reject(ONE, actor="ada", reason="x"), Stage.LIVE),
        (lambda r: r.promote(ONE, actor="ada"), Stage.LIVE),
        (lambda r: r.promote(ONE, actor="ada", to=Stage.CANDIDATE), Stage.LIVE),
        (lambda r: r.promote(ONE, actor="ada", to=Stage.REVOKED), None),
    ],
)
def test_verb_that_leads_nowhere_is_refused_with_a_way_out(registry, add, act, start):
    add()
    if start:
        registry.promote(ONE, actor="ada", to=start)
    before = registry.history()

    with pytest.raises(StageError) as caught:
        act(registry)

    assert "bot@1" in str(caught.value)
    assert caught.value.hint
    assert registry.history() == before


@pytest.mark.parametrize(
    "act",
    [
        lambda r: r.promote(ONE, actor="ada", to=Stage.LIVE),
        lambda r: r.demote(ONE, actor="ada", reason="x"),
        lambda r: r.retire(ONE, actor="ada", reason="x"),
    ],
)
def test_revoked_is_terminal(registry, add, act):
    add()
    registry.revoke(ONE, actor="ada", reason="leaked")

    with pytest.raises(StageError, match="revoked") as caught:
        act(registry)

    assert "for good" in caught.value.hint


def test_rejected_cannot_be_promoted(registry, add):
    add()
    registry.promote(ONE, actor="ada")
    registry.reject(ONE, actor="ada", reason="worse")

    with pytest.raises(StageError) as caught:
        registry.promote(ONE, actor="ada")

    assert "add a corrected version" in caught.value.hint


def test_retired_version_comes_back_at_approved(registry, live):
    live(1)
    registry.retire(ONE, actor="ada", reason="season over")

    assert registry.promote(ONE, actor="ada").entered == (Stage.APPROVED,)
    assert registry.promote(ONE, actor="ada", to=Stage.LIVE).entered == (Stage.LIVE,)


def test_bytes_revoked_under_one_name_are_refused_under_another(registry, add):
    add("bot", 0)
    add("other", 0)
    registry.promote(Ref("other", 1), actor="ada", to=Stage.APPROVED)

    change = registry.revoke(ONE, actor="ada", reason="leaked")

    assert change.same_bytes == (VersionRef("other", 1),)
    with pytest.raises(RevokedBytesError, match="bot@1"):
        registry.promote(Ref("other", 1), actor="ada", to=Stage.LIVE)


def test_bare_name_means_the_live_version(registry, live):
    live(2)

    assert registry.retire(Ref("bot", None), actor="ada", reason="x").version.ref == VersionRef("bot", 2)
    with pytest.raises(NotLiveError) as caught:
        registry.version(Ref("bot", None))

    assert caught.value.hint


@pytest.mark.parametrize("text", ["absent", "absent@1", "bot@9"])
def test_unknown_ref_is_not_found(registry, add, text):
    add()

    with pytest.raises(VersionNotFoundError):
        registry.promote(parse_ref(text), actor="ada")


@pytest.mark.parametrize("verb", ["demote", "reject", "retire", "revoke"])
def test_step_down_needs_a_reason(registry, add, verb):
    add()

    with pytest.raises(ReasonError):
        getattr(registry, verb)(ONE, actor="ada", reason=" ")


def test_actor_is_checked(registry, add):
    add()

    with pytest.raises(ActorError):
        registry.promote(ONE, actor="")


def test_empty_policy_denies_every_rung(home, registry, add, live):
    live(1, "other")
    add()
    (home / "policy.toml").write_text("# nothing is said\n")

    with pytest.raises(PolicyDeniedError):
        registry.promote(ONE, actor="ada")

    assert stages(registry) == [Stage.DRAFT]


@pytest.mark.parametrize("to", [Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE])
def test_damaged_bytes_are_never_promoted(registry, add, to):
    version = add()
    rungs = [Stage.DRAFT, Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE]
    if to is not Stage.CANDIDATE:
        registry.promote(ONE, actor="ada", to=rungs[rungs.index(to) - 1])
    before = registry.history()
    damage(version)

    with pytest.raises(DamagedFilesError) as caught:
        registry.promote(ONE, actor="ada", to=to)

    assert "adapter_model.safetensors" in str(caught.value)
    assert registry.history() == before


def test_adapter_for_another_shape_is_refused_at_candidate(registry, base, tmp_path):
    folder = write_adapter(tmp_path / "wide", BaseShape(hidden=24))
    registry.add("bot", str(folder), actor="ada")

    with pytest.raises(PreflightRefusedError):
        registry.promote(ONE, actor="ada", to=Stage.LIVE)

    assert stages(registry) == [Stage.DRAFT]


def test_version_without_a_base_is_refused_and_bound_once_there_is_one(registry, tmp_path):
    registry.add("bot", str(write_adapter(tmp_path / "a")), actor="ada")
    with pytest.raises(NoBaseError) as caught:
        registry.promote(ONE, actor="ada")
    assert "base add" in caught.value.hint
    registry.add_base("tiny-moe", str(write_base(tmp_path / "base")), actor="ada")

    version = registry.promote(ONE, actor="ada").version

    assert version.base == "tiny-moe"
    assert [event.action for event in registry.history("bot")] == ["adapter.add", "adapter.bind", "adapter.promote"]


def test_version_whose_base_is_ambiguous_is_refused_naming_the_bases(registry, tmp_path):
    registry.add_base("one", str(write_base(tmp_path / "one", seed=1)), actor="ada")
    registry.add_base("two", str(write_base(tmp_path / "two", seed=2)), actor="ada")
    registry.add("bot", str(write_adapter(tmp_path / "a", base="elsewhere")), actor="ada")

    with pytest.raises(NoBaseError, match="elsewhere") as caught:
        registry.promote(ONE, actor="ada")

    assert "one|two" in caught.value.hint


def test_version_whose_base_has_other_bytes_now_is_refused(registry, add, home, clock):
    add()
    with registry._context.database.writing() as connection:
        connection.execute("UPDATE base SET removed_at = '2026-01-31T09:00:00.000000Z'")

    with pytest.raises(BaseGoneError):
        registry.promote(ONE, actor="ada")


def test_rollback_returns_to_the_version_before(registry, live):
    live(3)

    promotion = registry.rollback("bot", actor="grace", reason="worse answers")

    assert promotion.version.ref == VersionRef("bot", 2)
    assert promotion.replaced == VersionRef("bot", 3)
    assert stages(registry) == [Stage.APPROVED, Stage.LIVE, Stage.APPROVED]
    assert trail(registry)[-1] == ("adapter.rollback", "bot@2", "approved", "live")


def test_rollback_twice_goes_back_twice(registry, live):
    live(3)

    refs = [registry.rollback("bot", actor="ada").version.ref.number for _ in range(2)]

    assert refs == [2, 1]
    with pytest.raises(NothingToRollBackError) as caught:
        registry.rollback("bot", actor="ada")
    assert caught.value.hint


@pytest.mark.parametrize("verb", ["revoke", "retire", "demote"])
def test_rollback_works_when_nothing_is_live(registry, live, verb):
    live(2)
    getattr(registry, verb)(TWO, actor="ada", reason="x")

    promotion = registry.rollback("bot", actor="ada")

    assert promotion.version.ref == VersionRef("bot", 1)
    assert promotion.replaced is None


def test_rollback_skips_versions_that_are_not_approved(registry, live):
    live(3)
    registry.revoke(TWO, actor="ada", reason="x")

    assert registry.rollback("bot", actor="ada").version.ref == VersionRef("bot", 1)


def test_rollback_of_an_unknown_name_is_not_found(registry):
    with pytest.raises(AdapterNotFoundError):
        registry.rollback("absent", actor="ada")


def test_rollback_to_damaged_bytes_is_refused(registry, live):
    live(2)
    damage(registry.version(ONE))

    with pytest.raises(DamagedFilesError):
        registry.rollback("bot", actor="ada")

    assert registry.version(Ref("bot", None)).ref == VersionRef("bot", 2)


def test_refusal_is_written_down_and_moves_nothing(registry, live):
    live(1)

    registry.record_refusal(VersionRef("bot", 1), actor="server", reason="bytes differ", detail={"path": "x"})

    event = registry.history("bot")[-1]
    assert (event.action, event.from_stage, event.to_stage) == ("adapter.refused", None, None)
    assert event.detail == {"path": "x"}
    assert stages(registry) == [Stage.LIVE]
    with pytest.raises(VersionNotFoundError):
        registry.record_refusal(VersionRef("bot", 9), actor="server", reason="x", detail={})


def test_history_can_be_asked_for_the_past(registry, live, clock):
    live(1)
    moment = clock.now
    clock.now += timedelta(hours=1)
    registry.revoke(ONE, actor="ada", reason="x")

    assert registry.live_at(moment) == (VersionRef("bot", 1),)
    assert registry.live_at(clock.now) == ()
    assert len(registry.history("bot", at=moment)) == 4
    assert len(registry.history("bot")) == 5
    assert registry.history("tiny-moe")[0].action == "base.add"
    with pytest.raises(AdapterNotFoundError):
        registry.history("absent")


def test_history_of_a_name_is_not_that_of_a_longer_one(registry, add):
    add("bot", 0)
    add("bot2", 0)
    add("bot.x", 0)

    assert {event.subject for event in registry.history("bot")} == {"bot@1"}


def test_snapshot_holds_what_may_answer_and_what_answered_before(registry, live, add):
    live(3)
    add("bot", 8)
    live(1, "other")

    snapshot = registry.snapshot("tiny-moe")

    assert [str(version.ref) for version in snapshot.versions] == ["bot@1", "bot@2", "bot@3", "other@1"]
    assert snapshot.previously_live == {"bot": (2, 1)}
    assert snapshot.base.name == "tiny-moe"
    assert snapshot.sequence == registry.history()[-1].sequence


def test_snapshot_of_a_name_without_a_live_version_names_no_fallback(registry, live):
    live(2)
    registry.retire(TWO, actor="ada", reason="x")

    snapshot = registry.snapshot("tiny-moe")

    assert [version.ref.number for version in snapshot.versions] == [1]
    assert snapshot.previously_live == {}


def test_changes_tell_of_every_commit(registry, add):
    seen = {registry.changes()}
    add()
    seen.add(registry.changes())
    registry.promote(ONE, actor="ada")
    seen.add(registry.changes())

    assert len(seen) == 3
    assert registry.changes() in seen


def test_versions_are_filtered(registry, live, add):
    live(2)
    add("other", 0)

    assert [str(v.ref) for v in registry.versions()] == ["bot@1", "bot@2", "other@1"]
    assert [str(v.ref) for v in registry.versions(stage=Stage.LIVE)] == ["bot@2"]
    assert [str(v.ref) for v in registry.versions(name="other", base="tiny-moe")] == ["other@1"]
    assert registry.versions(base="absent") == ()
    assert registry.versions()[0].path.is_dir()


@pytest.fixture
def meanwhile(home, clock, monkeypatch):
    """Let somebody else do one thing between the checks and the commit."""

    def _meanwhile(act):
        real = lifecycle.gather_evidence
        pending = [act]

        def gather(*arguments, **options):
            evidence = real(*arguments, **options)
            if pending:
                with Registry.open(home, clock=clock) as other:
                    pending.pop()(other)
            return evidence

        monkeypatch.setattr(lifecycle, "gather_evidence", gather)

    return _meanwhile


def test_promotion_is_judged_anew_when_somebody_else_moved_the_version(registry, add, meanwhile):
    add()
    meanwhile(lambda other: other.promote(ONE, actor="grace"))

    promotion = registry.promote(ONE, actor="ada", to=Stage.APPROVED)

    assert promotion.from_stage is Stage.CANDIDATE
    assert promotion.entered == (Stage.APPROVED,)


def test_version_that_is_revoked_meanwhile_is_not_promoted(registry, add, meanwhile):
    add()
    meanwhile(lambda other: other.revoke(ONE, actor="grace", reason="x"))

    with pytest.raises(StageError):
        registry.promote(ONE, actor="ada", to=Stage.LIVE)

    assert stages(registry) == [Stage.REVOKED]


def test_rollback_chooses_anew_when_its_target_is_gone(registry, live, meanwhile):
    live(3)
    meanwhile(lambda other: other.revoke(TWO, actor="grace", reason="x"))

    assert registry.rollback("bot", actor="ada").version.ref == VersionRef("bot", 1)


def test_large_version_is_not_hashed_on_its_way_to_approved(registry, add, monkeypatch):
    version = add()
    registry.promote(ONE, actor="ada")
    monkeypatch.setattr("loractl_registry.climbing.ALWAYS_HASHED_BYTES", 0)
    damage(version)

    assert registry.promote(ONE, actor="ada").entered == (Stage.APPROVED,)
    with pytest.raises(DamagedFilesError):
        registry.promote(ONE, actor="ada")


def test_preflight_can_be_asked_for_without_promoting(registry, add):
    add()

    report = registry.preflight(ONE)

    assert report.rank == 4
    assert stages(registry) == [Stage.DRAFT]


def test_manifest_names_the_stored_files(registry, add):
    version = add()

    manifest = registry.manifest(ONE)

    assert manifest.digest == version.digest
    assert [entry.path for entry in manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]
