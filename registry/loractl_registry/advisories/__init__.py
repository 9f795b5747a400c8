"""Known flaws of the engine and of what it stands on: a dated snapshot, and what of it can be reached here.

Imports pydantic and packaging: import it where it is used.
"""

from __future__ import annotations

from loractl_registry.advisories.checking import (
    DISTRIBUTIONS,
    STALE_AFTER,
    Finding,
    Override,
    check,
    require_safe,
    staleness,
)
from loractl_registry.advisories.errors import EngineAdvisoryError, SnapshotError
from loractl_registry.advisories.model import Advisory, Feature, Package, Severity, Snapshot
from loractl_registry.advisories.snapshots import bundled_snapshot, parse_snapshot, render_snapshot
from loractl_registry.advisories.updating import read_source, update

__all__ = [
    "DISTRIBUTIONS",
    "STALE_AFTER",
    "Advisory",
    "EngineAdvisoryError",
    "Feature",
    "Finding",
    "Override",
    "Package",
    "Severity",
    "Snapshot",
    "SnapshotError",
    "bundled_snapshot",
    "check",
    "parse_snapshot",
    "read_source",
    "render_snapshot",
    "require_safe",
    "staleness",
    "update",
]
