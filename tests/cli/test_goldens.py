"""The shape of every ``--json`` answer, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EMPTY = [
    pytest.param(("list",), "list-empty", id="list"),
    pytest.param(("base", "list"), "base-list-empty", id="base-list"),
    pytest.param(("history",), "history-empty", id="history"),
    pytest.param(("verify",), "verify-empty", id="verify"),
    pytest.param(("config", "show"), "config-show", id="config-show"),
]
READING = [
    pytest.param(("base", "list"), "base-list", id="base-list"),
    pytest.param(("base", "show", "tiny-moe"), "base-show", id="base-show"),
    pytest.param(("base", "verify", "tiny-moe"), "base-verify", id="base-verify"),
    pytest.param(("list",), "list", id="list"),
    pytest.param(("list", "--stage", "live"), "list-live", id="list-live"),
    pytest.param(("show", "support-bot"), "show", id="show"),
    pytest.param(("history", "support-bot"), "history", id="history"),
    pytest.param(("history", "--at", "2099-01-01"), "history-at", id="history-at"),
    pytest.param(("diff", "support-bot@1", "support-bot@2"), "diff", id="diff"),
    pytest.param(("verify", "support-bot"), "verify", id="verify"),
    pytest.param(("fsck",), "fsck", id="fsck"),
    pytest.param(("gc", "--dry-run"), "gc-dry-run", id="gc-dry-run"),
]
MOVING = [
    pytest.param(("promote", "poet@1"), "promote", id="promote"),
    pytest.param(("promote", "support-bot@3", "--to", "live"), "promote-to-live", id="promote-to-live"),
    pytest.param(("promote", "support-bot@2", "--to", "live"), "promote-live-already", id="promote-live-already"),
    pytest.param(("demote", "support-bot", "--reason", "worse"), "demote", id="demote"),
    pytest.param(("reject", "support-bot@3", "--reason", "fails"), "reject", id="reject"),
    pytest.param(("retire", "support-bot@1", "--reason", "old"), "retire", id="retire"),
    pytest.param(("revoke", "support-bot", "--reason", "leaks", "--yes"), "revoke", id="revoke"),
    pytest.param(("rollback", "support-bot"), "rollback", id="rollback"),
    pytest.param(("fsck", "--repair", "--yes"), "fsck-repair", id="fsck-repair"),
]
FAILING = [
    pytest.param(("list", "--nope"), 2, "error-no-such-option", id="no-such-option"),
    pytest.param(("frobnicate",), 2, "error-no-such-command", id="no-such-command"),
    pytest.param(("show", "Bad Name"), 2, "error-invalid-name", id="invalid-name"),
    pytest.param(("show", "poet@x"), 2, "error-invalid-ref", id="invalid-ref"),
    pytest.param(("revoke", "poet@1", "--reason", "x"), 2, "error-needs-yes", id="needs-yes"),
    pytest.param(("retire", "support-bot@1"), 2, "error-needs-reason", id="needs-reason"),
    pytest.param(("promote", "support-bot@1", "--to", "draft"), 2, "error-no-rung", id="no-rung"),
    pytest.param(("reject", "poet@1", "--reason", "x"), 3, "error-stage", id="stage"),
    pytest.param(("show", "nobody@1"), 4, "error-no-version", id="no-version"),
    pytest.param(("show", "poet"), 4, "error-not-live", id="not-live"),
    pytest.param(("base", "show", "nobody"), 4, "error-no-base", id="no-base"),
    pytest.param(("base", "remove", "tiny-moe", "--yes"), 5, "error-base-in-use", id="base-in-use"),
    pytest.param(("import", "/no/such/file"), 4, "error-no-such-file", id="no-such-file"),
]


@pytest.mark.parametrize(("argv", "name"), EMPTY)
def test_json_of_an_empty_home_has_its_shape(cli, golden, argv, name):
    result = cli(*argv, "--json")

    assert (result.code, result.err) == (0, "")
    golden(name, result.out)


@pytest.mark.parametrize(("argv", "name"), READING + MOVING)
def test_json_has_its_shape(cli, golden, lived_in, argv, name):
    result = cli(*argv, "--json")

    assert (result.code, result.err) == (0, "")
    golden(name, result.out)


@pytest.mark.parametrize(("argv", "code", "name"), FAILING)
def test_json_error_has_its_shape_and_exit_code(cli, golden, lived_in, argv, code, name):
    result = cli(*argv, "--json")

    assert (result.code, result.out) == (code, "")
    golden(name, result.err)


def test_json_of_adding_has_its_shape(cli, golden, lived_in, inputs):
    golden("base-add", cli("base", "add", "tiny-moe", str(inputs / "base"), "--json").out)
    golden("add-again", cli("add", "poet", str(inputs / "adapter-4"), "--json").out)
    added = cli(
        *("add", "poet", str(inputs / "strange"), "--base", "tiny-moe", "--trained-on", "poems", "--licence", "MIT"),
        *("--code-commit", "abc123", "--note", "try it", "--json"),
    )

    golden("add", added.out)


def test_json_of_archives_has_its_shape(cli, golden, lived_in, tmp_path: Path):
    exported = cli("export", "support-bot@1", "poet@1", str(tmp_path / "out.tar"), "--json").data
    # Where the adapters came from is in the archive, and that is another folder in every run.
    golden("export", json.dumps(exported | {"size_bytes": 0, "digest": exported["digest"][:7]}))
    golden("import", cli("import", str(tmp_path / "out.tar"), "--json").out)

    backed_up = cli("backup", str(tmp_path / "copy.db"), "--json")

    assert backed_up.data["file"] == str(tmp_path / "copy.db")
    assert backed_up.data["size_bytes"] > 0


def test_json_of_removing_and_collecting_has_its_shape(cli, golden, lived_in):
    for ref in ("poet@1", "support-bot@1", "support-bot@2", "support-bot@3"):
        assert cli("revoke", ref, "--reason", "over", "--yes").code == 0

    golden("gc", cli("gc", "--yes", "--json").out)
    golden("base-remove", cli("base", "remove", "tiny-moe", "--yes", "--json").out)


def test_json_of_installing_completion_has_its_shape(cli, golden):
    golden("completion-install", cli("completion", "install", "--shell", "fish", "--json").out)


def test_doctor_json_names_every_check(cli, lived_in):
    lived_in.chmod(0o700)

    found = cli("doctor", "--json").data

    assert {check["name"] for check in found["checks"]} >= {
        *("python", "engine", "gpu", "settings", "home", "space", "database", "schema", "store", "completion")
    }
    assert all(set(check) == {"name", "health", "found", "way_out"} for check in found["checks"])


def test_list_rows_are_what_every_other_command_says_of_a_version(cli, lived_in):
    rows = cli("list", "--json").data

    shown = [cli("show", row["ref"], "--json").data for row in rows]

    assert [{key: each[key] for key in row} for row, each in zip(rows, shown, strict=True)] == rows
