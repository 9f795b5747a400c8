"""What every operation of one open registry works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry._store.database import Database
from loractl_registry.policy import Policy

if TYPE_CHECKING:
    from loractl_registry.content import ContentStore


@dataclass(frozen=True, slots=True)
class Context:
    """One open home: its database, its content store, its clock and its policy."""

    home: Path
    database: Database
    contents: ContentStore
    clock: Callable[[], datetime]
    policy: Policy

    def path_of(self, digest: str) -> Path:
        """Return the folder of a content in the store."""
        return self.contents.path_of(digest)
