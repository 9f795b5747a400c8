"""What preflight found, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loractl.cli.style import Style

if TYPE_CHECKING:
    from loractl_registry.preflight import PreflightReport


def preflight_summary(report: PreflightReport) -> str:
    """Return the numbers that matter, in one line."""
    return str(report)


def preflight_lines(report: PreflightReport | None, style: Style) -> Iterator[str]:
    """Yield what preflight says about a version now."""
    yield style.dim("not possible") if report is None else preflight_summary(report)
