"""Plots as plain SVG: lines and points on logarithmic axes, bars in groups. The same input gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = ("#1f6feb", "#d1242f", "#2da44e", "#bf8700", "#8250df", "#57606a", "#e16f24", "#0598bc")
WIDTH, HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 230, 34, 48


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one cloud of points.

    Attributes:
        name: As the legend says it.
        points: Pairs of x and y, both above 0.
        colour: Any colour of SVG.
        dashed: Whether the line is broken.
        dots_only: Whether the points are not joined.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    dots_only: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis between two powers of `base`, from pixel `start` to pixel `end`."""

    low: int
    high: int
    base: int
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], base: int, start: float, end: float) -> _Axis:
        low = math.floor(math.log(min(values), base) + 1e-9)
        high = math.ceil(math.log(max(values), base) - 1e-9)
        return cls(low, max(high, low + 1), base, start, end)

    def at(self, value: float) -> float:
        share = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        return [float(self.base) ** power for power in range(self.low, self.high + 1)]


def chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, x_base: int = 10, y_base: int = 10
) -> str:
    """Draw `series` on two logarithmic axes, with a tick at each power of its base."""
    points = [point for line in series for point in line.points]
    x = _Axis.over([point[0] for point in points], x_base, _LEFT, WIDTH - _RIGHT)
    y = _Axis.over([point[1] for point in points], y_base, HEIGHT - _BOTTOM, _TOP)
    parts = [_line(x.at(tick), y.start, x.at(tick), y.end, "#e5e7eb") for tick in x.ticks]
    parts += [_line(x.start, y.at(tick), x.end, y.at(tick), "#e5e7eb") for tick in y.ticks]
    parts += [_text(x.at(tick), y.start + 16, f"{tick:g}", "middle") for tick in x.ticks]
    parts += [_text(x.start - 6, y.at(tick) + 4, f"{tick:g}", "end") for tick in y.ticks]
    for line in series:
        placed = [(x.at(a), y.at(b)) for a, b in line.points]
        if not line.dots_only:
            path = " ".join(f"{_n(a)},{_n(b)}" for a, b in placed)
            dash = ' stroke-dasharray="5 4"' if line.dashed else ""
            parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.8"{dash}/>')
        if not line.dashed:
            parts += [f'<circle cx="{_n(a)}" cy="{_n(b)}" r="2.4" fill="{line.colour}"/>' for a, b in placed]
    return _frame(title, x_label, y_label, parts, [(line.name, line.colour) for line in series])


def bars(
    title: str, y_label: str, groups: Sequence[tuple[str, Sequence[float | None]]], legend: Sequence[tuple[str, str]]
) -> str:
    """Draw groups of bars from 0 to 100 or more percent; None leaves a gap with a dash.

    Args:
        title: Above the plot.
        y_label: Beside it.
        groups: The name of each group, and the value of each of its bars.
        legend: The name and the colour of the bars of each group, in their order.
    """
    values = [value for _, group in groups for value in group if value is not None]
    top = 20 * math.ceil(max([100.0, *values]) / 20)
    bottom, height = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    parts = list[str]()
    for tick in range(0, top + 1, 20):
        level = bottom - height * tick / top
        parts += [_line(_LEFT, level, WIDTH - _RIGHT, level, "#e5e7eb"), _text(_LEFT - 6, level + 4, str(tick), "end")]
    room = (WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    wide = 0.8 * room / max(1, len(legend))
    for index, (label, group) in enumerate(groups):
        left = _LEFT + room * (index + 0.1)
        parts.append(_text(_LEFT + room * (index + 0.5), bottom + 16, label, "middle"))
        for place, value in enumerate(group):
            x, tall = left + wide * place, height * (value or 0.0) / top
            if value is not None:
                shape = f'x="{_n(x)}" y="{_n(bottom - tall)}" width="{_n(wide * 0.92)}" height="{_n(tall)}"'
                parts.append(f'<rect {shape} fill="{legend[place][1]}"/>')
            said = "-" if value is None else f"{value:.0f}"
            parts.append(_text(x + wide * 0.46, bottom - tall - 3, said, "middle"))
    return _frame(title, "", y_label, parts, legend)


def _frame(title: str, x_label: str, y_label: str, parts: list[str], legend: Sequence[tuple[str, str]]) -> str:
    middle, bottom = (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - _BOTTOM
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11" fill="#24292f" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
    ]
    axes = [
        _line(_LEFT, bottom, WIDTH - _RIGHT, bottom, "#57606a"),
        _line(_LEFT, _TOP, _LEFT, bottom, "#57606a"),
        _text(middle, HEIGHT - 12, x_label, "middle"),
        f'<text transform="translate(14 {_n((_TOP + bottom) / 2)}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    keys = list[str]()
    for index, (name, colour) in enumerate(legend):
        y = _TOP + 8 + 18 * index
        keys.append(f'<rect x="{WIDTH - _RIGHT + 14}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        keys.append(_text(WIDTH - _RIGHT + 30, y, name, "start"))
    return "\n".join([*head, *parts, *axes, *keys, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _n(value: float) -> str:
    return f"{value:.1f}"
