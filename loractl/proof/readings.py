"""What a model says on the prompts, as logprobs of a few tokens in each place, and how far two readings are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Row = Mapping[int, float]
"""Logprobs by token id, after one more token of the prompt."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Logprobs of one model.

    Attributes:
        prompts: By prompt, a row after each of its tokens: the next token's and those of the likeliest ones.
    """

    prompts: tuple[tuple[Row, ...], ...]

    def ids(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Return which tokens were read in each place."""
        return tuple(tuple(tuple(row) for row in rows) for rows in self.prompts)


def differences(one: Reading, other: Reading) -> tuple[float, ...]:
    """Return, by prompt, the largest difference over the tokens that both were read at; infinite if one is NaN.

    Where two lists of the likeliest tokens have none in common, it is the least that the difference can be.
    """
    return tuple(
        max((_row_difference(a, b) for a, b in zip(rows, others, strict=True)), default=0.0)
        for rows, others in zip(one.prompts, other.prompts, strict=True)
    )


def typical(one: Reading, other: Reading) -> tuple[float, ...]:
    """Return, by prompt, the median over its places of the largest difference there."""
    return tuple(
        median(_row_difference(a, b) for a, b in zip(rows, others, strict=True))
        for rows, others in zip(one.prompts, other.prompts, strict=True)
    )


def largest(values: Sequence[float]) -> float:
    """Return the largest of `values`, 0 if there are none."""
    return max(values, default=0.0)


def largest_logprob(reading: Reading) -> float:
    """Return the largest magnitude of a logprob that was read."""
    return largest([abs(value) for rows in reading.prompts for row in rows for value in row.values()])


def _row_difference(one: Row, other: Row) -> float:
    apart = [abs(value - other[token]) for token, value in one.items() if token in other]
    if not apart and one and other:
        # Both hold the likeliest tokens alone, so what one has not is at most the least likely that it has.
        return max(0.0, max(one.values()) - min(other.values()))
    return math.inf if any(math.isnan(value) for value in apart) else max(apart, default=0.0)
