"""Who signs, who is trusted, and with what roles."""

import pytest
from support.registry import write_adapter, write_base
from support.tampering import made_older, run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry.errors import DeniedError, NotFoundError, UsageError
from loractl_registry.ledger.errors import (
    AmbiguousIdentityError,
    IdentityExistsError,
    NoIdentityError,
    NoSuchIdentityError,
    UntrustedIdentityError,
)
from loractl_registry.ledger.identities import identity_name
from loractl_registry.refusals import PolicyDeniedError, SelfApprovalError, StageError
from loractl_registry.trust.errors import IdentityError, LastOperatorError, PassphraseNeededError, RoleError

BOT = Ref("bot", 1)
REVIEWED = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["role:reviewer"]
[adapter.approved.approvals]
count = 1
by = ["role:reviewer"]
[adapter.live]
by = ["role:operator"]
"""


@pytest.fixture
def enrolled(registry, home, clock):
    """Open the home as another identity, which the first one trusts with `roles`."""
    opened = []

    def _enrolled(name, *roles):
        made = registry.identities.create(name, actor="ada")
        as_first = Registry.open(home, clock=clock, identity="ada")
        opened.append(as_first)
        if roles:
            as_first.identities.trust(made.name, home / f"keys/{name}.pem.pub", roles, actor="ada")
        opened.append(Registry.open(home, clock=clock, identity=name))
        return opened[-1]

    registry.identities.create("ada", actor="ada")
    yield _enrolled
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    ("actor", "name"),
    [("ada", "ada"), ("Ada Lovelace", "ada-lovelace"), ("uid-1000", "uid-1000"), ("ø", "owner"), ("x" * 90, "x" * 63)],
)
def test_first_identity_is_named_after_the_actor(registry, tmp_path, actor, name):
    registry.add_base("tiny-moe", str(write_base(tmp_path / "base")), actor=actor)

    (found,) = registry.identities.select()
    assert (found.name, found.is_trusted, found.is_here) == (name, True, True)
    assert identity_name(actor) == name
    event = registry.history(name)[-1]
    assert (event.action, event.actor, event.detail["key_id"]) == ("identity.create", actor, found.key_id)


def test_refused_change_makes_no_identity(registry, add, home):
    add()
    made_older(home)

    with pytest.raises(NotFoundError):
        registry.promote(Ref("bot", 9), actor="ada")
    with pytest.raises(NotFoundError):
        registry.remove_base("nothing", actor="ada")
    with pytest.raises(StageError):
        registry.demote(BOT, actor="ada", reason="x")

    assert registry.identities.select() == ()


def test_home_with_a_policy_of_its_own_asks_for_an_identity(registry, add, home):
    add()
    made_older(home)
    (home / "policy.toml").write_text(REVIEWED)

    with pytest.raises(NoIdentityError) as caught:
        registry.promote(BOT, actor="ada")

    assert "loractl identity create NAME" in caught.value.hint


def test_several_private_keys_need_a_choice(registry, enrolled, add, home, clock):
    add()
    enrolled("grace", "reviewer")

    with pytest.raises(AmbiguousIdentityError, match="ada, grace"):
        registry.promote(BOT, actor="ada")
    with pytest.raises(AmbiguousIdentityError, match="ada, grace"):
        add("other", 1)
    with Registry.open(home, clock=clock, identity="nobody") as lost, pytest.raises(NoSuchIdentityError):
        lost.promote(BOT, actor="ada")


def test_key_that_is_not_trusted_signs_nothing(enrolled, add):
    add()
    stranger = enrolled("eve")

    with pytest.raises(UntrustedIdentityError, match="is not trusted here"):
        stranger.promote(BOT, actor="eve")


def test_home_without_its_private_key_signs_nothing(registry, add, home):
    add()
    (home / "keys/ada.pem").unlink()

    with pytest.raises(NoIdentityError):
        registry.promote(BOT, actor="ada")
    with pytest.raises(NoIdentityError):
        add("other", 1)


def test_role_that_may_not_sign_changes_nothing(enrolled, registry, add, tmp_path):
    add()
    auditor = enrolled("olga", "auditor")
    before = registry.history()

    with pytest.raises(RoleError, match="olga is auditor"):
        auditor.promote(BOT, actor="olga")
    with pytest.raises(RoleError, match="olga is auditor"):
        auditor.add("other", str(write_adapter(tmp_path / "other", seed=1)), actor="olga")

    assert registry.history() == before
    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_revoked_identity_signs_nothing_more_and_what_it_signed_stays(enrolled, registry, add, home, clock):
    add()
    grace = enrolled("grace", "reviewer", "operator")
    grace.promote(BOT, actor="grace", to=Stage.LIVE)

    with Registry.open(home, clock=clock, identity="ada") as first:
        ended = first.identities.revoke("grace", actor="ada", reason="left")
        with pytest.raises(NoSuchIdentityError):
            first.identities.revoke("grace", actor="ada", reason="again")

    assert [one.is_revoked for one in ended] == [True]
    with pytest.raises(UntrustedIdentityError, match="was revoked"):
        grace.demote(BOT, actor="grace", reason="x")
    assert [str(version.ref) for version in registry.snapshot("tiny-moe").versions] == ["bot@1"]


def test_last_operator_stays(registry, enrolled, home, clock):
    enrolled("grace", "reviewer")

    with Registry.open(home, clock=clock, identity="ada") as first, pytest.raises(LastOperatorError):
        first.identities.revoke("ada", actor="ada", reason="x")


def test_roles_can_be_changed_by_another_operator_alone(enrolled, registry, home):
    grace = enrolled("grace", "operator")

    made = grace.identities.trust("ada", home / "keys/ada.pem.pub", ["reviewer"], actor="grace", reason="less")

    assert made.roles == ("reviewer",)
    with pytest.raises(IdentityError):
        grace.identities.trust("grace", home / "keys/grace.pem.pub", ["auditor"], actor="grace")
    assert [one.roles for one in registry.identities.named("ada")] == [("reviewer",)]


def test_identity_is_created_once(registry, enrolled):
    enrolled("grace", "reviewer")

    with pytest.raises(IdentityExistsError):
        registry.identities.create("grace", actor="ada")
    with pytest.raises(NoSuchIdentityError):
        registry.identities.named("nobody")


def test_key_with_a_passphrase_asks_for_it(home, clock, registry, base, tmp_path):
    made_older(home)
    registry.identities.create("ada", actor="ada", passphrase=lambda: "correct horse")
    folder = str(write_adapter(tmp_path / "adapter"))

    with pytest.raises(PassphraseNeededError, match=r"ada\.pem"):
        registry.add("bot", folder, actor="ada")
    with Registry.open(home, clock=clock, passphrase=lambda: "correct horse") as opened:
        opened.add("bot", folder, actor="ada")
        assert opened.promote(BOT, actor="ada").entered == (Stage.CANDIDATE,)


def test_key_pair_that_was_half_written_does_not_stand_in_the_way(registry, home, add):
    add()
    made_older(home)
    (home / "keys").mkdir()
    (home / "keys/ada.pem.pub").write_text("half")

    assert registry.promote(BOT, actor="ada").entered == (Stage.CANDIDATE,)


@pytest.fixture
def team(registry, enrolled, add, home):
    """A candidate that ada added, under a policy that asks for another reviewer."""
    add()
    rita = enrolled("rita", "reviewer")
    (home / "policy.toml").write_text(REVIEWED)
    rita.promote(BOT, actor="rita")
    return rita


def test_policy_counts_signed_approvals(team, enrolled, registry):
    with pytest.raises(PolicyDeniedError, match=r"0 of 1 count.*adapter.approved.approvals"):
        team.promote(BOT, actor="rita")

    given = team.approve(BOT, actor="rita", reason="read it")
    again = team.approve(BOT, actor="rita", reason="read it again")
    found = registry.approvals(BOT)
    promotion = team.promote(BOT, actor="rita")

    assert (given.is_new, again.is_new, given.statement) == (True, False, again.statement)
    assert [(one.identity, one.roles, one.reason, one.is_valid) for one in found.given] == [
        ("rita", ("reviewer",), "read it", True)
    ]
    assert [(need.rule, need.is_met) for need in found.needed] == [("adapter.approved.approvals", True)]
    assert promotion.entered == (Stage.APPROVED,)
    assert registry.history("bot")[-2].action == "adapter.approve"


def test_whoever_added_a_version_does_not_approve_it(team, home, clock, registry):
    with (
        Registry.open(home, clock=clock, identity="ada") as uploader,
        pytest.raises(SelfApprovalError, match="ada added it"),
    ):
        uploader.approve(BOT, actor="somebody else", reason="mine")

    assert registry.approvals(BOT).given == ()


def test_approval_falls_with_the_key(team, home, clock, registry):
    team.approve(BOT, actor="rita", reason="read it")

    with Registry.open(home, clock=clock, identity="ada") as first:
        first.identities.revoke("rita", actor="ada", reason="left")
        with pytest.raises(PolicyDeniedError):
            first.promote(BOT, actor="ada")

    assert [(one.roles, one.is_valid) for one in registry.approvals(BOT).given] == [((), False)]


def test_approvals_end_when_a_version_leaves_what_is_servable(team, registry):
    team.approve(BOT, actor="rita", reason="read it")
    team.promote(BOT, actor="rita")
    team.demote(BOT, actor="rita", reason="worse than thought")

    with pytest.raises(PolicyDeniedError):
        team.promote(BOT, actor="rita")
    assert registry.approvals(BOT).given == ()


def test_draft_has_no_rung_to_approve(registry, add):
    add()

    with pytest.raises(StageError, match="cannot approve bot@1: it is draft"):
        registry.approve(BOT, actor="ada", reason="x")
    assert registry.approvals(BOT).to is None


def test_policy_that_cannot_be_read_lets_nothing_climb(registry, add, home):
    add()
    (home / "policy.toml").write_text("base.by = [\n")

    with pytest.raises(UsageError, match=r"policy\.toml line"):
        registry.promote(BOT, actor="ada")


def test_audit_row_of_an_identity_cannot_be_edited_unseen(registry, home):
    registry.identities.create("ada", actor="ada")
    run_sql(home, "UPDATE audit SET actor = 'eve'")

    problems = registry.identities.verify().problems

    assert problems == ("audit row 1 or the one before it was changed",)
    assert [finding.kind for finding in registry.check_database()] == ["audit"]


def test_errors_of_identities_are_denials_or_name_what_is_missing():
    assert issubclass(UntrustedIdentityError, DeniedError)
    assert issubclass(NoIdentityError, NotFoundError)
