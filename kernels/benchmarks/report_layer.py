"""The part of the page on single layers: loractl's kernels beside vLLM's own, and beside the bytes they must move."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import svg
from rows import Row, last_runs, machine

TARGET_RATIO = 3.0
PREFILL_TOKENS, PREFILL_FACTOR = 512, 2.0
DECODE_TOKENS, DECODE_OVER_US = 32, 12.0
_WORST, _FURTHEST = 12, 20
_KEY = ("model", "rank", "M", "adapters", "max_loras", "base_rows", "skew")


@dataclass(frozen=True, slots=True)
class Point:
    """One case of the matrix, measured once or more with both back ends.

    Attributes:
        case: The columns that `_KEY` names.
        ours_us: loractl's median, the median over the repeats.
        theirs_us: vLLM's.
        floor_us: What the bytes take at the memory's speed.
        ratios: vLLM's time over loractl's, repeat by repeat.
    """

    case: Row
    ours_us: float
    theirs_us: float
    floor_us: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times faster loractl is, the median over the repeats."""
        return statistics.median(self.ratios)

    @property
    def is_slower(self) -> bool:
        """Whether loractl was slower every time."""
        return max(self.ratios) < 1.0

    @property
    def misses_floor(self) -> bool:
        """Whether the point is under a bound on its distance from the floor, and over that bound."""
        tokens = self.case["M"]
        if tokens >= PREFILL_TOKENS:
            return self.ours_us > PREFILL_FACTOR * self.floor_us
        return tokens <= DECODE_TOKENS and self.ours_us - self.floor_us > DECODE_OVER_US


def points(rows: Iterable[Row]) -> tuple[list[Point], list[str]]:
    """Pair the rows of both back ends; also return what has one back end alone."""
    found: dict[tuple[object, ...], dict[str, dict[object, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[tuple(row.get(column) for column in _KEY)][row["backend"]][row.get("repeat", 0)] = row
    paired, alone = list[Point](), list[str]()
    for key, sides in found.items():
        ours, theirs = sides.get("loractl", {}), sides.get("vllm", {})
        both = [repeat for repeat in ours if repeat in theirs]
        case = dict(zip(_KEY, key, strict=True))
        if not both:
            alone.append(f"{describe(case)}: {' and '.join(sorted(sides))} alone")
            continue
        paired.append(
            Point(
                case,
                statistics.median(ours[repeat]["p50_us"] for repeat in both),
                statistics.median(theirs[repeat]["p50_us"] for repeat in both),
                ours[both[0]]["floor_us"],
                tuple(theirs[repeat]["p50_us"] / ours[repeat]["p50_us"] for repeat in both),
            )
        )
    return paired, alone


def geomean(values: Sequence[float]) -> float:
    """Return the geometric mean of `values`, which are above 0."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def describe(case: Row) -> str:
    """Return a case in words."""
    said = f"{case['model']} r{case['rank']}, {case['M']} tokens, {case['adapters']} of {case['max_loras']} slots"
    said += f", base rows {case['base_rows']}" if case["base_rows"] else ""
    return said + (f", {case['skew']}" if case["skew"] not in (None, "", "uniform") else "")


def section(rows: list[Row]) -> str:
    """Return the section on single layers; it says so when there are no rows."""
    if not rows:
        return "\n## One layer\n\n**No rows**: the layer benchmark has not been run.\n"
    text = LAYER.format(prefill=PREFILL_TOKENS, decode=DECODE_TOKENS, over=DECODE_OVER_US, factor=PREFILL_FACTOR)
    by_model = last_runs(rows)
    text += "".join(f"Measured on {where}.\n\n" for where in dict.fromkeys(machine(r[-1]) for r in by_model.values()))
    text += "| Model | Ranks | Points | Geometric mean | Least | Slower every time | Over the floor's bound | Run |\n"
    text += "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    every, alone = list[Point](), list[str]()
    for model, kept in by_model.items():
        paired, unpaired = points(kept)
        alone += unpaired
        every += paired
        text += _model_line(model, paired, kept[-1])
    if not every:
        return text + "\n**No case was measured with both back ends.**\n"
    mean, slower = geomean([point.ratio for point in every]), sum(point.is_slower for point in every)
    missed = sum(point.misses_floor for point in every)
    bounded = sum(point.case["M"] >= PREFILL_TOKENS or point.case["M"] <= DECODE_TOKENS for point in every)
    text += TARGETS.format(
        ratio=f"{mean:.2f}x over {len(every)} points, {TARGET_RATIO:g}x asked: {verdict(mean >= TARGET_RATIO)}",
        slower=f"{slower} of {len(every)} points: {verdict(slower == 0)}",
        floor=f"{bounded - missed} of {bounded} points within it: {verdict(missed == 0)}",
    )
    if alone:
        text += f"\nMeasured with one back end, so compared with nothing ({len(alone)}):\n\n"
        text += "".join(f"- {name}\n" for name in alone[:_WORST])
        text += f"- and {len(alone) - _WORST} more\n" if len(alone) > _WORST else ""
    return text + PLOTS


def losses(rows: list[Row]) -> str:
    """Return the lists of the worst points of single layers."""
    every = [point for kept in last_runs(rows).values() for point in points(kept)[0]]
    if not every:
        return "\nOne layer: nothing to compare.\n"
    slow = sorted(every, key=lambda point: point.ratio)[:_WORST]
    text = f"\nOne layer, the {len(slow)} least ratios:\n\n| Case | loractl, us | vLLM, us | Ratio |\n"
    text += "| --- | --- | --- | --- |\n"
    for point in slow:
        mark = f"**{point.ratio:.2f}**" if point.ratio < 1 else f"{point.ratio:.2f}"
        text += f"| {describe(point.case)} | {point.ours_us:.1f} | {point.theirs_us:.1f} | {mark} |\n"
    missed = sorted((p for p in every if p.misses_floor), key=lambda point: point.floor_us / point.ours_us)
    if not missed:
        return text + "\nNo point is over the bound on its distance from the floor.\n"
    text += f"\nOver the bound on the distance from the floor: {len(missed)} points.\n\n" + _grid(every)
    shown = missed[:_FURTHEST]
    text += f"\nThe {len(shown)} furthest of them, as a multiple of the floor:\n\n"
    text += "| Case | loractl, us | Floor, us | Times the floor | Over it, us |\n| --- | --- | --- | --- | --- |\n"
    for point in shown:
        times, over = point.ours_us / max(point.floor_us, 0.01), point.ours_us - point.floor_us
        text += f"| {describe(point.case)} | {point.ours_us:.1f} | {point.floor_us:.1f} | {times:.1f} | {over:.1f} |\n"
    return text


def _grid(every: list[Point]) -> str:
    """Return a table of how many points are over the bound, by model, rank and tokens."""
    counted: dict[tuple[str, int], dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for point in every:
        counted[point.case["model"], point.case["rank"]][point.case["M"]].append(point.misses_floor)
    bounded = sorted({t for at in counted.values() for t in at if t >= PREFILL_TOKENS or t <= DECODE_TOKENS})
    text = "| Model | " + " | ".join(str(tokens) for tokens in bounded) + " |\n" + "| --- " * (len(bounded) + 1) + "|\n"
    for (model, rank), at in sorted(counted.items()):
        cells = [f"{sum(at[t])} of {len(at[t])}" if t in at else "" for t in bounded]
        text += f"| {model} r{rank} | {' | '.join(cells)} |\n"
    return text


def plots(rows: list[Row]) -> dict[str, str]:
    """Return the plots of this section by file name."""
    by_model = {model: points(kept)[0] for model, kept in last_runs(rows).items()}
    by_model = {model: paired for model, paired in by_model.items() if paired}
    if not by_model:
        return {}
    lines, every = list[svg.Series](), [point for paired in by_model.values() for point in paired]
    for index, (model, paired) in enumerate(by_model.items()):
        at: dict[int, list[float]] = defaultdict(list)
        for point in paired:
            at[point.case["M"]].append(point.ratio)
        means = [(float(tokens), geomean(ratios)) for tokens, ratios in sorted(at.items())]
        lines.append(svg.Series(model, means, svg.COLOURS[index % len(svg.COLOURS)]))
    tokens = [point.case["M"] for point in every]
    lines.append(svg.Series("as fast", [(min(tokens), 1.0), (max(tokens), 1.0)], "#57606a", dashed=True))
    floors = [point.floor_us for point in every]
    ends = (min(floors), max(floors))
    clouds = [
        svg.Series("vLLM", [(p.floor_us, p.theirs_us) for p in every], svg.COLOURS[1], dots_only=True),
        svg.Series("loractl", [(p.floor_us, p.ours_us) for p in every], svg.COLOURS[0], dots_only=True),
        svg.Series("twice the floor", [(end, 2 * end) for end in ends], "#bf8700", dashed=True),
        svg.Series("the floor", [(end, end) for end in ends], "#57606a", dashed=True),
    ]
    ratio = svg.chart("vLLM's time over loractl's, one layer", "tokens", "ratio", lines, x_base=2, y_base=2)
    roofline = svg.chart("Time of one layer by the bytes it must move", "floor, us", "time, us", clouds)
    return {"layer-ratio.svg": ratio, "layer-roofline.svg": roofline}


def verdict(met: bool) -> str:  # noqa: FBT001  (one claim in, one word out)
    """Return the word for whether a target was reached."""
    return "met" if met else "**missed**"


def _model_line(model: str, paired: list[Point], row: Row) -> str:
    if not paired:
        return f"| {model} | | 0 | not measured | | | | {row['run_id']} |\n"
    ratios = [point.ratio for point in paired]
    ranks = ", ".join(str(rank) for rank in sorted({point.case["rank"] for point in paired}))
    counts = sum(point.is_slower for point in paired), sum(point.misses_floor for point in paired)
    numbers = f"{len(paired)} | {geomean(ratios):.2f}x | {min(ratios):.2f}x | {counts[0]} | {counts[1]}"
    return f"| {model} | {ranks} | {numbers} | {row['run_id']} |\n"


LAYER = """
## One layer

All of a layer's adapter work (both projections), replayed from a CUDA graph with a cold L2; loractl's kernels and
vLLM's own on the same operands in the same run. A ratio is vLLM's median over loractl's. The floor is what the bytes
take at the memory's speed: each adapter's weights once, inputs once, outputs once read and once written. Asked for:
within {factor:g} times the floor from {prefill} tokens on, and within {over:g} us of it up to {decode} tokens.

"""

TARGETS = """
- Geometric mean: {ratio}
- Slower than vLLM every time: {slower}
- Distance from the floor: {floor}
"""

PLOTS = """
![Ratio by tokens](assets/kernels/layer-ratio.svg)

![Time by floor](assets/kernels/layer-roofline.svg)
"""
