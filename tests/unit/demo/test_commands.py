import sys
from pathlib import Path

import pytest

from loractl.demo.commands import Shell, demo_environment, loractl_argv


def test_environment_keeps_nothing_of_the_callers_registry(tmp_path: Path) -> None:
    inherited = {"PATH": "/bin", "LORACTL_HOME": "/precious", "LORACTL_DEVICE": "cuda", "LORACTL_ACTOR": "ada"}

    environment = demo_environment(tmp_path, inherited)

    assert environment["LORACTL_HOME"] == str(tmp_path)
    assert environment["LORACTL_ACTOR"] == "ada"
    assert environment["PATH"] == "/bin"
    assert "LORACTL_DEVICE" not in environment


def test_argv_runs_this_installation_with_the_words_as_typed() -> None:
    assert loractl_argv("loractl promote a@1 --reason 'is fine'") == [
        *(sys.executable, "-m", "loractl"),
        *("promote", "a@1", "--reason", "is fine"),
    ]


def test_argv_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not a loractl command"):
        loractl_argv("rm -rf /")


@pytest.mark.parametrize("columns", [None, 60])
def test_shell_returns_output_and_exit_code(tmp_path: Path, columns: int | None) -> None:
    shell = Shell(tmp_path, demo_environment(tmp_path / "home", {}), columns)

    version, wrong = shell.run("loractl --version"), shell.run("loractl show nobody@1")

    assert (version.exit_code, version.output.partition(" ")[0]) == (0, "loractl")
    assert wrong.exit_code == 4
    assert "nobody@1" in wrong.output


def test_shell_rows_of_a_failing_command_are_empty(tmp_path: Path) -> None:
    shell = Shell(tmp_path, demo_environment(tmp_path / "home", {}), None)

    assert shell.rows("loractl show nobody@1 --json") == []
