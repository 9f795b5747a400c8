"""From which statement on every version has a signed addition, so that a row that somebody inserts is found."""

import sys

import pytest
from support.registry import write_adapter
from support.tampering import made_older, run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry.evidence import EvidenceType
from loractl_registry.ledger import adopting
from loractl_registry.ledger.chains import verified_chain
from loractl_registry.ledger.errors import DisagreementError

BOT, EVIL = Ref("bot", 1), Ref("evil", 1)
PUT_IN = "INSERT INTO version SELECT 'evil', 1, 'draft', digest, base_id, provenance, added_at, added_by FROM version"
PUT_IN += " WHERE name = 'bot' AND number = 1"
NEVER_ADDED = "evil@1: it is in the database, and no signed statement says that it was added"


def inventories(registry):
    context = registry._context
    with context.database.reading() as connection:
        chain = verified_chain(context, connection)
    return [one.statement.predicate for one in chain.statements if one.statement.predicate.act == "inventory"]


def test_new_home_has_nothing_older(registry, add):
    add()

    (inventory,) = inventories(registry)

    assert (inventory.versions, inventory.is_last) == ((), True)
    assert registry.identities.verify().problems == ()


def test_draft_that_somebody_inserted_builds_nothing_and_is_named(registry, add, home, tmp_path):
    add()
    run_sql(home, PUT_IN)
    (tmp_path / "results.json").write_text('{"acc": 1.0}')

    for build in (
        lambda: registry.promote(EVIL, actor="ada"),
        lambda: registry.sign_files(EVIL, actor="ada"),
        lambda: registry.evidence.add(EVIL, tmp_path / "results.json", EvidenceType.EVAL, actor="ada"),
        lambda: registry.evidence.scan(EVIL, (sys.executable, "-c", ""), actor="ada"),
    ):
        with pytest.raises(DisagreementError, match="no signed statement says that it was added"):
            build()

    assert NEVER_ADDED in registry.identities.verify().problems
    assert "no signed statement" in registry.identities.standing(registry.version(EVIL)).objection
    registry.promote(BOT, actor="ada", to=Stage.LIVE)
    assert [str(one.ref) for one in registry.snapshot("tiny-moe").versions] == ["bot@1"]


def test_draft_that_somebody_inserted_can_be_revoked(registry, add, home):
    add()
    run_sql(home, PUT_IN)

    registry.revoke(EVIL, actor="ada", reason="nobody added it")

    assert registry.version(EVIL).stage is Stage.REVOKED


def test_home_from_before_statements_lists_its_drafts_and_goes_on(registry, add, home, clock):
    add()
    add("poet", 1)
    registry.promote(Ref("poet", 1), actor="ada", to=Stage.LIVE)
    made_older(home)

    with Registry.open(home, clock=clock) as older:
        older.promote(BOT, actor="ada")
        run_sql(home, PUT_IN)

        (inventory,) = inventories(older)
        assert [one.name for one in inventory.versions] == ["bot@1", "poet@1"]
        assert older.identities.verify().problems == (NEVER_ADDED,)
        with pytest.raises(DisagreementError):
            older.promote(EVIL, actor="ada")
        older.promote(BOT, actor="ada", to=Stage.LIVE)
        assert [str(one.ref) for one in older.snapshot("tiny-moe").versions] == ["bot@1", "poet@1"]


def test_long_list_takes_several_statements(registry, add, home, clock, monkeypatch):
    for seed in range(5):
        add("bot", seed)
    made_older(home)
    monkeypatch.setattr(adopting, "MAX_ITEMS", 2)

    with Registry.open(home, clock=clock) as older:
        older.promote(BOT, actor="ada")

        assert [(len(one.versions), one.is_last) for one in inventories(older)] == [(2, False), (2, False), (1, True)]
        assert older.identities.verify().problems == ()


@pytest.fixture
def chained(registry, add, home, clock, tmp_path, monkeypatch):
    """A home whose chain began before there were lists, with an older draft; ada operates, carl contributes."""
    add()
    made_older(home)
    opened = []
    with monkeypatch.context() as older:
        older.setattr(adopting, "list_older", lambda _: None)
        with Registry.open(home, clock=clock) as first:
            for name in ("ada", "carl"):
                first.identities.create(name, actor="ada")
        opened.append(Registry.open(home, clock=clock, identity="ada"))
        opened[0].identities.trust("carl", home / "keys/carl.pem.pub", ["contributor"], actor="ada")
    opened.append(Registry.open(home, clock=clock, identity="carl"))
    yield opened
    for each in opened:
        each.close()


def test_operator_s_next_statement_lists_what_is_older_in_a_chain_without_a_list(chained, home, tmp_path):
    ada, carl = chained
    carl.add("novel", str(write_adapter(tmp_path / "novel", seed=9)), actor="carl", base="tiny-moe")
    assert inventories(ada) == []
    assert ada.identities.verify().problems == ()

    ada.promote(Ref("novel", 1), actor="ada")
    run_sql(home, PUT_IN)

    (inventory,) = inventories(ada)
    assert [one.name for one in inventory.versions] == ["bot@1"]
    assert ada.identities.verify().problems == (NEVER_ADDED,)
    carl.promote(BOT, actor="carl")
    with pytest.raises(DisagreementError):
        carl.promote(EVIL, actor="carl")
