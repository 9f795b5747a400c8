"""Tab offers what is right for each word, in every shell, and never hurts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Terminal, clean_environment

from loractl.cli.completing import complete, split_line
from loractl.cli.generate import generated
from loractl.cli.grammar import TREE
from loractl.cli.installing import install_plan
from loractl.cli.scripts import FILE_NAMES, Shell, script_of
from loractl_registry import Registry

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def offered(lived_in):
    def ask(*words: str) -> list[str]:
        return [value for value, _ in complete(TREE, words, {"LORACTL_HOME": str(lived_in)}).candidates]

    return ask


def test_what_is_checked_in_is_what_is_generated():
    stale = [name for name, text in generated().items() if (REPOSITORY / name).read_text(encoding="utf-8") != text]

    assert stale == [], "run: python -m loractl.cli.generate"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(("prom",), ["promote"], id="command"),
        pytest.param(("base", "v"), ["verify"], id="subcommand"),
        pytest.param(("nonsense", ""), [], id="unknown-command"),
        pytest.param(("promote", ""), ["poet@1", "support-bot@3", "support-bot@1"], id="promotable"),
        pytest.param(("promote", "support-bot@"), ["support-bot@3", "support-bot@1"], id="promotable-of-one"),
        pytest.param(("promote", "poet@1", "--to", ""), ["candidate", "approved", "live"], id="rungs-above-draft"),
        pytest.param(("promote", "support-bot@3", "--to", ""), ["approved", "live"], id="rungs-above-candidate"),
        pytest.param(("promote", "support-bot@3", "--to=l"), ["--to=live"], id="rung-behind-equals"),
        pytest.param(("promote", "--to", "candidate", ""), ["poet@1"], id="promotable-to-candidate"),
        pytest.param(("demote", ""), ["support-bot@3", "support-bot@2", "support-bot@1"], id="demotable"),
        pytest.param(("reject", ""), ["support-bot@3"], id="rejectable"),
        pytest.param(("retire", ""), ["support-bot@2", "support-bot@1"], id="retirable"),
        pytest.param(("revoke", "p"), ["poet@1"], id="revocable"),
        pytest.param(("rollback", ""), ["support-bot"], id="rollback"),
        pytest.param(("show", "support-bot"), ["support-bot", *(f"support-bot@{n}" for n in (3, 2, 1))], id="refs"),
        pytest.param(("diff", "poet@1", "p"), [], id="not-twice"),
        pytest.param(
            ("verify", "poet@1", "support-bot@1", "support-bot@"), ["support-bot@3", "support-bot@2"], id="many"
        ),
        pytest.param(("history", ""), ["poet", "support-bot"], id="names"),
        pytest.param(("serve", ""), ["tiny-moe"], id="bases"),
        pytest.param(("serve", "tiny-moe", "--device", "c"), ["cuda", "cpu"], id="choices"),
        pytest.param(("serve", "tiny-moe", "--", "-"), [], id="engine-flags"),
        pytest.param(("list", "--stage", "re"), ["retired", "rejected", "revoked"], id="stages"),
        pytest.param(("list", "--stage", "live", "--sta"), [], id="option-once"),
        pytest.param(("add", "x", "y", "--trained-on", "z", "--tr"), ["--trained-on"], id="repeatable-option"),
        pytest.param(("add", "x", "y", "--base", ""), ["tiny-moe"], id="base-option"),
        pytest.param(("base", "remove", ""), ["tiny-moe"], id="base-argument"),
        pytest.param(("completion", "show", "--shell", "f"), ["fish"], id="shells"),
        pytest.param(("add", "x", "y", "--note", ""), [], id="free-text"),
        pytest.param(("dashboard", "export", ""), ["grafana", "prometheus"], id="dashboards"),
        pytest.param(("requests", "--outcome", "refused_q"), ["refused_quota"], id="outcomes"),
        pytest.param(("usage", "--by", ""), ["adapter", "tenant"], id="usage-by"),
    ],
)
def test_offers_what_fits(offered, words, expected):
    assert offered(*words) == expected


def test_offers_tenants_and_the_keys_that_can_be_revoked(offered, lived_in):
    with Registry.open(lived_in) as registry:
        for name in ("acme", "other"):
            registry.tenancy.add(name, actor="alice")
        registry.tenancy.add("gone", actor="alice")
        registry.tenancy.remove("gone", actor="alice", reason="x")
        kept, revoked = (registry.tenancy.create_key("acme", actor="alice")[0].prefix for _ in range(2))
        registry.tenancy.revoke_key(revoked, actor="alice", reason="x")

    assert offered("tenant", "show", "") == offered("key", "create", "") == ["acme", "other"]
    assert offered("key", "list", "--tenant", "o") == ["other"]
    assert offered("key", "revoke", "") == offered("key", "revoke", kept[:4]) == [kept]
    assert offered("tenant", "add", "new", "--adapter", "p") == ["poet"]


def test_offers_from_the_home_that_is_on_the_line(offered, tmp_path):
    assert offered("--home", str(tmp_path / "none"), "promote", "") == []


@pytest.mark.parametrize(("words", "kind"), [(("add", "x", ""), "folder"), (("import", ""), "file")])
def test_paths_are_left_to_the_shell(words, kind):
    assert complete(TREE, words, {}).paths == kind


def test_trouble_offers_nothing_and_is_silent(cli, home):
    home.mkdir()
    (home / "registry.db").write_bytes(b"no database at all")

    result = cli("__complete", "words", "promote", "")

    assert (result.code, result.out, result.err) == (0, "words\n", "")
    assert cli("__complete").code == 0
    assert cli("__complete", "line").code == 0


def test_completing_imports_nothing_heavy(lived_in):
    script = (
        "import sys; from loractl.cli.completing import answer; answer(['words', 'promote', '']);"
        " print(sorted({'typer', 'rich', 'pydantic', 'sqlmodel', 'torch', 'json', 'tomllib'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(lived_in), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [
        pytest.param(["list", "--stage", "live", "--name", "support-bot"], set(), id="list"),
        pytest.param(["history", "--at", "2h", "support-bot"], set(), id="history"),
        pytest.param(["revoke", "support-bot@1", "--reason", "x", "--yes"], {"pydantic"}, id="revoke"),
        pytest.param(["promote", "poet@1"], {"pydantic", "numpy"}, id="promote"),
    ],
)
def test_quick_commands_import_nothing_heavy(lived_in, argv, allowed):
    heavy = {"rich", "sqlmodel", "torch", "transformers", "huggingface_hub", "model_signing", "pydantic", "numpy"}
    heavy |= {"cryptography"} if argv[0] in ("list", "history") else set()
    heavy -= allowed
    script = (
        f"import sys; sys.argv = ['loractl', *{argv!r}]; from loractl.cli import main; main();"
        f" print(sorted({heavy!r} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(lived_in), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("loractl ", ["loractl", ""]),
        ("loractl pro", ["loractl", "pro"]),
        ("loractl add x 'a b' --note \"c d", ["loractl", "add", "x", "a b", "--note", "c d"]),
        ("loractl add a\\ b ''", ["loractl", "add", "a b", ""]),
        ("loractl add \\", ["loractl", "add", ""]),
    ],
)
def test_line_is_split_as_a_shell_does(line, words):
    assert split_line(line) == words


def test_bash_completes_for_real(lived_in, tmp_path):
    environment = clean_environment(lived_in, PS1="$ ", PATH=f"{_command_folder(tmp_path)}:{os.environ['PATH']}")
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], environment)
    shell.send(f'source {REPOSITORY}/completions/loractl.bash; echo rea""dy\n')
    shell.expect("ready")

    shell.send("loractl rollb\t")
    shell.expect("loractl rollback ")
    shell.send("\x15: ; loractl reject sup\t")
    shell.expect("loractl reject support-bot@3 ")
    shell.send("\x15: ; loractl promote poet@\t")
    shell.expect("loractl promote poet@1 ")
    shell.send("--to=l\t")
    shell.expect("--to=live ")
    shell.send("\x15: ; loractl show support-bot@\t\t")
    shell.expect("support-bot@")
    shell.send("2\t")
    shell.expect("support-bot@2 ")
    shell.send("\x15exit\n")
    shell.wait()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_script_is_valid_where_the_shell_is_there(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")

    done = subprocess.run([shell, "-n", REPOSITORY / "completions" / FILE_NAMES[Shell(shell)]], capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", list(Shell))
def test_show_prints_the_script_of_the_shell(cli, shell):
    assert cli("completion", "show", "--shell", shell).out == script_of(shell)
    assert cli("completion", "show", "--shell", shell, "--json").data == {"shell": shell, "script": script_of(shell)}


@pytest.mark.parametrize("shell", list(Shell))
def test_installing_twice_changes_nothing(cli, shell):
    first = cli("completion", "install", "--shell", shell, "--yes", "--json")
    before = _tree(Path(os.environ["HOME"]))

    second = cli("completion", "install", "--shell", shell, "--json")

    assert (first.code, second.code) == (0, 0)
    assert (first.data["is_changed"], second.data["is_changed"]) == (True, False)
    assert _tree(Path(os.environ["HOME"])) == before
    assert Path(first.data["script"]).read_text() == script_of(shell)


def test_start_up_file_is_asked_about_and_kept(cli):
    rc_file = Path(os.environ["HOME"]) / ".bashrc"
    rc_file.write_text("export MINE=1")

    refused = cli("completion", "install", "--shell", "bash")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert rc_file.read_text() == "export MINE=1"

    assert cli("completion", "install", "--shell", "bash", "--yes").code == 0
    assert rc_file.read_text().startswith("export MINE=1\n# loractl completion\n")


def test_installed_bash_loads_it(cli, lived_in, tmp_path):
    cli("completion", "install", "--shell", "bash", "--yes")

    done = subprocess.run(["bash", "-ic", "complete -p loractl"], capture_output=True, text=True, env=dict(os.environ))

    assert "complete -F _loractl loractl" in done.stdout


def test_unknown_shell_is_a_usage_error(cli, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    monkeypatch.setattr("loractl.cli.installing._parent_name", lambda: "pytest")

    assert cli("completion", "show").code == 2


def test_start_up_file_that_is_a_link_stays_one(tmp_path):
    home = tmp_path / "user"
    (home / "dotfiles").mkdir(parents=True)
    (home / "dotfiles" / "bashrc").write_text("")
    (home / ".bashrc").symlink_to("dotfiles/bashrc")

    install_plan(Shell.BASH, {"HOME": str(home)}).apply()

    assert (home / ".bashrc").is_symlink()
    assert "loractl completion" in (home / "dotfiles" / "bashrc").read_text()


def _command_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "loractl"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m loractl "$@"\n')
    command.chmod(0o755)
    return folder


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
