"""What admission is told: the request, the engine's room, and the operator's limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Policy(StrEnum):
    """Who goes next."""

    OFF = "off"
    VTC = "vtc"


class Priority(IntEnum):
    """A class of requests; the lower number goes first, and none waits for ever."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Request:
    """One request as admission sees it.

    Attributes:
        tenant: Who is charged.
        adapter: What it needs a slot for, as the engine knows it, or None for the base.
        estimated_input_tokens: Charged on admission, and replaced by the true count once that is known.
        max_output_tokens: The most that it may generate.
        deadline_s: Longest wait for admission, from the moment that it is asked for; None waits without end.
    """

    tenant: str
    adapter: str | None
    estimated_input_tokens: int
    max_output_tokens: int
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.estimated_input_tokens < 0 or self.max_output_tokens < 0:
            counts = f"{self.estimated_input_tokens} and {self.max_output_tokens}"
            raise ValueError(f"a request cannot have {counts} tokens of input and output")


@dataclass(frozen=True, slots=True)
class Capacity:
    """The engine's room at one moment.

    Attributes:
        max_num_seqs: Requests that the engine runs at once.
        kv_use: Share of its KV cache in use, 0 to 1.
        max_tokens: Bound of the sum of input and largest output over everything in flight, or None. The engine can
            preempt, so this may well be more than its cache holds.
        keeps_reserve: Whether `Limits.reserve` holds now; where one tenant is alone, its seats would be lost.
    """

    max_num_seqs: int
    kv_use: float = 0.0
    max_tokens: int | None = None
    keeps_reserve: bool = True


@dataclass(frozen=True, slots=True)
class Weights:
    """What a token costs: an output token takes about twice what an input token takes (Sheng et al., section 3.2)."""

    input: float = 1.0
    output: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.input < math.inf and 0 <= self.output < math.inf):
            raise ValueError(f"token weights must be finite and not negative, not {self.input} and {self.output}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator may choose.

    Attributes:
        slots: Adapters that the engine can hold at once (``--max-loras``).
        max_waiting: Requests that may wait in all. No tenant may hold more places than are still free, so that one
            takes half at most, two a third each, and a newcomer always finds one.
        max_waiting_per_tenant: Requests that one tenant may have waiting.
        reserve: Seats of `Capacity.max_num_seqs` that only a tenant with fewer than this many requests in flight may
            take, if it is not ahead by more than `slack`. Zero uses every seat for whoever asks; each one kept back
            costs throughput and saves a quiet tenant the wait for a seat.
        max_prefill_tokens: Most estimated input that is in the engine without a first token yet, or None. A single
            request may be larger, and requests in reserved seats are not held back.
        patience_s: How long a class of requests, or an adapter without a slot, is passed over; also how long an adapter
            keeps its slot once it has one.
        slack: How far, in weighted tokens for a weight of 1, a tenant may go ahead of one that was served less: because
            its adapter is loaded and the other's is not, or in a reserved seat.
        max_kv_use: No more is admitted while `Capacity.kv_use` is at least this.
        kv_recheck_s: How often a full KV cache is looked at again.
        max_remembered: Idle tenants whose counters are above the others' and therefore kept.
    """

    slots: int = 8
    max_waiting: int = 4096
    max_waiting_per_tenant: int = 1024
    reserve: int = 0
    max_prefill_tokens: int | None = None
    patience_s: float = 2.0
    slack: float = 4096.0
    max_kv_use: float = 0.95
    kv_recheck_s: float = 0.05
    max_remembered: int = 1024

    def __post_init__(self) -> None:
        for name in ("slots", "max_waiting", "max_waiting_per_tenant", "kv_recheck_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than zero, not {getattr(self, name)}")
        for name in ("reserve", "patience_s", "slack", "max_remembered"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} cannot be {getattr(self, name)}")
