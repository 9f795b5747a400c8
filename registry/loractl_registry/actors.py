"""Who acts and why, as the audit log keeps it: one line of printable text."""

from __future__ import annotations

from loractl_registry.errors import UsageError

MAX_ACTOR_LENGTH = 200
MAX_REASON_LENGTH = 2000


class ActorError(UsageError):
    """The actor is empty, too long or holds control characters."""

    code = "registry.actor"


class ReasonError(UsageError):
    """The reason is missing where one is needed, too long, or holds control characters."""

    code = "registry.reason"


def parse_actor(text: str) -> str:
    """Return `text` without blanks around it.

    Raises:
        ActorError: It is empty, longer than 200 characters, or not printable.
    """
    actor = text.strip()
    if not actor or len(actor) > MAX_ACTOR_LENGTH or not actor.isprintable():
        raise ActorError(
            f"invalid actor {text[:80]!r}", hint="set LORACTL_ACTOR to a printable name of at most 200 characters"
        )
    return actor


def parse_reason(text: str | None) -> str | None:
    """Return `text` without blanks around it, None if nothing is left.

    Raises:
        ReasonError: It is longer than 2000 characters or holds control characters other than line breaks.
    """
    reason = (text or "").strip()
    if len(reason) > MAX_REASON_LENGTH or not all(char.isprintable() or char in "\n\t" for char in reason):
        raise ReasonError(f"invalid reason {reason[:80]!r}", hint="write at most 2000 printable characters")
    return reason or None


def require_reason(verb: str, text: str) -> str:
    """Return the reason for `verb`.

    Raises:
        ReasonError: There is none.
    """
    reason = parse_reason(text)
    if reason is None:
        raise ReasonError(f"cannot {verb} without a reason", hint="say why with --reason TEXT")
    return reason
