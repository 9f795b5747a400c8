"""The order in which versions were live: what rollback returns to."""

import pytest

from loractl_registry._store.audit import LiveEvent
from loractl_registry.reading import earlier_numbers, live_stacks
from loractl_registry.refs import VersionRef


def events(text):
    """Read ``+2`` as a promotion to live, ``<1`` as a rollback, ``-2`` as a departure."""
    actions = {"+": "adapter.promote", "<": "adapter.rollback", "-": "adapter.demote"}
    return tuple(LiveEvent(actions[word[0]], VersionRef("bot", int(word[1:])), word[0] != "-") for word in text.split())


@pytest.mark.parametrize(
    ("text", "earlier"),
    [
        pytest.param("+1", (), id="first"),
        pytest.param("+1 -1 +2", (1,), id="second"),
        pytest.param("+1 -1 +2 -2 +3", (2, 1), id="third"),
        pytest.param("+1 -1 +2 -2 +3 -3 <2", (1,), id="rolled-back-once"),
        pytest.param("+1 -1 +2 -2 +3 -3 <2 -2 <1", (), id="rolled-back-twice"),
        pytest.param("+1 -1 +2 -2 +3 -3 <1", (), id="rolled-back-over-one"),
        pytest.param("+1 -1 +2 -2 +1", (2,), id="promoted-again"),
        pytest.param("+1 -1 +2 -2 +1 -1 <2", (1,), id="promoted-again-and-rolled-back"),
        pytest.param("+1 -1 +2 -2", (1,), id="none-live-now"),
        pytest.param("<1", (), id="rollback-without-a-past"),
    ],
)
def test_earlier_live_versions_come_newest_first(text, earlier):
    assert earlier_numbers(live_stacks(events(text))["bot"]) == earlier
