"""What is refused about advisories: the engine that they are about, and snapshots of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from loractl_registry.errors import DeniedError, RegistryError, UsageError
from loractl_registry.file_errors import shown


class EngineAdvisoryError(DeniedError):
    """What is installed has a critical flaw that can be reached as it is used here.

    Attributes:
        ids: Of the advisories, in the order of the findings.
    """

    code = "advisories.reachable"

    def __init__(self, first: str, ids: Sequence[str], fixed_in: str | None) -> None:
        more = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
        way_out = f"upgrade to {fixed_in} or later" if fixed_in else "no release fixes it yet"
        super().__init__(
            f"refused to serve: {first}{more}",
            hint=f"{way_out}; to serve all the same, say why: --override-advisory {ids[0]} --reason TEXT",
        )
        self.ids = tuple(ids)


class SnapshotError(DeniedError):
    """The snapshot of advisories is malformed or too large. The one that was in force stays."""

    code = "advisories.snapshot"

    def __init__(self, problem: str) -> None:
        super().__init__(f"refused advisories: {problem}", hint="fetch them again, or leave the ones that are there")


class OlderSnapshotError(SnapshotError):
    """The snapshot is older than the one in force, which an attacker who hides an advisory would want."""

    code = "advisories.older_snapshot"

    def __init__(self, found: date, held: date) -> None:
        super().__init__(f"they are of {found:%Y-%m-%d}, and those in force of {held:%Y-%m-%d}")
        self.found, self.held = found, held


class OverrideError(UsageError):
    """The override names an advisory that was not found."""

    code = "advisories.override"

    def __init__(self, advisory: str) -> None:
        super().__init__(
            f"nothing to override: {shown(advisory)} is not among the findings",
            hint="list them: loractl advisories list",
        )
        self.advisory = advisory


class SourceError(UsageError):
    """The source of advisories is neither a file nor a URL that is fetched."""

    code = "advisories.source"

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"cannot take advisories from {shown(source)}: {problem}", hint="name a file, or an https URL")
        self.source = source


class FetchError(RegistryError):
    """The URL that was asked for did not give the advisories."""

    code = "advisories.fetch"

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            f"cannot fetch {shown(url)}: {problem}", hint="fetch it by other means, then name the file instead"
        )
        self.url = url
