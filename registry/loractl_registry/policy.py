"""Who may enter which rung: pure rules, and an empty policy denies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loractl_registry.records import AdapterVersion
from loractl_registry.refusals import PolicyDeniedError
from loractl_registry.stages import Stage


@dataclass(frozen=True, slots=True)
class Rung:
    """What entering one stage takes.

    Attributes:
        may_be_uploader: Whether the one who added the version may also take it there.
    """

    may_be_uploader: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """The rungs that may be entered at all; one that is not named is denied."""

    rungs: Mapping[Stage, Rung] = field(default_factory=dict[Stage, Rung])

    def check(self, version: AdapterVersion, to: Stage, actor: str) -> None:
        """Return if `actor` may take `version` to `to`.

        Raises:
            PolicyDeniedError: No rung allows it; the message says why.
        """
        rung = self.rungs.get(to)
        if rung is None:
            because, way_out = f"no rule of the policy allows {to}", f"give the policy a rule for {to}, as `solo` has"
            raise PolicyDeniedError(version.ref, to, actor, because, way_out)
        if actor == version.added_by and not rung.may_be_uploader:
            because = f"{actor} added it, and {to} needs a second person"
            way_out = f"ask someone else to run: loractl promote {version.ref} --to {to}"
            raise PolicyDeniedError(version.ref, to, actor, because, way_out)


SOLO = Policy({stage: Rung(may_be_uploader=True) for stage in (Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE)})
"""One person on a workstation may climb every rung."""
