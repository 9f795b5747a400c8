"""What is refused about the text of a policy, with the line where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loractl_registry.errors import UsageError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        line: Counted from 1, or None if it is about the file as a whole.
    """

    line: int | None
    text: str
    way_out: str


class PolicyFileError(UsageError):
    """A policy, or a file of cases beside it, cannot be used. Nothing of it takes effect.

    Attributes:
        name: What the file is called in the message.
        problems: All that was found, in the order of the lines; the message tells the first.
    """

    code = "registry.policy_file"

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        first, *others = problems
        where = name if first.line is None else f"{name} line {first.line}"
        more = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{where}: {first.text}{more}", hint=first.way_out)
        self.name, self.problems = name, tuple(problems)


class PresetNotFoundError(UsageError):
    """No preset of this name is shipped."""

    code = "registry.preset_not_found"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no preset {name[:80]!r}", hint=f"use one of: {', '.join(known)}")
        self.name = name
