"""Why a request was not let in."""

from __future__ import annotations


class FairnessError(Exception):
    """Root of what admission refuses. `code` is stable; `hint` is the way out."""

    code = "fairness.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class QueueFullError(FairnessError):
    """As many requests wait as may: of this tenant, or of all of them together."""

    code = "fairness.queue_full"

    def __init__(self, tenant: str, waiting: int) -> None:
        super().__init__(
            f"cannot queue a request of {tenant}: {waiting} of its requests wait already",
            hint="ask again later, or have fewer requests under way at once",
        )
        self.tenant, self.waiting = tenant, waiting


class WaitTooLongError(FairnessError):
    """The request was not let in before its deadline; the engine never saw it."""

    code = "fairness.wait_too_long"

    def __init__(self, tenant: str, deadline_s: float) -> None:
        super().__init__(
            f"gave up on a request of {tenant} that waited {deadline_s:g} s for the engine",
            hint="ask again later, or allow a longer wait",
        )
        self.tenant, self.deadline_s = tenant, deadline_s
