"""What preflight refuses."""

from __future__ import annotations

from collections.abc import Sequence

from loractl_registry.errors import DeniedError

_SHOWN = 4


class PreflightRefusedError(DeniedError):
    """The base cannot take the adapter, or part of the adapter would have no effect.

    Attributes:
        problems: Every problem that was found, the first of them in the message.
    """

    code = "registry.preflight_refused"

    def __init__(self, *problems: str, hint: str | None) -> None:
        more = len(problems) - _SHOWN
        shown = "; ".join(problems[:_SHOWN])
        super().__init__(shown if more <= 0 else f"{shown}; and {more} more like these", hint=hint)
        self.problems: Sequence[str] = problems
