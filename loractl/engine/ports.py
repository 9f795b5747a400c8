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


@dataclass(frozen=True, slots=True)
class EngineRoom:
    """How much an engine can do at once.

    Attributes:
        max_num_seqs: Requests that one batch takes.
        kv_use: Share of the KV cache in use, 0 to 1.
    """

    max_num_seqs: int
    kv_use: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What an engine has read and written for one request so far."""

    input_tokens: int
    output_tokens: int


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

    def room(self) -> EngineRoom:
        """Return how much it can do at once. Quick, and never raises."""
        ...

    def counts_of(self, request_id: str) -> TokenCounts | None:
        """Return what it has done for a request that it is working on, by the id in the header ``x-request-id``."""
        ...
