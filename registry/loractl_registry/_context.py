"""What every operation of one open registry works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry._store.database import Database

if TYPE_CHECKING:
    from loractl_registry.content import ContentStore
    from loractl_registry.trust import Chain


@dataclass(frozen=True, slots=True)
class SigningChoice:
    """Who signs.

    Attributes:
        identity: Name of the private key; None takes the only one that there is.
        passphrase: Asked where the key is encrypted.
        token: Asked where the identity is an account without a key: an OpenID token, never kept.
    """

    identity: str | None = None
    passphrase: Callable[[], str] | None = None
    token: Callable[[], str] | None = None


@dataclass(slots=True)
class Verified:
    """What this process has verified so far.

    Attributes:
        noted: How many statements the note of the home stands for, 0 if that is not known; see `ledger.prefixes`.
        signatures: By digests of the bundle and of the content that it is over, the key that made it.
    """

    chain: Chain | None = None
    noted: int = 0
    signatures: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])


@dataclass(frozen=True, slots=True)
class Context:
    """One open home: its database, its content store, its clock, and who signs.

    Attributes:
        witness: Where the checkpoint is kept besides in the home; None for nowhere.
    """

    home: Path
    database: Database
    contents: ContentStore
    clock: Callable[[], datetime]
    signing: SigningChoice = SigningChoice()
    witness: Path | None = None
    verified: Verified = field(default_factory=Verified)

    def path_of(self, digest: str) -> Path:
        """Return the folder of a content in the store."""
        return self.contents.path_of(digest)
