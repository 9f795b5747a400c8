"""The chain of the audit log: each row's digest is over its content and the digest of the row before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

GENESIS = ""
"""What stands in place of a digest before the first row."""

Value = str | int | None


def chained_digest(previous: str, row: Sequence[Value]) -> str:
    """Return ``sha256:hex`` over the canonical JSON of `previous` and the columns of a row, in their order."""
    text = json.dumps([previous, *row], ensure_ascii=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def chaining() -> Callable[..., str]:
    """Return a function for SQL that gives each row that it is called with its digest."""
    previous = GENESIS

    def audit_digest(*row: Value) -> str:
        nonlocal previous
        previous = chained_digest(previous, row)
        return previous

    return audit_digest
