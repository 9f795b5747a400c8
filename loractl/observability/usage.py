"""What adapters or tenants used of the engine, from the records of requests."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from loractl.observability.outcomes import ERRORS, REFUSALS, Outcome
from loractl.observability.requests_query import RequestFilter, reading


class UsageBy(StrEnum):
    """What is added up together."""

    ADAPTER = "adapter"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one adapter or tenant used.

    Attributes:
        busy_s: Seconds that its requests spent in the engine; requests of one batch each count in full.
        share: Of the busy seconds of everybody in the same time, 0 to 1.
    """

    name: str
    requests: int
    errors: int
    refused: int
    input_tokens: int
    output_tokens: int
    busy_s: float
    share: float


def usage(path: Path, *, by: UsageBy, since: datetime | None = None) -> list[UsageRow]:
    """Return what each adapter or tenant used, the busiest first, from the records that are kept.

    Raises:
        RecordsUnreadableError: The database cannot be read.
    """
    where, values = RequestFilter(since=since).condition()
    statement = (
        f"SELECT {by.value}, count(*), sum(outcome IN ({_listed(ERRORS)})), sum(outcome IN ({_listed(REFUSALS)})),"  # noqa: S608
        f" sum(input_tokens), sum(output_tokens), sum(busy_s) FROM requests{where} GROUP BY 1 ORDER BY 7 DESC, 1"
    )
    with reading(path) as connection:
        found = [] if connection is None else connection.execute(statement, values).fetchall()
    whole = sum(row[-1] for row in found)
    return [_row(row, whole) for row in found]


def usage_payload(rows: Sequence[UsageRow]) -> list[dict[str, object]]:
    """Return `rows` as JSON takes them."""
    return [asdict(row) for row in rows]


def usage_csv(rows: Sequence[UsageRow]) -> str:
    """Return `rows` as CSV with a heading; lines end in LF."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(UsageRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(usage_payload(rows))
    return text.getvalue()


def _row(row: tuple[Any, ...], whole_s: float) -> UsageRow:
    name, requests, errors, refused, input_tokens, output_tokens, busy_s = row
    share = busy_s / whole_s if whole_s else 0.0
    return UsageRow(name, requests, errors, refused, input_tokens, output_tokens, busy_s, share)


def _listed(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(f"'{outcome}'" for outcome in outcomes)
