"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chromium import Browser, find_chromium

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the suite in the background has SIGINT ignored, and commands under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real Chromium without a screen."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium-headless-shell, or name one in CHROMIUM")
    opened = Browser(program, Path(tmp_path_factory.mktemp("chromium")))
    yield opened
    opened.close()
