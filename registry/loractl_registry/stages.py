"""The stages of a version and which verb leads from where to where."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where a version stands. Servable: approved and live; everything else answers as if it did not exist."""

    DRAFT = "draft"
    CANDIDATE = "candidate"
    APPROVED = "approved"
    LIVE = "live"
    RETIRED = "retired"
    REJECTED = "rejected"
    REVOKED = "revoked"

    @property
    def is_servable(self) -> bool:
        """Whether the gateway may answer from a version in this stage."""
        return self in (Stage.APPROVED, Stage.LIVE)


LADDER = (Stage.DRAFT, Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE)
PROMOTABLE = (Stage.DRAFT, Stage.CANDIDATE, Stage.APPROVED, Stage.RETIRED)


class Verb(StrEnum):
    """The lifecycle verbs that lead down or out; ``promote`` climbs and has rules of its own."""

    DEMOTE = "demote"
    REJECT = "reject"
    RETIRE = "retire"
    REVOKE = "revoke"


_LEADS: dict[Verb, dict[Stage, Stage]] = {
    Verb.DEMOTE: {Stage.LIVE: Stage.APPROVED, Stage.APPROVED: Stage.CANDIDATE, Stage.CANDIDATE: Stage.DRAFT},
    Verb.REJECT: {Stage.CANDIDATE: Stage.REJECTED},
    Verb.RETIRE: {Stage.LIVE: Stage.RETIRED, Stage.APPROVED: Stage.RETIRED},
    Verb.REVOKE: {stage: Stage.REVOKED for stage in Stage if stage is not Stage.REVOKED},
}


def target_of(verb: Verb, stage: Stage) -> Stage | None:
    """Return the stage that `verb` leads to from `stage`, or None if it leads nowhere from there."""
    return _LEADS[verb].get(stage)


def sources_of(verb: Verb) -> tuple[Stage, ...]:
    """Return the stages from which `verb` is allowed."""
    return tuple(_LEADS[verb])


def climb(start: Stage, to: Stage | None) -> tuple[Stage, ...] | None:
    """Return the rungs that `promote` enters from `start` up to `to`, or None if there is no such climb.

    Without `to`, one rung. A retired version re-enters at approved. An empty tuple means that it is already there.
    """
    if start is to and start in LADDER:
        return ()
    if start not in PROMOTABLE or (to is not None and to not in LADDER[1:]):
        return None
    above = LADDER[2:] if start is Stage.RETIRED else LADDER[LADDER.index(start) + 1 :]
    if to is None:
        return above[:1]
    return above[: above.index(to) + 1] if to in above else None
