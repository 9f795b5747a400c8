"""How a tenant stands against its limits, and the refusal when it is beyond one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class LimitKind(StrEnum):
    """What is limited, as the field of `Limits` is called."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    CONCURRENT = "concurrent"
    DAY = "tokens_per_day"


class Gauge(NamedTuple):
    """One limit and what is left of it.

    Attributes:
        reset_s: In how many seconds all of it is free again if nothing else is used; 0 where time alone frees nothing.
    """

    kind: LimitKind
    limit: int
    remaining: int
    reset_s: float


Standing = tuple[Gauge, ...]
"""For each kind that is limited, the limit that leaves the least; in the order of `LimitKind`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that a quota does not allow. Nothing was counted for it.

    Attributes:
        limit: The limit that it has to wait for the longest.
        adapter: The adapter that the limit is for; None if it is for the tenant in all.
        allowed: The value of the limit.
        remaining: What is left of it.
        asked: What the request needed of it.
        retry_after_s: In how many seconds it will be let in if nothing else is used; None if it asks for more than the
            limit, so never.
        standing: All limits, for the headers.
    """

    limit: LimitKind
    adapter: str | None
    allowed: int
    remaining: int
    asked: int
    retry_after_s: float | None
    standing: Standing
