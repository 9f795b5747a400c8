"""How much a tenant may use, in all or of one adapter."""

from __future__ import annotations

from dataclasses import dataclass, fields

from loractl_registry.tenancy.errors import TenantError

MAX_LIMIT = 2**53 - 1  # the largest integer that every JSON parser keeps exact


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds, each from 1 up; None sets none.

    Attributes:
        requests_per_minute, tokens_per_minute: In any 60 seconds.
        concurrent: Requests on their way at the same time.
        tokens_per_day: From one midnight in UTC to the next.
        max_context: Tokens of one prompt and its answer together.
        max_output: Tokens of one answer.

    Raises:
        TenantError: One of them is no whole number, or out of range.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None
    max_context: int | None = None
    max_output: int | None = None

    def __post_init__(self) -> None:
        for name in LIMIT_NAMES:
            value: object = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= MAX_LIMIT):
                raise TenantError(
                    f"limit {name}", value, hint=f"choose a whole number from 1 to {MAX_LIMIT}, or none for no limit"
                )

    def to_dict(self) -> dict[str, int]:
        """Return the limits that are set, by name."""
        values: dict[str, int | None] = {name: getattr(self, name) for name in LIMIT_NAMES}
        return {name: value for name, value in values.items() if value is not None}


LIMIT_NAMES = tuple(field.name for field in fields(Limits))
NO_LIMITS = Limits()
