"""An engine of either kind, driven through the network form of its port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.engine import RunningEngine

LONG = 400


@dataclass(frozen=True)
class Rig:
    """An engine behind the network form of its port, and adapters that it can load.

    Attributes:
        adapters: Folders by ref; each holds an adapter of its own.
    """

    engine: RunningEngine
    adapters: dict[str, Path]

    def admit(self, ref: str, path: Path | None = None) -> int:
        """Admit a version and return the status: 200, or 409 for `EngineRefusedError`."""
        return self.engine.port("admit", ref=ref, path=str(path or self.adapters[ref]), is_fused=True).status_code

    def evict(self, ref: str) -> int:
        """Evict a version and return the status, likewise."""
        return self.engine.port("evict", ref=ref).status_code

    def admitted(self) -> list[str]:
        """Return the refs that a request may name."""
        return self.engine.port("admitted").json()

    def loaded(self) -> int:
        """Return how many adapters are in memory, named or not."""
        return len(self.engine.port("loaded").json())
