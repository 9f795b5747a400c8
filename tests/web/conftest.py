from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.chromium import Browser, Page
from support.live import LiveServer


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
