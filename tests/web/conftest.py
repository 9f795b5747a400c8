from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chromium import Browser, Page, find_chromium
from support.live import LiveServer


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real Chromium without a screen."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium-headless-shell, or name one in CHROMIUM")
    opened = Browser(program, Path(tmp_path_factory.mktemp("chromium")))
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser) -> Page:
    """A tab that nobody has used."""
    return browser.open()


@pytest.fixture
def server() -> Iterator[LiveServer]:
    """A server that tells everybody its state."""
    opened = LiveServer()
    yield opened
    opened.close()


@pytest.fixture
def locked() -> Iterator[LiveServer]:
    """A server that wants a key."""
    opened = LiveServer(key="right-key")
    yield opened
    opened.close()
