"""The measurements of one started engine: the gate first, then decode, prefill and time to first token."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

STREAMS = (1, 8, 32, 128)
TTFT_PROMPTS = (100, 777, 1900, 4100)
PREFILL_PROMPT = 8000
METRICS = ("ttft", "decode", "prefill")
_DECODE_PROMPT = 32
_PREFILL_BATCH = 4
_TTFT_REPS = 3  # times as many as of the rest: one request is short
_COMPILED = re.compile(r"JIT compilation during inference: ([\w.<>]+)|Triton autotuning for function (\w+)")
MONITOR_ON = "Kernel JIT monitor activated"


class Requests(Protocol):
    """Runs requests on an engine and waits for the last token; the engine itself, or a fake of it in a test."""

    def __call__(self, prompts: Sequence[Sequence[int]], adapters: Sequence[int | None], tokens: int) -> None:
        """Generate `tokens` tokens for each prompt with the adapter of the same place, None for the base model."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number.

    Attributes:
        metric: What was measured, its unit at the end.
        adapters: How many adapters the requests were spread over; 0 is the base model.
        value: The median.
        spread: Largest less smallest, as a share of the median.
        streams: Concurrent requests, for decode.
        prompt: Tokens of a prompt, for prefill and time to first token.
        more: Other columns of the row.
    """

    metric: str
    adapters: int
    value: float
    spread: float = 0.0
    streams: int | None = None
    prompt: int | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Bench:
    """Measures an engine within a budget of time.

    Attributes:
        requests: The engine.
        adapters: How many adapters there are; 0 for an engine without LoRA.
        tokens: Tokens that a decode measurement generates for each stream.
        reps: Repetitions of each measurement.
        deadline: When to begin no further measurement, on the clock of `time.perf_counter`.
        left_out: What the budget did not allow.
    """

    requests: Requests
    adapters: int
    tokens: int
    reps: int
    deadline: float
    left_out: list[str] = field(default_factory=list)
    _random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(1))

    @property
    def mixes(self) -> list[int]:
        """Over how many adapters the requests are spread, measurement by measurement."""
        return [0, *sorted({1, self.adapters})] if self.adapters else [0]

    def prompt(self, tokens: int) -> list[int]:
        """Return a prompt that no request has had."""
        return [int(token) for token in torch.randint(10, 100_000, (tokens,), generator=self._random)]

    def seconds(self, streams: int, prompt: int, tokens: int, adapters: int) -> float:
        """Return how long `streams` requests take together, request i with adapter i modulo `adapters`."""
        prompts = [self.prompt(prompt) for _ in range(streams)]
        mixed = [index % adapters if adapters else None for index in range(streams)]
        start = time.perf_counter()
        self.requests(prompts, mixed, tokens)
        return time.perf_counter() - start

    def run(self, metrics: Collection[str], streams: Sequence[int] = STREAMS) -> list[Measurement]:
        """Measure `metrics`, each mix of adapters next to the base model at the same point."""
        found = list[Measurement]()
        points = [
            *(("ttft", prompt) for prompt in TTFT_PROMPTS),
            *(("decode", count) for count in streams),
            ("prefill", PREFILL_PROMPT),
        ]
        for metric, size in points:
            if metric not in metrics:
                continue
            if time.perf_counter() > self.deadline:
                self.left_out.append(f"{metric} {size}")
                continue
            found += getattr(self, f"_{metric}")(size)
        return found

    def in_turn(
        self, mixes: Sequence[int], streams: int, prompt: int, tokens: int, *, reps: int
    ) -> dict[int, list[float]]:
        """Return the seconds of `reps` repetitions for each of `mixes`.

        The mixes take turns, repetition by repetition, so that what slows the host for a while slows all of them.
        """
        times: dict[int, list[float]] = {mix: [] for mix in mixes}
        for _ in range(reps):
            for mix in mixes:
                times[mix].append(self.seconds(streams, prompt, tokens, mix))
        return times

    def cold_load(self) -> list[Measurement]:
        """Load each adapter by its first request; that request's time is the number, a token of work in it."""
        if not self.adapters:
            return []
        times = []
        for adapter in range(self.adapters):
            prompt = self.prompt(16)
            start = time.perf_counter()
            self.requests([prompt], [adapter], 1)
            times.append(time.perf_counter() - start)
        return [Measurement("cold_load_s", self.adapters, statistics.median(times), spread(times))]

    def _ttft(self, prompt: int) -> list[Measurement]:
        mixes = self.mixes[:2]  # one request has one adapter
        first = {mix: self.seconds(1, prompt, 1, mix) for mix in mixes}
        again = self.in_turn(mixes, 1, prompt, 1, reps=_TTFT_REPS * self.reps)
        return [
            measurement
            for mix in mixes
            for measurement in (
                Measurement("ttft_first_ms", mix, first[mix] * 1e3, prompt=prompt),
                Measurement("ttft_ms", mix, statistics.median(again[mix]) * 1e3, spread(again[mix]), prompt=prompt),
            )
        ]

    def _decode(self, streams: int) -> list[Measurement]:
        self.in_turn(self.mixes, streams, _DECODE_PROMPT, 8, reps=1)
        first = self.in_turn(self.mixes, streams, _DECODE_PROMPT, 1, reps=self.reps)
        whole = self.in_turn(self.mixes, streams, _DECODE_PROMPT, 1 + self.tokens, reps=self.reps)
        found = []
        for mix in self.mixes:
            one = statistics.median(first[mix])
            if one >= min(whole[mix]):
                self.left_out.append(f"decode {streams}, {mix} adapters: one token took longer than {1 + self.tokens}")
                continue
            rates = [streams * self.tokens / (seconds - one) for seconds in whole[mix]]
            found.append(Measurement("decode_tok_s", mix, statistics.median(rates), spread(rates), streams=streams))
        return found

    def _prefill(self, prompt: int) -> list[Measurement]:
        # As what is timed: its chunks are what kernels are compiled for.
        self.in_turn(self.mixes, _PREFILL_BATCH, prompt, 1, reps=1)
        found = []
        for mix, times in self.in_turn(self.mixes, _PREFILL_BATCH, prompt, 1, reps=self.reps).items():
            rates = [_PREFILL_BATCH * prompt / seconds for seconds in times]
            found.append(Measurement("prefill_tok_s", mix, statistics.median(rates), spread(rates), prompt=prompt))
        return found


def spread(values: Sequence[float]) -> float:
    """Return the range of `values` as a share of their median."""
    return (max(values) - min(values)) / statistics.median(values)


def compiled_kernels(log: str) -> Counter[str]:
    """Count, by kernel, what vLLM's monitor reports as compiled or tuned while serving.

    Raises:
        ValueError: The monitor was never on, so its silence means nothing.
    """
    _, on, after = log.partition(MONITOR_ON)
    if not on:
        raise ValueError("vLLM's jit monitor was not activated, so compilations while serving cannot be counted")
    return Counter(compiled or tuned for compiled, tuned in _COMPILED.findall(after))


def jit_compiles(log: Path, adapters: int, gate: Counter[str]) -> Measurement:
    """Return the number of compilations since the start; `gate` are those that the gate's requests caused."""
    compiled = compiled_kernels(log.read_text(encoding="utf-8", errors="replace"))
    return Measurement(
        "jit_compiles", adapters, compiled.total(), more={"kernels": dict(compiled), "in_gate": gate.total()}
    )


def as_rows(
    measurements: Iterable[Measurement], engine: dict[str, object], facts: dict[str, str]
) -> list[dict[str, object]]:
    """Return one row a measurement, each beside the base requests of the same engine at the same point.

    Args:
        measurements: Of one engine.
        engine: The columns that say which engine it was.
        facts: The columns of `provenance`.
    """
    measured = list(measurements)
    base = {(m.metric, m.streams, m.prompt): m.value for m in measured if m.adapters == 0}
    return [
        {
            "bench": "engine",
            **engine,
            "metric": m.metric,
            "streams": m.streams,
            "prompt": m.prompt,
            "adapters": m.adapters,
            "value": round(m.value, 4),
            "spread": round(m.spread, 4),
            "base_value": _rounded(base.get((m.metric, m.streams, m.prompt))),
            "best_base_value": None,
            **m.more,
            **facts,
        }
        for m in measured
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
