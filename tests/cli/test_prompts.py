"""Questions are asked on a terminal, and nowhere else."""

from __future__ import annotations

import pytest
from support.cli import LORACTL, Terminal, clean_environment


@pytest.fixture
def terminal(lived_in):
    def start(*argv: str, **environment: str) -> Terminal:
        return Terminal([*LORACTL, *argv], clean_environment(lived_in, NO_COLOR="1", **environment))

    return start


def test_revoke_asks_and_yes_revokes(terminal, cli):
    session = terminal("revoke", "support-bot@1", "--reason", "leaks")

    session.expect("revoke support-bot@1, which is approved, for good? [y/N]")
    session.send("y\n")

    assert session.wait() == 0
    assert cli("show", "support-bot@1", "--json").data["stage"] == "revoked"


def test_no_changes_nothing_and_is_1(terminal, cli):
    session = terminal("revoke", "support-bot@1", "--reason", "leaks")

    session.expect("[y/N]")
    session.send("\n")

    assert session.wait() == 1
    assert "nothing was changed" in session.text
    assert cli("show", "support-bot@1", "--json").data["stage"] == "approved"


def test_ctrl_c_at_a_question_is_130(terminal):
    session = terminal("revoke", "support-bot@1", "--reason", "leaks")

    session.expect("[y/N]")
    session.send("\x03")

    assert session.wait() == 130
    assert "Traceback" not in session.text


def test_missing_reason_is_asked_for(terminal, cli):
    session = terminal("retire", "support-bot@1")

    session.expect("Reason for retiring support-bot@1")
    session.send("too old\n")

    assert session.wait() == 0
    assert cli("history", "support-bot", "--json").data[-1]["reason"] == "too old"


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        pytest.param(("revoke", "support-bot@1", "--reason", "x"), "--yes", id="revoke"),
        pytest.param(("retire", "support-bot@1"), "--reason", id="retire"),
        pytest.param(("base", "remove", "tiny-moe"), "--yes", id="base-remove"),
        pytest.param(("fsck", "--repair"), "--yes", id="fsck-repair"),
    ],
)
def test_no_input_fails_naming_the_flag_even_on_a_terminal(terminal, cli, lived_in, argv, flag):
    session = terminal(*argv, "--no-input")

    assert session.wait() == 2
    assert flag in session.text
    assert cli(*argv).code == 2


def test_gc_asks_only_when_there_is_something_to_remove(cli, lived_in):
    assert cli("gc").code == 0
    cli("revoke", "support-bot@1", "--reason", "x", "--yes")

    refused = cli("gc", "--no-input")

    assert refused.code == 2
    assert "--yes" in refused.err
