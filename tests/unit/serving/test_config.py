"""What `loractl serve` hands to the gateway inside the engine's process."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from support.engine import cpu_plan

from loractl.serving.config import CONFIG_VARIABLE, EngineConfig, EngineConfigError
from loractl.serving.traffic import TrafficSettings
from loractl.settings import Fairness, LogLevel


def config(home: Path) -> EngineConfig:
    plan = cpu_plan(slots=2, host_slots=4, is_mixed=False)
    traffic = TrafficSettings(Fairness.OFF, 3.5, records=False, trace_endpoint="http://localhost:4318/v1/traces")
    return EngineConfig(
        home, "tiny", "operator", plan, "0123", LogLevel.DEBUG, is_guarded=True, witness=home, traffic=traffic,
        orders_prompts=True,
    )  # fmt: skip


def test_configuration_is_read_back_whole(tmp_path: Path) -> None:
    path = config(tmp_path).write()

    assert EngineConfig.read({CONFIG_VARIABLE: str(path)}) == config(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_engine_that_was_not_started_by_us_has_no_configuration() -> None:
    with pytest.raises(EngineConfigError, match=CONFIG_VARIABLE):
        EngineConfig.read({})


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o604])
def test_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = config(tmp_path).write()
    path.chmod(mode)

    with pytest.raises(EngineConfigError):
        EngineConfig.read({CONFIG_VARIABLE: str(path)})


def test_link_to_a_file_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(config(tmp_path).write())

    with pytest.raises(EngineConfigError):
        EngineConfig.read({CONFIG_VARIABLE: str(link)})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"home": 1, "plan": 2}'])
def test_file_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = config(tmp_path).write()
    path.write_text(text)

    with pytest.raises(EngineConfigError):
        EngineConfig.read({CONFIG_VARIABLE: str(path)})
