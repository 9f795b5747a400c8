from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from support.registry import write_adapter, write_base

from loractl_registry import Registry


def pytest_addoption(parser):
    with suppress(ValueError):
        parser.addoption("--update-goldens", action="store_true", help="rewrite the golden files")


class Ticking:
    """A clock that moves one second per look, so that every event has its own time."""

    def __init__(self):
        self.now = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def clock():
    return Ticking()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def registry(home, clock):
    with Registry.open(home, clock=clock, busy_timeout_s=0.2) as opened:
        yield opened


@pytest.fixture
def base(registry, tmp_path):
    return registry.add_base("tiny-moe", str(write_base(tmp_path / "base")), actor="ada").base


@pytest.fixture
def add(registry, base, tmp_path):
    """Add a version of `name` whose bytes follow from `seed`."""

    def _add(name="bot", seed=0, **arguments):
        folder = write_adapter(tmp_path / f"adapter-{seed}", seed=seed)
        return registry.add(name, str(folder), actor="ada", **arguments).version

    return _add
