"""How a policy names people, bases, sources and tenants."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

ANYONE = "anyone"
ROLE_PREFIX = "role:"
ROLES = ("contributor", "reviewer", "operator", "auditor")

_COMMIT = re.compile(r"@[^@/]*$")


def names_someone(who: Iterable[str], identity: str, roles: Collection[str]) -> bool:
    """Return whether `who` names `identity`, by name, by one of its `roles`, or as anyone.

    An identity that is spelt like a role has no role by that.
    """
    return any(_names(one, identity, roles) for one in who)


def only_identities(who: Collection[str]) -> bool:
    """Return whether `who` is a closed list of people, without a role and without anyone."""
    return not any(one == ANYONE or one.startswith(ROLE_PREFIX) for one in who)


def matches(pattern: str, text: str) -> bool:
    """Return whether `text` is `pattern`, in which ``*`` stands for any characters; linear in both."""
    head, *parts = pattern.split("*")
    if not parts:
        return pattern == text
    *middle, tail = parts
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    at, end = len(head), len(text) - len(tail)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def matches_source(pattern: str, source: str) -> bool:
    """Return whether `pattern` covers ``hf:OWNER/REPO@COMMIT`` or a path; without ``@`` it covers every commit.

    A path that climbs is never covered: ``/models/../home`` is not below ``/models``.
    """
    if ".." in source.split("/"):
        return False
    is_any_commit = source.startswith("hf:") and "@" not in pattern
    return matches(pattern, _COMMIT.sub("", source) if is_any_commit else source)


def person_key(identity: str) -> str:
    """Return what two spellings share that must be taken for one person, as four eyes demands."""
    return identity.strip().casefold()


def _names(one: str, identity: str, roles: Collection[str]) -> bool:
    if one.startswith(ROLE_PREFIX):
        return one.removeprefix(ROLE_PREFIX) in roles
    return one in (ANYONE, identity)
