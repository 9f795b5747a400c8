"""Asynchronous tests run on asyncio, which is what vLLM's server runs on."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
