"""Data on stdout, talk on stderr, and both fit where they are shown."""

from __future__ import annotations

import json
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cli import LORACTL, Terminal, clean_environment, plain, run_process

import loractl
from loractl.cli.context import AppContext, Flags
from loractl.cli.grammar import TREE
from loractl.cli.progress import Bar, Working
from loractl.cli.style import Style, clean, shorten, size_text
from loractl.cli.tables import Column, table

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [path for path, node in TREE.items() if path and not node.commands]


@pytest.mark.parametrize("path", [*TREE], ids=lambda path: path or "loractl")
def test_every_command_has_help_that_fits(cli, monkeypatch, path):
    result = cli(*path.split(), "--help")

    assert (result.code, result.err) == (0, "")
    assert TREE[path].summary.split()[0] in result.out
    assert max(map(len, result.out.splitlines())) <= 100


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_and_helps_every_word(path):
    node = TREE[path]

    assert all(example.startswith(f"loractl {path}") or "=" in example.split()[0] for example in node.examples)
    assert node.examples
    assert all(param.help for param in (*node.arguments, *node.options))


@pytest.mark.parametrize("path", COMMANDS)
def test_help_through_the_parser_is_the_same_help(cli, path):
    fast = cli(*path.split(), "--help").out

    assert cli(*path.split(), "--quiet", "--help").out.rstrip() == fast.rstrip()


def test_version_is_the_distribution_s(cli):
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]

    assert loractl.__version__ == declared
    assert cli("--version").out == f"loractl {declared}\n"
    assert cli("--json", "--version").out == f"loractl {declared}\n"


@pytest.mark.parametrize("argv", [("--json", "list"), ("list", "--json"), ("base", "--json", "list")])
def test_json_goes_before_or_after_the_command(cli, lived_in, argv):
    assert isinstance(cli(*argv).data, list)


def test_home_flag_wins_over_the_environment(cli, lived_in, tmp_path):
    assert cli("list", "--home", str(tmp_path / "other"), "--json").data == []
    assert cli("--home", str(tmp_path / "other"), "list", "--json").data == []


def test_without_a_terminal_there_is_no_escape_and_nothing_is_cut(cli, lived_in):
    result = cli("show", "support-bot")

    assert "\x1b" not in result.out + result.err
    assert f"{lived_in}/store/sha256" in result.out
    assert "next: loractl history support-bot" in result.err


def test_quiet_says_nothing_beside_the_result(cli, lived_in):
    assert cli("show", "support-bot", "--quiet").err == ""


def test_terminal_has_colour_and_no_color_takes_it(lived_in):
    coloured = Terminal([*LORACTL, "list"], clean_environment(lived_in))
    bare = Terminal([*LORACTL, "list"], clean_environment(lived_in, NO_COLOR="1"))

    assert (coloured.wait(), bare.wait()) == (0, 0)
    assert "\x1b[1;32mlive" in coloured.raw
    assert "\x1b[" not in bare.raw
    assert "support-bot@2" in bare.text


@pytest.mark.parametrize("argv", [("list",), ("show", "support-bot"), ("history",), ("promote", "--help"), ("doctor",)])
def test_narrow_terminal_is_not_overrun(lived_in, argv):
    lived_in.chmod(0o700)
    terminal = Terminal([*LORACTL, *argv], clean_environment(lived_in, COLUMNS="40"), columns=40)

    assert terminal.wait() == 0
    lines = terminal.text.splitlines()
    assert [line for line in lines if len(line) > 40 and not line.startswith(("  loractl", "next:"))] == []


def test_text_from_outside_cannot_act_on_the_terminal(cli, lived_in, inputs):
    added = cli("add", "evil", str(inputs / "strange"), "--note", "\x1b[2Jgone\u202e")

    shown = cli("show", "evil@1")

    assert added.code == 0
    assert "\x1b" not in shown.out
    assert "\\x1b[2Jgone\\u202e" in shown.out


def test_odd_bytes_on_the_command_line_come_back_escaped(home):
    result = run_process(["show", "caf\udce9@1"], clean_environment(home, PYTHONIOENCODING="ascii"))

    assert result.code == 2
    assert "Traceback" not in result.err


def test_usage_error_under_json_is_json(home):
    result = run_process(["list", "--json", "--stage", "golden"], clean_environment(home))

    assert result.code == 2
    assert json.loads(result.err)["error"]["code"] == "cli.usage"


def test_table_drops_the_least_important_column_first_and_says_so():
    columns = [Column("name"), Column("size", priority=1), Column("digest", priority=2)]
    lines = list(table(columns, [("a" * 20, "10", "f" * 20)], Style(has_colour=False, width=30)))

    assert lines[0].split() == ["name", "size"]
    assert "digest not shown" in " ".join(lines[2:])


def test_table_of_wide_letters_is_aligned():
    lines = list(
        table([Column("name"), Column("n")], [("日本", "1"), ("abcd", "2")], Style(has_colour=False, width=None))
    )

    assert lines[1:] == ["日本  1", "abcd  2"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (5 * 10**15, "5.0 PB")],
)
def test_size_is_readable(size, text):
    assert size_text(size) == text


def test_clean_keeps_ordinary_text_and_spells_out_the_rest():
    assert clean("naïve 日本") == "naïve 日本"
    assert clean("a\x07\x9b\u2066") == "a\\x07\\x9b\\u2066"


def test_shorten_says_that_something_is_missing():
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("日本語", 4) == "日…"


def test_plain_is_what_a_terminal_shows():
    assert plain("\x1b[1mx\x1b[0m\r\n") == "x\n"


@pytest.mark.parametrize("argv", [(), ("base",), ("config",), ("completion",), ("base", "--quiet")])
def test_a_group_alone_shows_its_help(cli, argv):
    result = cli(*argv)

    assert (result.code, result.err) == (0, "")
    assert "Usage: loractl" in result.out


def test_misspelt_command_is_told_which_is_meant(cli):
    assert "did you mean 'promote'" in cli("promte").err


def test_bar_appears_after_a_moment_and_goes(monkeypatch, capsys):
    bar = Bar()
    bar.start("hashing", 100)
    bar.advance(10)
    assert capsys.readouterr().err == ""

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("loractl.cli.progress._PATIENCE_S", 0.0)
    bar.start("hashing", 100)
    bar.advance(10)
    bar.advance(90)
    bar.done()
    bar.done()

    assert "hashing" in capsys.readouterr().err


def test_no_bar_without_a_terminal(cli, lived_in):
    assert AppContext(Flags(), ExitStack()).progress is None


def test_spinner_appears_after_a_moment_and_goes(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Working("quick"):
        pass
    assert capsys.readouterr().err == ""

    monkeypatch.setattr("loractl.cli.progress._PATIENCE_S", 0.0)
    with Working("hashing") as working:
        working._timer.join()

    assert "hashing" in capsys.readouterr().err
