"""How a request can end, in the one word that metrics, records, and dashboards share."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"
    """The request was malformed, too large, too slow to arrive, or set a field that is not a client's to set."""
    DISCONNECTED = "disconnected"
    """The client left before its answer was complete."""
    ABORTED = "aborted"
    """The version was revoked while it answered."""
    TIMED_OUT = "timed_out"
    """The request waited or ran longer than it may."""
    ENGINE = "engine"
    """The engine failed or answered with an error."""
    INTERNAL = "internal"
    """The gateway failed."""
    REFUSED_KEY = "refused_key"
    REFUSED_POLICY = "refused_policy"
    REFUSED_QUOTA = "refused_quota"
    REFUSED_UNKNOWN = "refused_unknown"

    @property
    def is_refusal(self) -> bool:
        """Whether the gateway turned the request away by a rule, so that the engine never saw it."""
        return self in _REFUSALS

    @property
    def is_error(self) -> bool:
        """Whether the request was let in and yet got no whole answer."""
        return self not in _REFUSALS and self is not Outcome.OK


_REFUSALS = frozenset({Outcome.REFUSED_KEY, Outcome.REFUSED_POLICY, Outcome.REFUSED_QUOTA, Outcome.REFUSED_UNKNOWN})
ERRORS = tuple(outcome for outcome in Outcome if outcome.is_error)
FAULTS = (Outcome.ENGINE, Outcome.INTERNAL, Outcome.TIMED_OUT)
"""The errors that are the server's fault, not the client's or an operator's decision."""
REFUSALS = tuple(outcome for outcome in Outcome if outcome.is_refusal)


class DropReason(StrEnum):
    """Why a record of a request was not kept."""

    QUEUE_FULL = "queue_full"
    DISK = "disk"
    LOCKED = "locked"
    DATABASE = "database"
    """The file is no database, or one of another version of loractl."""
    CLOSED = "closed"
    """The server was stopping."""
