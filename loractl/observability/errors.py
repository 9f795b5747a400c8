"""What cannot be read."""

from __future__ import annotations

from pathlib import Path


class ObservabilityError(Exception):
    """Root of this package's errors. `code` is stable; `hint` is the way out."""

    code = "observability.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RecordsUnreadableError(ObservabilityError):
    """The database of requests is damaged, locked, or of another version of loractl."""

    code = "observability.records_unreadable"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"cannot read the records of requests in {path}: {why}",
            hint=f"if it stays so, remove {path}; a running server begins a new one",
        )
        self.path = path


class StateUnreadableError(ObservabilityError):
    """What a server answered is no document of its live state."""

    code = "observability.state_unreadable"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"cannot read the server's live state: {why}",
            hint="restart the server with the version of loractl that asks for it",
        )
