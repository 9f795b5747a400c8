"""What the operator reads in the log about names and versions; each thing once per change."""

from __future__ import annotations

import logging

from loractl.gateway.holdings import Holdings
from loractl.gateway.table import ServingTable
from loractl_registry import ServingSnapshot, Stage, VersionRef
from loractl_registry.refs import LIVE

_logger = logging.getLogger(__name__)


class Notices:
    """Remembers what was said, and says what is new."""

    def __init__(self) -> None:
        self._cannot_take: set[tuple[str, Stage, str]] = set()
        self._unsigned: set[tuple[VersionRef, str]] = set()
        self._distrust: str | None = None

    def meaning(self, before: ServingTable, after: ServingTable) -> None:
        """Say which names answer from another version than before."""
        for name in sorted(before.targets.keys() | after.targets.keys()):
            if name.endswith(f"@{LIVE}") or name == after.base.name:
                continue
            old, new = before.targets.get(name), after.targets.get(name)
            if old is not None and new is None:
                _logger.info("%s is not served any more", name)
            elif new is not None and new.model == name and old is None:
                _logger.info("%s is served", name)
            elif new is not None and (old is None or old.model != new.model):
                _logger.info("%s now answers from %s", name, new.model)

    def distrust(self, snapshot: ServingSnapshot) -> None:
        """Say why nothing that was signed can be trusted, and when it can again."""
        if snapshot.distrust is not None and snapshot.distrust != self._distrust:
            _logger.error("no adapter answers, because the registry cannot be trusted: %s", snapshot.distrust)
        elif snapshot.distrust is None and self._distrust is not None:
            _logger.info("the registry can be trusted again")
        self._distrust = snapshot.distrust

    def unsigned(self, snapshot: ServingSnapshot) -> tuple[tuple[VersionRef, str], ...]:
        """Say which rows are not what was signed, and return those that are new, with the reason."""
        current = set(snapshot.refused.items()) if snapshot.distrust is None else set[tuple[VersionRef, str]]()
        new = tuple(sorted(current - self._unsigned))
        for ref, reason in new:
            _logger.error("refusing %s: %s; the other versions go on", ref, reason)
        self._unsigned = current
        return new

    def refusals(self, snapshot: ServingSnapshot, holdings: Holdings, table: ServingTable) -> None:
        """Say which servable versions this engine cannot take, why, and who answers in their place."""
        current: set[tuple[str, Stage, str]] = set()
        for version in snapshot.versions:
            reason = holdings.refusal_of(version)
            if reason is None:
                continue
            key = (str(version.ref), version.stage, reason)
            current.add(key)
            if key not in self._cannot_take:
                stand_in = table.resolve(version.ref.name)
                meanwhile = f"; {version.ref.name} goes on answering from {stand_in.model}" if stand_in else ""
                is_live = version.stage is Stage.LIVE
                _logger.warning(
                    "%s is %s but this server cannot take it: %s%s",
                    version.ref,
                    version.stage.value,
                    reason,
                    meanwhile if is_live else "",
                )
        self._cannot_take = current
