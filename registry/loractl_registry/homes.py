"""The home: where it is created, and what is in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from loractl_registry._context import Context, SigningChoice
from loractl_registry._store.database import Database
from loractl_registry.content import ContentStore
from loractl_registry.home_errors import HomeNotFoundError, os_errors_named

DATABASE = "registry.db"
STORE = "store"


def open_home(
    home: Path,
    *,
    clock: Callable[[], datetime],
    must_exist: bool,
    signing: SigningChoice,
    witness: Path | None,
    timeout_s: float,
) -> Context:
    """Open `home`, and create what is missing unless it `must_exist`."""
    path = home / DATABASE
    with os_errors_named(home):
        if must_exist and not path.is_file():
            raise HomeNotFoundError(home)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database.open(path, clock=clock, busy_timeout_s=timeout_s)
    return Context(home, database, ContentStore(home / STORE), clock, signing, witness)
