"""The numbers of a piece of evidence in their one form, so that a statement can bind them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from loractl_registry._store.rows import to_json


def digest_of_metrics(metrics: Mapping[str, float]) -> str | None:
    """Return ``sha256:hex`` over `metrics`, None if there are none."""
    if not metrics:
        return None
    return f"sha256:{hashlib.sha256(to_json(dict(metrics)).encode()).hexdigest()}"
