"""Flag over environment over file over default, and a bad value names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from loractl.settings import DeviceChoice, SettingsError, Source, home_of, load_settings, setting_names, variable_of


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "LORACTL_HOME": str(tmp_path / "home")}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_defaults_hold_when_nobody_says_anything(tmp_path):
    settings = load_settings({}, {"HOME": str(tmp_path)})

    assert settings.home == tmp_path / ".local" / "share" / "loractl"
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, DeviceChoice.AUTO)
    assert {origin.source for origin in settings.origins.values()} == {Source.DEFAULT}
    assert tuple(settings.origins) == setting_names()


def test_the_strongest_source_wins_and_is_named(environ, tmp_path):
    home_file = tmp_path / "home" / "config.toml"
    shared_file = tmp_path / ".config" / "loractl" / "config.toml"
    write(shared_file, 'host = "shared"\nport = 1\nmax_rank = 8\nlog_level = "debug"\n')
    write(home_file, "port = 2\nmax_rank = 16\n")

    settings = load_settings({"max_rank": 64}, environ | {"LORACTL_PORT": "3"})

    assert (settings.max_rank, str(settings.origins["max_rank"])) == (64, "--max-rank")
    assert (settings.port, str(settings.origins["port"])) == (3, "LORACTL_PORT")
    assert (settings.host, str(settings.origins["host"])) == ("shared", str(shared_file))
    assert load_settings({}, environ).port == 2


def test_home_comes_from_the_shared_file_alone(tmp_path):
    environ = {"HOME": str(tmp_path)}
    shared_file = tmp_path / ".config" / "loractl" / "config.toml"
    write(shared_file, f'home = "{tmp_path}/elsewhere"\n')

    assert home_of(environ) == load_settings({}, environ).home == tmp_path / "elsewhere"
    assert home_of(environ, "~/mine") == Path("~/mine").expanduser()

    write(tmp_path / "elsewhere" / "config.toml", 'home = "x"\n')
    with pytest.raises(SettingsError, match="lies in the home itself"):
        load_settings({}, environ)


def test_empty_variable_means_not_set(environ):
    assert load_settings({}, environ | {"LORACTL_PORT": ""}).port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("port", "٣"),
        ("port", "9" * 500),
        ("max_rank", "0"),
        ("max_adapters", "many"),
        ("device", "tpu"),
        ("log_level", "loud"),
        ("host", "a b"),
        ("actor", "a\nb"),
        ("actor", "a" * 121),
        ("home", "~nobody-has-this-name/x"),
    ],
)
def test_bad_value_names_the_variable_and_the_way_out(environ, name, value):
    with pytest.raises(SettingsError) as caught:
        load_settings({}, environ | {variable_of(name): value})

    assert variable_of(name) in str(caught.value)
    assert variable_of(name) in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = true", "'port'"),
        ("port = [1]", "'port'"),
        ("port = ", "is not TOML"),
    ],
)
def test_bad_file_names_the_file(environ, tmp_path, text, said):
    file = tmp_path / "home" / "config.toml"
    write(file, text)

    with pytest.raises(SettingsError, match=said) as caught:
        load_settings({}, environ)

    assert str(file) in str(caught.value)


def test_bad_setting_is_a_usage_error_that_leaves_help_alone(cli, monkeypatch):
    monkeypatch.setenv("LORACTL_PORT", "x")

    assert cli("config", "show").code == 2
    assert cli("config", "show", "--help").code == 0


def test_config_show_warns_of_a_misspelt_variable(cli, monkeypatch):
    monkeypatch.setenv("LORACTL_PROT", "1")

    assert "LORACTL_PROT is set, and no setting has that name" in cli("config", "show").err
