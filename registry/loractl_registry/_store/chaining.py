"""The chain of the audit log: each row's digest is over its content and the digest of the row before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

GENESIS = ""
"""What stands in place of a digest before the first row."""

Value = str | int | None


def chained_digest(previous: str, row: Sequence[Value]) -> str:
    """Return ``sha256:hex`` over the canonical JSON of `previous` and the columns of a row, in their order."""
    text = json.dumps([previous, *row], ensure_ascii=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def broken_rows(rows: Iterable[Sequence[Value]]) -> Iterator[str]:
    """Yield one line per row that was edited, removed or put in; rows begin with a sequence and end with a digest.

    A chain that was cut at its end is whole in itself.
    """
    previous, expected = GENESIS, 1
    for *row, digest in rows:
        sequence = int(row[0] or 0)
        if sequence != expected:
            missing = f"audit rows {expected} to {sequence - 1} are missing"
            yield missing if sequence > expected else f"audit row {sequence} stands where row {expected} must"
        if chained_digest(previous, row) != digest:
            yield f"audit row {sequence} or the one before it was changed"
        previous, expected = str(digest), sequence + 1


def chaining() -> Callable[..., str]:
    """Return a function for SQL that gives each row that it is called with its digest."""
    previous = GENESIS

    def audit_digest(*row: Value) -> str:
        nonlocal previous
        previous = chained_digest(previous, row)
        return previous

    return audit_digest
