"""What the engine last said of itself, kept where the gateway reads it, in the process of vLLM's API server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Readings:
    """Written by vLLM's stat logger after each step of the engine.

    Attributes:
        kv_use: Share of the KV cache in use, 0 to 1.
    """

    kv_use: float = 0.0


READINGS = Readings()
