"""The part of the page on whole engines: what is left of the base model's speed when requests use adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import svg
from report_layer import verdict
from rows import Row, best_base, last_runs, machine, point

STREAMS: Final = (1, 8, 32, 128)
PROMPTS: Final = (100, 777, 1900, 4100)
BACKENDS: Final = ("none", "vllm", "loractl")


@dataclass(frozen=True, slots=True)
class Target:
    """One demand on loractl's engine.

    Attributes:
        name: What is asked.
        metric: Of which rows.
        requests: "one", with one adapter, or "mixed", over several.
        against: "base", the same engine's base requests; "best", the best engine without LoRA, or those requests should
            they have been quicker; "again", the second prompt of the same length.
        bounds: Bound on the quotient by streams or tokens of a prompt, least for rates and largest for times.
        aim: What to aim at beyond the bounds.
    """

    name: str
    metric: str
    requests: str
    against: str
    bounds: dict[int, float]
    aim: float | None = None

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.metric.endswith("_tok_s")


def _targets() -> Iterator[Target]:
    names = {"one": "1 adapter", "mixed": "several adapters, mixed"}
    for requests, name in names.items():
        busy = 0.90 if requests == "one" else 0.75
        decode = {1: max(busy, 0.85), 8: max(busy, 0.85), 32: busy, 128: busy}
        yield Target(f"decode, {name}", "decode_tok_s", requests, "base", decode, 0.97 if requests == "one" else None)
        yield Target(f"prefill, {name}", "prefill_tok_s", requests, "base", {8000: 0.90}, 0.97)
    one = names["one"]
    yield Target(f"time to first token, {one}", "ttft_ms", "one", "base", dict.fromkeys(PROMPTS, 1.10))
    first = f"first prompt of a length against the next, {one}"
    yield Target(first, "ttft_first_ms", "one", "again", dict.fromkeys(PROMPTS, 1.20))
    best = f"{one}, against the best engine without LoRA"
    yield Target(f"decode, {best}", "decode_tok_s", "one", "best", dict.fromkeys(STREAMS, 0.85))
    yield Target(f"prefill, {best}", "prefill_tok_s", "one", "best", {8000: 0.85}, 0.95)


TARGETS: Final = tuple(_targets())


Engine = tuple[str, str]
"""Whose kernels, and the expert back end that it was started with."""


class Run:
    """The rows of one model's last run, looked up by what they measure."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._best = best_base(rows)
        self._at = {(_engine(row), row["metric"], _size(row), row["adapters"]): row for row in rows}

    @property
    def engines(self) -> list[Engine]:
        """Return the engines in the order of `BACKENDS`, those of one back end as they ran."""
        found = dict.fromkeys(_engine(row) for row in self.rows)
        return sorted(found, key=lambda engine: BACKENDS.index(engine[0]))

    def last(self, backend: str) -> Engine:
        """Return the engine that stands for a back end: the last one, should there be several."""
        return next((engine for engine in reversed(self.engines) if engine[0] == backend), (backend, ""))

    def row(self, engine: Engine, metric: str, size: int | None, adapters: int) -> Row | None:
        """Return the row of a measurement, None if there is none."""
        return self._at.get((engine, metric, size, adapters))

    def mixes(self, engine: Engine) -> list[int]:
        """Return over how many adapters an engine's requests were spread, the base model's 0 first."""
        return sorted({row["adapters"] for row in self.rows if _engine(row) == engine and _size(row) is not None})

    def said(self, engine: Engine) -> str:
        """Return an engine in words, with its expert back end where that is needed to tell it from another."""
        name = {"none": "no LoRA", "vllm": "vLLM's kernels"}.get(engine[0], engine[0])
        return f"{name}, {engine[1]}" if sum(other[0] == engine[0] for other in self.engines) > 1 else name

    def quotient(self, engine: Engine, target: Target, size: int) -> float | None:
        """Return what `target` bounds, None where a row is missing."""
        mixes = [mix for mix in self.mixes(engine) if mix and (mix == 1) == (target.requests == "one")]
        row = self.row(engine, target.metric, size, max(mixes, default=-1))
        if row is None:
            return None
        if target.against == "best":
            seen = (self._best.get(point(row), row.get("best_base_value")), row.get("base_value"))
            known = [value for value in seen if value]
            other = (max if target.is_rate else min)(known, default=None)
        elif target.against == "again":
            again = self.row(engine, "ttft_ms", size, row["adapters"])
            other = again["value"] if again else None
        else:
            other = row.get("base_value")
        return row["value"] / other if other else None


def section(rows: list[Row]) -> str:
    """Return the section on whole engines; it says so when there are no rows."""
    if not rows:
        return "\n## Whole engine\n\n**No rows**: the engine benchmark has not been run.\n"
    text = ENGINE
    for model, kept in last_runs(rows).items():
        run, about = Run(kept), kept[-1]
        ranks = ", ".join(str(r) for r in sorted({row["rank"] for row in kept if row["backend"] != "none"})) or "none"
        text += MODEL.format(
            model=model, name=_slug(model), layers=about["layers"], ranks=ranks, machine=machine(about)
        )
        if any(row.get("together") for row in kept):
            text += TOGETHER
        absent = [run.said((backend, "")) for backend in BACKENDS if not run.mixes(run.last(backend))]
        text += "".join(f"**No speeds of the engine with {name} in this run.**\n\n" for name in absent)
        text += _speeds(run) + _first_tokens(run) + _others(run) + _verdicts(run)
    return text


def losses(rows: list[Row]) -> str:
    """Return the targets that were missed, furthest first."""
    missed = list[tuple[float, str]]()
    for model, kept in last_runs(rows).items():
        run = Run(kept)
        for target in TARGETS:
            for size, bound in target.bounds.items():
                reached = run.quotient(run.last("loractl"), target, size)
                if reached is not None and not _meets(target, reached, bound):
                    gap = bound / reached if target.is_rate else reached / bound
                    theirs = run.quotient(run.last("vllm"), target, size)
                    cells = f"{target.name}, {size} | {_percent(reached)} | {_percent(bound)} | {_percent(theirs)}"
                    missed.append((gap, f"| {model} | {cells} |\n"))
    if not missed:
        return "\nWhole engine: no target that was measured is missed.\n"
    head = "\nWhole engine, the targets that are missed, furthest first:\n\n"
    head += "| Model | Target | loractl | Asked | vLLM |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(line for _, line in sorted(missed, key=lambda pair: (-pair[0], pair[1])))


def plots(rows: list[Row]) -> dict[str, str]:
    """Return the plot of each model by file name; a model without rows of the section still has one, with gaps."""
    drawn = {}
    for model, kept in last_runs(rows).items():
        run = Run(kept)
        engines = sorted((e for e in run.engines if e[0] != "none"), key=lambda engine: engine[0])
        sides = [(engine, mix) for engine in engines for mix in run.mixes(engine) if mix]
        places = [("decode_tok_s", size, f"{size} streams") for size in STREAMS] + [("prefill_tok_s", 8000, "prefill")]
        groups = [(label, [_retained(run, side, metric, size) for side in sides]) for metric, size, label in places]
        legend = [(f"{run.said(engine)}, {_adapters(mix)}", _colour(engine, mix)) for engine, mix in sides]
        title = f"{model}: share of the same engine's base requests"
        drawn[f"retained-{_slug(model)}.svg"] = svg.bars(title, "%", groups, legend)
    return drawn


def _colour(engine: Engine, mix: int) -> str:
    dark, light = {"loractl": ("#1f6feb", "#79b8ff"), "vllm": ("#d1242f", "#f5a3a8")}[engine[0]]
    return dark if mix == 1 else light


def _retained(run: Run, side: tuple[Engine, int], metric: str, size: int) -> float | None:
    row = run.row(side[0], metric, size, side[1])
    return 100 * row["value"] / row["base_value"] if row and row.get("base_value") else None


def _speeds(run: Run) -> str:
    text = "| Engine | Requests | " + " | ".join(f"{size} streams" for size in STREAMS) + " | Prefill |\n"
    text += "| --- " * (len(STREAMS) + 3) + "|\n"
    for engine in run.engines:
        for mix in run.mixes(engine):
            cells = [_speed(run.row(engine, "decode_tok_s", size, mix)) for size in STREAMS]
            cells.append(_speed(run.row(engine, "prefill_tok_s", 8000, mix)))
            text += f"| {run.said(engine)} | {_adapters(mix)} | {' | '.join(cells)} |\n"
    return text


def _first_tokens(run: Run) -> str:
    text = FIRST_TOKENS
    text += "| Engine | Requests | " + " | ".join(f"{size} tokens" for size in PROMPTS) + " |\n"
    text += "| --- " * (len(PROMPTS) + 2) + "|\n"
    for engine in run.engines:
        for mix in (mix for mix in run.mixes(engine) if mix < 2):
            cells = []
            for size in PROMPTS:
                first, again = (run.row(engine, metric, size, mix) for metric in ("ttft_first_ms", "ttft_ms"))
                if first is None or again is None:
                    cells.append("not measured")
                    continue
                share = f" ({again['value'] / again['base_value']:.2f}x)" if mix and again.get("base_value") else ""
                cells.append(f"{first['value']:.1f}, {again['value']:.1f}{share}")
            text += f"| {run.said(engine)} | {_adapters(mix)} | {' | '.join(cells)} |\n"
    return text


def _others(run: Run) -> str:
    text = "\n| Engine | Expert back end | Start-up, s | Adapter not yet loaded, s | Compiled while serving | Largest "
    text += "difference of a log-probability from vLLM's |\n| --- | --- | --- | --- | --- | --- |\n"
    for engine in run.engines:
        mine = [row for row in run.rows if _engine(row) == engine]
        cells = []
        for metric, form in (("startup_s", "{:.0f}"), ("cold_load_s", "{:.2f}"), ("jit_compiles", "{:.0f}")):
            found = [row for row in mine if row["metric"] == metric]
            kernels = ", ".join(f"`{name}`" for name in sorted(found[-1].get("kernels", {}))) if found else ""
            cell = form.format(found[-1]["value"]) if found else "-"
            cells.append(f"{cell} ({kernels})" if kernels else cell)
        difference = [row for row in mine if row["metric"] == "logprob_diff"]
        cells.append(f"{difference[-1]['value']:.3f} (bound {difference[-1]['bound']:g})" if difference else "-")
        text += f"| {run.said(engine)} | {engine[1]} | {' | '.join(cells)} |\n"
    return text


def _verdicts(run: Run) -> str:
    text = "\n| Target | Asked | loractl | vLLM | |\n| --- | --- | --- | --- | --- |\n"
    for target in TARGETS:
        asked = "least" if target.is_rate else "at most"
        bounds = ", ".join(_percent(bound) for bound in dict.fromkeys(target.bounds.values()))
        bounds += f" (aim {_percent(target.aim)})" if target.aim else ""
        reached = {size: run.quotient(run.last("loractl"), target, size) for size in target.bounds}
        theirs = [_percent(run.quotient(run.last("vllm"), target, size)) for size in target.bounds]
        met = [_meets(target, value, target.bounds[size]) for size, value in reached.items() if value is not None]
        word = verdict(all(met)) if met else "**not measured**"
        if met and len(met) < len(reached):
            word += ", some points not measured"
        ours = " / ".join(_percent(value) for value in reached.values())
        text += f"| {target.name} | {asked} {bounds} | {ours} | {' / '.join(theirs)} | {word} |\n"
    engines = run.last("loractl"), run.last("vllm")
    compiled, theirs_too = (run.row(e, "jit_compiles", None, max(run.mixes(e), default=0)) for e in engines)
    counts = [str(round(row["value"])) if row else "-" for row in (compiled, theirs_too)]
    word = verdict(compiled["value"] == 0) if compiled else "**not measured**"
    return text + f"| compilations while serving | 0 | {counts[0]} | {counts[1]} | {word} |\n"


def _meets(target: Target, reached: float, bound: float) -> bool:
    return reached >= bound if target.is_rate else reached <= bound


def _speed(row: Row | None) -> str:
    if row is None:
        return "not measured"
    share = f" ({row['value'] / row['base_value']:.1%})" if row["adapters"] and row.get("base_value") else ""
    return f"{row['value']:.0f}{share}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _adapters(count: int) -> str:
    return {0: "base", 1: "1 adapter"}.get(count, f"{count} adapters, mixed")


def _engine(row: Row) -> Engine:
    return row["backend"], str(row.get("moe_backend", "auto"))


def _size(row: Row) -> object:
    return row.get("streams") or row.get("prompt")


def _slug(model: str) -> str:
    return model.lower().replace(".", "-").replace("/", "-")


ENGINE = """
## Whole engine

vLLM offline with dummy weights of the models' real shapes, random prompts, adapters on all experts. Tokens per second;
each number is the median of at least three. In brackets: the share of what the same engine reaches with base requests
at the same point. Engines run one after the other in one run; one whose answers fail the gate has no numbers.
"""

FIRST_TOKENS = """
Time to first token in milliseconds: the first prompt of a length, then the median of the next; in brackets the median
against the same engine's base.

"""

TOGETHER = """The engines of this run were alive side by side while each was measured in its turn: shares within an
engine hold better than absolute values, which the others' idle loops press down.

"""

MODEL = """
### {model}

{layers} layers, adapters of rank {ranks}; {machine}.

![Retained speed](assets/kernels/retained-{name}.svg)

"""
