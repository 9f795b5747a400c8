"""What the gateway needs from an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loractl_registry import VersionRef


@dataclass(frozen=True, slots=True)
class EngineAdapter:
    """An adapter as an engine knows it: by its immutable ref and its content-addressed path alone.

    Attributes:
        is_fused: Whether its expert tensors are in PEFT's fused (3D) layout.
    """

    ref: VersionRef
    path: Path
    is_fused: bool


class EnginePort(Protocol):
    """A running engine, seen from the event loop that serves requests."""

    async def admit(self, adapter: EngineAdapter) -> None:
        """Load `adapter` and let requests name it. Idempotent for the same ref and path.

        Raises:
            EngineRefusedError: The engine could not load it; nothing is admitted.
        """
        ...

    async def evict(self, ref: VersionRef) -> None:
        """Refuse the name, abort its running requests, remove it from the engine, and prove that it is gone.

        Unknown refs are ignored.

        Raises:
            EngineRefusedError: The engine still lists it afterwards.
        """
        ...

    def admitted(self) -> frozenset[VersionRef]:
        """Return the refs that a request may name now."""
        ...

    async def is_healthy(self) -> bool:
        """Whether the engine can answer."""
        ...
