"""What the servers that run now make of a version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loractl_registry.records import AdapterVersion


@dataclass(frozen=True, slots=True)
class Refusal:
    """One running server of the version's base.

    Attributes:
        reason: Why it cannot take the version, and what a restart would change; None if it can.
    """

    url: str
    base: str
    reason: str | None


def refusals_of(home: Path, version: AdapterVersion) -> tuple[Refusal, ...]:
    """Return what each server that runs on `home` says about `version`, if it may be served at all."""
    if not version.stage.is_servable or version.base is None or not _has_servers(home):
        return ()
    from loractl.serving.state import running  # only where a server runs: most promotions need not import it

    return tuple(
        Refusal(state.url, state.base, state.plan.refusal_of(version)) for state in running(home, base=version.base)
    )


def _has_servers(home: Path) -> bool:
    return any((home / "run").glob("*.json"))
