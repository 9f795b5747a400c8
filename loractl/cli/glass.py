"""What is said, loudly, of a version that is approved without review."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from loractl.cli.context import AppContext
from loractl.cli.views import MARK, when
from loractl_registry.refs import VersionRef


def warn_of_broken_glass(app: AppContext, refs: Iterable[VersionRef]) -> None:
    """Warn of each of `refs` for which the glass was broken."""
    until = app.registry.broken_glass()
    for ref in refs:
        if ref in until:
            app.out.warn(f"{MARK}: {ref} is approved without review {ending(until[ref])}")


def ending(until: datetime, now: datetime | None = None) -> str:
    """Say when it ends or that it has."""
    is_over = (now or datetime.now(UTC)) >= until
    return f"and over since {when(until)}: nothing answers from it" if is_over else f"until {when(until)}"
