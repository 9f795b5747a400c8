"""Numbers as people read them at a glance; the page at ``/ui`` writes them the same way."""

from __future__ import annotations

from loractl.observability.rates import Quantile

NOTHING = "-"
_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))


def amount(value: float | None) -> str:
    """Return ``0``, ``0.35``, ``42.1``, ``1500``, ``15.0k``; nothing for None."""
    if value is None:
        return NOTHING
    if value < 0.005:
        return "0"
    for least, size, unit in _UNITS:
        if value >= least:
            return f"{_trimmed(value / size)}{unit}"
    return _trimmed(value)


def percent(share: float | None) -> str:
    """Return a share of 1 as ``12.5%``."""
    if share is None:
        return NOTHING
    return "<0.1%" if 0 < share < 0.001 else f"{_trimmed(share * 100)}%"


def latency(quantile: Quantile | None) -> str:
    """Return ``35.2ms``, ``1.2s``, or ``>60s`` where it is beyond the last bucket."""
    if quantile is None:
        return NOTHING
    seconds = quantile.seconds
    text = f"{_trimmed(seconds * 1000)}ms" if seconds < 0.9995 else f"{_trimmed(seconds)}s"
    return f">{text}" if quantile.is_beyond else text


def long_time(seconds: float) -> str:
    """Return ``42s``, ``5m``, ``3h 20m``, ``2d 4h``."""
    minutes, hours, days = int(seconds // 60) % 60, int(seconds // 3600) % 24, int(seconds // 86400)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m" if minutes else f"{int(seconds)}s"


def _trimmed(value: float) -> str:
    """Keep about three digits, and no zeroes that say nothing."""
    text = f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
