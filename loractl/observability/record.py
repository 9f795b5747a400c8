"""What is kept about one request."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeAlias

from loractl.observability.outcomes import Outcome
from loractl_registry.clock import from_text, to_text

Value: TypeAlias = str | int | float | None
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request that ended; the columns of the database in their order.

    Attributes:
        id: What the answer's ``x-loractl-request-id`` said.
        at: When it arrived.
        adapter: Name of the adapter, or one of the label values that `definitions` reserves.
        version: Exact version that answered; None where no adapter did.
        adapter_digest: Digest of the version's files, ``sha256:...``.
        base_digest: Digest of the base model's manifest.
        statement_digest: Digest of the signed statement that let the version serve.
        is_cold: Whether the adapter had to be brought into a slot of the engine first.
        first_token_s: From arrival; None if no token came, or all came at once.
        busy_s: Seconds in the engine.
        content: What was asked and answered, as JSON; kept only by a writer that is told to.
    """

    id: str
    at: datetime
    tenant: str
    adapter: str
    version: int | None
    outcome: Outcome
    adapter_digest: str | None = None
    base_digest: str | None = None
    statement_digest: str | None = None
    is_cold: bool = False
    queue_s: float = 0.0
    first_token_s: float | None = None
    busy_s: float = 0.0
    total_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    content: str | None = None


COLUMNS = tuple(field.name for field in fields(RequestRecord))
_values_of = attrgetter(*COLUMNS)


def to_row(record: RequestRecord) -> tuple[Value, ...]:
    """Return `record` as SQLite takes it; whatever a string or a number holds, it can be stored."""
    return tuple(map(_stored, _values_of(record)))


def from_row(row: tuple[object, ...]) -> RequestRecord:
    """Return what `to_row` gave.

    Raises:
        ValueError: An outcome or a time is none that this version of loractl knows.
    """
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    values["at"] = from_text(values["at"])
    values["outcome"] = Outcome(values["outcome"])
    values["is_cold"] = bool(values["is_cold"])
    return RequestRecord(**values)


def _stored(value: object) -> Value:
    match value:
        case str():
            # A lone surrogate is no text that can be encoded.
            return value.encode("utf-8", "backslashreplace").decode()
        case datetime():
            return to_text(value)
        case int():
            return max(min(int(value), _LARGEST), -_LARGEST)
        case float() | None:
            return value
        case _:
            raise TypeError(f"a record cannot hold {type(value).__name__}")
