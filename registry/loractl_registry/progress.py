"""How a long operation says how far it is; the registry itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One bar that counts bytes. Calls may come from worker threads."""

    def start(self, label: str, total_bytes: int) -> None:
        """Begin `label`, which will process `total_bytes`."""
        ...

    def advance(self, num_bytes: int) -> None:
        """Count `num_bytes` more."""
        ...

    def done(self) -> None:
        """End what `start` began, also when it failed."""
        ...


class SilentProgress:
    """Shows nothing."""

    def start(self, label: str, total_bytes: int) -> None:
        """Ignore the start."""

    def advance(self, num_bytes: int) -> None:
        """Ignore the bytes."""

    def done(self) -> None:
        """Ignore the end."""


SILENT: Progress = SilentProgress()
