"""What preflight refuses."""

from __future__ import annotations

from dataclasses import dataclass

from loractl_registry.errors import DeniedError

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        what: Names the tensor or module, what was expected and what was found.
        way_out: One imperative line.
    """

    what: str
    way_out: str


class PreflightRefusedError(DeniedError):
    """The base cannot take the adapter, or part of the adapter would have no effect.

    Attributes:
        problems: Every problem that was found; the message shows the first of them, and the hint is the first's.
    """

    code = "registry.preflight_refused"

    def __init__(self, first: Problem, *others: Problem) -> None:
        distinct = tuple(dict.fromkeys((first, *others)))
        more = len(distinct) - _SHOWN
        shown = "; ".join(problem.what for problem in distinct[:_SHOWN])
        super().__init__(shown if more <= 0 else f"{shown}; and {more} more", hint=first.way_out)
        self.problems = distinct
