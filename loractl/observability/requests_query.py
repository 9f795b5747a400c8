"""Finding requests among those that were recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from loractl.observability.errors import RecordsUnreadableError
from loractl.observability.outcomes import Outcome
from loractl.observability.record import COLUMNS, RequestRecord, Value, from_row
from loractl.observability.records_database import SCHEMA_VERSION, schema_version
from loractl_registry.clock import to_text

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM requests"  # noqa: S608
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests are wanted: those for which everything that is given holds.

    Attributes:
        since: Arrived at this time or later.
        limit: At most this many, the newest; None means all.
    """

    since: datetime | None = None
    tenant: str | None = None
    adapter: str | None = None
    version: int | None = None
    outcome: Outcome | None = None
    limit: int | None = 100

    def condition(self) -> tuple[str, list[Value]]:
        """Return the WHERE clause, empty if everything is wanted, and what stands in its place holders."""
        since = None if self.since is None else to_text(self.since)
        tests: list[tuple[str, Value]] = [
            ("at >= ?", since),
            ("tenant = ?", self.tenant),
            ("adapter = ?", self.adapter),
            ("version = ?", self.version),
            ("outcome = ?", self.outcome),
        ]
        given = [(test, value) for test, value in tests if value is not None]
        where = " WHERE " + " AND ".join(test for test, _ in given) if given else ""
        return where, [value for _, value in given]


def find_requests(path: Path, wanted: RequestFilter) -> list[RequestRecord]:
    """Return the requests that ended last, the newest first; none if nothing was ever recorded.

    Raises:
        RecordsUnreadableError: The database cannot be read.
    """
    where, values = wanted.condition()
    limit = -1 if wanted.limit is None else wanted.limit
    # By the order of writing, which a clock that goes backwards does not change.
    return _read(path, f"{_SELECT}{where} ORDER BY seq DESC LIMIT ?", [*values, limit])


def find_request(path: Path, request_id: str) -> RequestRecord | None:
    """Return the request whose answer said `request_id`, or None.

    Raises:
        RecordsUnreadableError: The database cannot be read.
    """
    found = _read(path, f"{_SELECT} WHERE id = ?", [request_id])
    return found[0] if found else None


def _read(path: Path, statement: str, values: list[Value]) -> list[RequestRecord]:
    with reading(path) as connection:
        return [] if connection is None else [from_row(row) for row in connection.execute(statement, values)]


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection | None]:
    """Open the database to read it, beside a server that writes; gives None where there is none.

    Raises:
        RecordsUnreadableError: It cannot be read, or not within the context.
    """
    if not path.exists():
        yield None
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as found:
            version = schema_version(found)
            if version not in (0, SCHEMA_VERSION):
                raise RecordsUnreadableError(path, f"it has schema {version}, and this loractl reads {SCHEMA_VERSION}")
            yield found if version else None
    except (sqlite3.Error, ValueError) as error:
        raise RecordsUnreadableError(path, str(error)) from error
