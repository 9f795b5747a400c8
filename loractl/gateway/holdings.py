"""What the engine holds, what it should hold, and what each name means in between; state without I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from loractl.gateway.integrity import Signature
from loractl.gateway.table import RefusalOf, ServingTable, wanted_versions
from loractl_registry import AdapterVersion, ServingSnapshot, Stage, VersionRef


@dataclass(frozen=True, slots=True)
class Held:
    """A version in the engine, and the signature of its files when they were last hashed."""

    version: AdapterVersion
    signature: Signature


@dataclass(frozen=True, slots=True)
class Damaged:
    """A version whose files are not what was approved.

    Attributes:
        signature: Of the files as they were found; other files are worth another look.
        looked_at: Monotonic time of the last look.
    """

    version: AdapterVersion
    signature: Signature | None
    looked_at: float


class Holdings:
    """The gap between the registry and the engine. Used from one event loop only."""

    def __init__(self, snapshot: ServingSnapshot, refusal_of: RefusalOf) -> None:
        self.snapshot = snapshot
        self._refusal_of = refusal_of
        self._held: dict[VersionRef, Held] = {}
        self._damaged: dict[VersionRef, Damaged] = {}
        self._refused: dict[VersionRef, tuple[str, str]] = {}

    def adopt(self, snapshot: ServingSnapshot) -> None:
        """Take over what the registry says now; versions that left start afresh if they come back."""
        self.snapshot = snapshot
        digests = {version.ref: version.digest for version in snapshot.versions}
        self._damaged = {
            ref: damaged for ref, damaged in self._damaged.items() if digests.get(ref) == damaged.version.digest
        }
        self._refused = {ref: entry for ref, entry in self._refused.items() if digests.get(ref) == entry[0]}

    def refusal_of(self, version: AdapterVersion) -> str | None:
        """Return why the engine cannot take `version`, by its plan or because it said so, or None."""
        digest, reason = self._refused.get(version.ref, ("", ""))
        return reason if digest == version.digest else self._refusal_of(version)

    def wanted(self) -> tuple[AdapterVersion, ...]:
        """Return what the engine shall hold."""
        return wanted_versions(self.snapshot, refusal_of=self.refusal_of, damaged=self._damaged)

    def table(self) -> ServingTable:
        """Return what each name means, given what the engine holds."""
        return ServingTable.of(
            self.snapshot, refusal_of=self.refusal_of, damaged=self._damaged, is_ready=self._is_ready
        )

    def waiting(self, busy: Collection[VersionRef]) -> AdapterVersion | None:
        """Return the next version to bring into the engine, live ones first, or None.

        Args:
            busy: Refs that the engine is letting go of; they come back when that is done.
        """
        missing = [version for version in self.wanted() if not self._is_ready(version) and version.ref not in busy]
        return min(missing, key=lambda version: (version.stage is not Stage.LIVE, version.ref), default=None)

    def unwanted(self, in_engine: Iterable[VersionRef]) -> set[VersionRef]:
        """Return which of those in the engine have to go: not wanted, or held with other bytes than are wanted."""
        wanted = {version.ref: version.digest for version in self.wanted()}
        stale = {ref for ref, held in self._held.items() if wanted.get(ref) != held.version.digest}
        return stale | {ref for ref in in_engine if ref not in wanted}

    def held(self) -> tuple[Held, ...]:
        """Return what the engine holds."""
        return tuple(self._held.values())

    def holding(self, ref: VersionRef) -> Held | None:
        """Return what the engine holds under `ref`."""
        return self._held.get(ref)

    def damaged(self) -> tuple[Damaged, ...]:
        """Return the versions whose files are not what was approved."""
        return tuple(self._damaged.values())

    def is_wanted(self, version: AdapterVersion) -> bool:
        """Whether the engine shall hold exactly these bytes under this ref."""
        return any(wanted.ref == version.ref and wanted.digest == version.digest for wanted in self.wanted())

    def admitted(self, version: AdapterVersion, signature: Signature) -> None:
        """Note that the engine holds `version`."""
        self._held[version.ref] = Held(version, signature)

    def left(self, ref: VersionRef) -> None:
        """Note that the engine does not hold `ref`, or is letting go of it."""
        self._held.pop(ref, None)

    def found_damaged(self, version: AdapterVersion, signature: Signature | None, *, now: float) -> None:
        """Note that the files of `version` are not what was approved."""
        self._damaged[version.ref] = Damaged(version, signature, now)

    def look_again(self, ref: VersionRef) -> None:
        """Forget that `ref` was damaged, so that it is hashed again before it is admitted."""
        self._damaged.pop(ref, None)

    def found_refused(self, version: AdapterVersion, reason: str) -> None:
        """Note that the engine would not load `version`."""
        self._refused[version.ref] = (version.digest, reason)

    def _is_ready(self, version: AdapterVersion) -> bool:
        held = self._held.get(version.ref)
        return held is not None and held.version.digest == version.digest
