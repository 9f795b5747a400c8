from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.files import FakeHub, running_hub
from support.registry import write_adapter, write_base

from loractl_registry.content import ContentStore

_HUB_VARIABLES = ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN")


class CountingProgress:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.total = self.count = self.ended = 0

    def start(self, label: str, total_bytes: int) -> None:
        self.labels.append(label)
        self.total += total_bytes

    def advance(self, num_bytes: int) -> None:
        self.count += num_bytes

    def done(self) -> None:
        self.ended += 1


@pytest.fixture
def progress() -> CountingProgress:
    return CountingProgress()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", on_experts=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "store")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    for name in _HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
