"""The correctness gate of the whole-engine benchmark: a red gate, and no number is written."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

BOUND = 0.15
"""Largest difference of a log-probability between two engines in bf16."""
SHARE = 0.2
"""Largest part of the adapter's own effect that the median difference between two engines may be."""
LEAST_EFFECT = 2e-4
"""An adapter whose median effect on a log-probability is smaller does nothing."""
PROMPTS = (48, 700)
"""Tokens of the prompt before the measurements, and of the one after them: no length that is measured."""
TOKENS = 8


class GateError(Exception):
    """The engine's answers are wrong."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine said to one request at temperature 0.

    Attributes:
        adapter: Index of the adapter, None for the base model.
        prompt: Log-probability of each token of the prompt but the first.
        tokens: The tokens generated.
        logprobs: Their log-probabilities.
    """

    adapter: int | None
    prompt: list[float]
    tokens: list[int]
    logprobs: list[float]


def check(answers: list[Answer]) -> float:
    """Check answers to the same prompt, the base model's first, and return the least median effect of an adapter.

    Raises:
        GateError: A log-probability is not finite, or an adapter does nothing or the same as another.
    """
    for answer in answers:
        if not all(math.isfinite(value) for value in answer.prompt + answer.logprobs):
            raise GateError(f"a log-probability of {_name(answer)} is not finite")
    effects = [math.inf]
    for one, other in itertools.combinations(answers, 2):
        effect = statistics.median(_apart(one.prompt, other.prompt))
        if effect < LEAST_EFFECT:
            raise GateError(f"{_name(one)} and {_name(other)} give the same log-probabilities (median {effect:.1e})")
        if one.adapter is None:
            effects.append(effect)
    return min(effects)


def compare(answers: list[Answer], reference: list[Answer], *, bound: float = BOUND) -> dict[str, float]:
    """Compare two engines' answers to the same requests; generated tokens count until the first that differs.

    Returns:
        `max` and `p50` of the absolute difference, and `effect`, the median effect of an adapter.

    Raises:
        GateError: They differ by more than `bound`, or at the median by more than `SHARE` of the effect.
    """
    effect = check(answers)
    if [answer.adapter for answer in answers] != [answer.adapter for answer in reference]:
        raise GateError("the reference has other requests")
    differences = list[float]()
    for ours, theirs in zip(answers, reference, strict=True):
        differences += _apart(ours.prompt, theirs.prompt)
        for mine, its, one, other in zip(ours.tokens, theirs.tokens, ours.logprobs, theirs.logprobs, strict=True):
            if mine != its:
                break
            differences.append(abs(one - other))
    found = {"max": max(differences), "p50": statistics.median(differences), "effect": effect}
    if found["max"] > bound or found["p50"] > SHARE * effect:
        raise GateError(
            f"log-probabilities differ from the reference by {found['max']:.3f} at most (bound {bound}) and by "
            f"{found['p50']:.4f} at the median (bound {SHARE * effect:.4f}, {SHARE:.0%} of an adapter's effect)"
        )
    return found


def save(file: Path, answers: list[list[Answer]], about: dict[str, object]) -> None:
    """Write answers, prompt by prompt, for another engine's `load`; `about` says of which model and adapters."""
    text = json.dumps({"about": about, "answers": [[asdict(answer) for answer in group] for group in answers]})
    file.write_text(text, encoding="utf-8")


def load(file: Path, about: dict[str, object]) -> list[list[Answer]]:
    """Read what `save` wrote.

    Raises:
        GateError: It is of another model, depth, rank or run.
    """
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved["about"] != about:
        raise GateError(f"{file} is of {saved['about']}, and this engine is {about}")
    return [[Answer(**answer) for answer in group] for group in saved["answers"]]


def _apart(one: list[float], other: list[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def _name(answer: Answer) -> str:
    return "the base model" if answer.adapter is None else f"adapter {answer.adapter}"
