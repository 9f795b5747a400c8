"""Which advisories a home goes by: the newer of those that loractl came with and those that it was given since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._files import write_whole
from loractl_registry._store import audit
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor, require_reason
from loractl_registry.advisories import (
    Finding,
    Snapshot,
    bundled_snapshot,
    parse_snapshot,
    read_source,
    render_snapshot,
    update,
)
from loractl_registry.advisories.snapshots import MAX_SNAPSHOT_BYTES
from loractl_registry.home_errors import os_errors_named

SNAPSHOT_FILE = "advisories.json"
OVERRIDE = "base.advisory_override"


@dataclass(frozen=True, slots=True)
class AdvisoriesUpdated:
    """What is known after an update.

    Attributes:
        new: Ids that were not known before.
    """

    snapshot: Snapshot
    file: Path
    new: tuple[str, ...]


class HomeAdvisories:
    """The advisories of one open home."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def snapshot(self) -> Snapshot:
        """Return what is known.

        Raises:
            SnapshotError: The file in the home is malformed; nothing is assumed about what it hides.
        """
        bundled, path = bundled_snapshot(), self._context.home / SNAPSHOT_FILE
        with os_errors_named(path):
            try:
                with path.open("rb") as stream:
                    data = stream.read(MAX_SNAPSHOT_BYTES + 1)
            except FileNotFoundError:
                return bundled
        held = parse_snapshot(data)
        return held if held.taken >= bundled.taken else bundled

    def update(self, source: str) -> AdvisoriesUpdated:
        """Read advisories from a file or an https URL, and keep what is known then; see `advisories.update`.

        Raises:
            SnapshotError: They are malformed, or older than what is known. What is known stays.
            SourceError, FetchError: There is nothing at `source`.
        """
        held, path = self.snapshot(), self._context.home / SNAPSHOT_FILE
        found = update(held, read_source(source), today=self._context.clock().date())
        write_whole(path, render_snapshot(found))
        before = {(each.package, each.id) for each in held.advisories}
        new = tuple(each.id for each in found.advisories if (each.package, each.id) not in before)
        return AdvisoriesUpdated(found, path, new)

    def record_override(self, base: str, finding: Finding, *, actor: str, reason: str) -> None:
        """Write down that `base` is served although an advisory refuses: one audit event."""
        actor, reason = parse_actor(actor), require_reason(f"override {finding.advisory.id}", reason)
        detail: dict[str, object] = {
            "advisory": finding.advisory.id,
            "severity": finding.advisory.severity.value,
            "installed": f"{finding.distribution} {finding.installed}",
        }
        with self._context.database.writing() as connection:
            event = NewEvent(OVERRIDE, base, actor, self._context.clock(), reason=reason, detail=detail)
            audit.append(connection, event)
