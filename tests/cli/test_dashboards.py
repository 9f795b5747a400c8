"""Exporting dashboards and alert rules."""

from __future__ import annotations

import json

import pytest
import yaml

FILES = [("grafana", "loractl-dashboard.json", json.loads), ("prometheus", "loractl-alerts.yml", yaml.safe_load)]


@pytest.mark.parametrize(("kind", "name", "parse"), FILES)
def test_export_writes_the_same_file_every_time(cli, tmp_path, kind, name, parse):
    first = cli("dashboard", "export", kind, "--to", str(tmp_path / "new/a"), "--json")
    second = cli("dashboard", "export", kind, "--to", str(tmp_path / "b"), "--json")

    assert first.data == {"kind": kind, "file": str(tmp_path / "new/a" / name), "is_new": True}
    assert (tmp_path / "new/a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert parse((tmp_path / "b" / name).read_text())
    assert [path.name for path in (tmp_path / "b").iterdir()] == [name]
    assert second.code == 0


@pytest.mark.parametrize(("kind", "name", "_parse"), FILES)
def test_export_leaves_the_same_file_alone(cli, tmp_path, kind, name, _parse):
    cli("dashboard", "export", kind, "--to", str(tmp_path))
    before = (tmp_path / name).stat()

    again = cli("dashboard", "export", kind, "--to", str(tmp_path), "--json")

    assert (again.code, again.data["is_new"]) == (0, False)
    assert (tmp_path / name).stat() == before


@pytest.mark.parametrize(("kind", "name", "_parse"), FILES)
def test_export_overwrites_by_force_alone(cli, tmp_path, kind, name, _parse):
    file = tmp_path / name
    file.write_text("mine")

    refused = cli("dashboard", "export", kind, "--to", str(tmp_path), "--json")
    kept = file.read_text()
    forced = cli("dashboard", "export", kind, "--to", str(tmp_path), "--force")

    assert (refused.code, refused.error["code"], kept) == (5, "cli.file_exists", "mine")
    assert "--force" in refused.error["hint"]
    assert (forced.code, file.read_text() != "mine") == (0, True)


def test_export_does_not_write_through_a_link(cli, tmp_path):
    (tmp_path / "loractl-alerts.yml").symlink_to(tmp_path / "elsewhere")

    refused = cli("dashboard", "export", "prometheus", "--to", str(tmp_path), "--json")
    forced = cli("dashboard", "export", "prometheus", "--to", str(tmp_path), "--force", "--json")

    assert (refused.code, forced.code) == (5, 0)
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "loractl-alerts.yml").is_symlink()


@pytest.mark.parametrize("argv", [("dashboard", "export"), ("dashboard", "export", "datadog"), ("dashboard", "paint")])
def test_what_cannot_be_exported_is_refused(cli, argv):
    result = cli(*argv, "--json")

    assert (result.code, result.error["code"]) == (2, "cli.usage")


def test_folder_that_is_a_file_is_refused(cli, tmp_path):
    (tmp_path / "file").touch()

    result = cli("dashboard", "export", "grafana", "--to", str(tmp_path / "file"), "--json")

    assert (result.code, result.error["code"]) == (1, "os.failed")


def test_home_of_nobody_is_a_folder_of_that_name(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert cli("dashboard", "export", "grafana", "--to", "~no-such-user-here").code == 0

    assert (tmp_path / "~no-such-user-here/loractl-dashboard.json").is_file()
