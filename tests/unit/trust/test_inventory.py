"""What is older than additions: a list that is taken once."""

import pytest
from pydantic import ValidationError

from loractl_registry.ledger.standing import Standings
from loractl_registry.refs import VersionRef
from loractl_registry.trust import InventoryStatement, OlderVersion, home_subject

BOT, POET = VersionRef("bot", 3), VersionRef("poet", 1)
CONTENT, OTHER = (f"sha256:{digit * 64}" for digit in "ae")


def listed(*refs, digest=CONTENT):
    return tuple(OlderVersion(name=str(ref), digest=digest) for ref in refs)


def take(home, **changes):
    home.take(home.inventory(**changes), by="ada")
    return Standings(home.chain)


def test_nothing_is_complete_without_a_list(home):
    assert not Standings(home.chain).is_complete


def test_list_goes_on_until_it_ends(home):
    assert not take(home, versions=listed(BOT), is_last=False).is_complete

    standings = take(home, versions=listed(POET))

    assert standings.is_complete
    assert standings[BOT].is_older
    assert standings[POET].is_older


def test_nothing_is_older_than_the_end_of_the_list(home):
    take(home, versions=())

    assert BOT not in take(home, versions=listed(BOT))


def test_version_with_an_addition_is_not_older(home):
    home.take(home.addition(), by="ada")

    assert not take(home, versions=listed(BOT))[BOT].is_older


def test_list_counts_for_these_bytes_alone(home):
    home.take(home.testimony(), by="ada")

    assert not take(home, versions=listed(BOT, digest=OTHER))[BOT].is_older


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"reason": ""}, id="no-reason"),
        pytest.param({"versions": listed(BOT) * 1001}, id="too-many"),
    ],
)
def test_malformed_list_is_refused(home, changes):
    with pytest.raises(ValidationError):
        home.inventory(**changes)


def test_list_is_about_its_own_home(home):
    with pytest.raises(ValidationError, match="the id of the home"):
        InventoryStatement(subject=home_subject("0" * 64), predicate=home.inventory().predicate)
