"""What the rows of a layer run come to: ratios to vLLM's, and how far from the floor."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

POINT = ("model", "rank", "M", "adapters", "max_loras", "base_rows", "skew")
LARGE_TOKENS, LARGE_FACTOR = 512, 2.0
SMALL_TOKENS, SMALL_EXTRA_US = 32, 12.0
WORST = 12

Point = tuple[object, ...]


def by_point(rows: Sequence[Mapping[str, object]], backend: str) -> dict[Point, list[Mapping[str, object]]]:
    """Return the rows of one back end, those of each point together."""
    found: dict[Point, list[Mapping[str, object]]] = defaultdict(list)
    for row in rows:
        if row["backend"] == backend:
            found[tuple(row[name] for name in POINT)].append(row)
    return dict(found)


def summary_lines(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield the ratios of each model, the slowest points and the floors; of repeats, the median counts."""
    ours, theirs = by_point(rows, "loractl"), by_point(rows, "vllm")
    yield f"{len(rows)} rows; points: loractl {len(ours)}, vllm {len(theirs)}"
    ratios = {point: _time(theirs[point]) / _time(ours[point]) for point in ours if point in theirs}
    if ratios:
        yield from _ratio_lines(ratios)
        slower = [point for point in ratios if _is_slower_every_time(ours[point], theirs[point])]
        yield f"slower than vLLM in every repeat: {len(slower)} of {len(ratios)} points"
        for point in sorted(slower, key=ratios.__getitem__)[:WORST]:
            times = f"{_time(ours[point]):.1f} us, vLLM {_time(theirs[point]):.1f} us"
            yield f"  {ratios[point]:.2f}x  {_name(point)}  {times}"
    yield from _floor_lines(ours)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def _ratio_lines(ratios: Mapping[Point, float]) -> Iterator[str]:
    groups: dict[str, dict[Point, float]] = defaultdict(dict)
    for point, ratio in ratios.items():
        groups[f"{point[0]} r{point[1]}"][point] = ratio
    for name, group in (*groups.items(), ("all", dict(ratios))):
        worst = min(group, key=group.__getitem__)
        mean = geometric_mean(list(group.values()))
        yield f"{name:24} geomean {mean:5.2f}x  worst {group[worst]:5.2f}x at {_name(worst)}  ({len(group)} points)"


def _floor_lines(ours: Mapping[Point, Sequence[Mapping[str, object]]]) -> Iterator[str]:
    """Yield how many large points are within a factor of the seam floor, and small ones within some microseconds."""
    large = {p: _time(rows) / _floor(rows) for p, rows in ours.items() if _tokens(p) >= LARGE_TOKENS}
    small = {p: _time(rows) - _floor(rows) for p, rows in ours.items() if _tokens(p) <= SMALL_TOKENS}
    checks = (
        (large, LARGE_FACTOR, f"M >= {LARGE_TOKENS}: within {LARGE_FACTOR:g}x of the seam floor", "x"),
        (small, SMALL_EXTRA_US, f"M <= {SMALL_TOKENS}: within {SMALL_EXTRA_US:g} us of the seam floor", " us"),
    )
    for values, limit, claim, unit in checks:
        if values:
            over = sorted((p for p in values if values[p] > limit), key=values.__getitem__, reverse=True)
            yield f"{claim}: {len(values) - len(over)} of {len(values)} points"
            yield from (f"  {values[p]:.2f}{unit}  {_name(p)}" for p in over[:WORST])


def _time(rows: Sequence[Mapping[str, object]]) -> float:
    return statistics.median(float(str(row["p50_us"])) for row in rows)


def _floor(rows: Sequence[Mapping[str, object]]) -> float:
    return float(str(rows[0]["floor_us"]))


def _tokens(point: Point) -> int:
    return int(str(point[POINT.index("M")]))


def _is_slower_every_time(ours: Sequence[Mapping[str, object]], theirs: Sequence[Mapping[str, object]]) -> bool:
    return max(_time([row]) for row in theirs) < min(_time([row]) for row in ours)


def _name(point: Point) -> str:
    model, rank, tokens, adapters, max_loras, base_rows, skew = point
    base = f" base {base_rows}" if base_rows else ""
    return f"{model} r{rank} M={tokens} L={adapters}/{max_loras}{base}{' zipf' if skew == 'zipf' else ''}"
