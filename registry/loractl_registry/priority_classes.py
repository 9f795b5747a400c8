"""The classes of requests between which a tenant's are put; light, since the command line's help names them."""

from __future__ import annotations

from enum import StrEnum


class PriorityClass(StrEnum):
    """Whose requests go first while the engine is short, the first class foremost; none waits for ever."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"
