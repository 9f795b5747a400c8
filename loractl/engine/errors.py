"""What an engine refuses."""

from __future__ import annotations


class EngineError(Exception):
    """Root of the engine's errors. `code` is stable; `hint` is the way out."""

    code = "engine.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class EngineRefusedError(EngineError):
    """The engine would not load or would not let go of an adapter."""

    code = "engine.refused"
