"""JSON as every parser reads it: no duplicate key, no NaN, nothing but what the standard says."""

from __future__ import annotations

import json
from typing import NoReturn, cast


class StrictJsonError(ValueError):
    """The text is not JSON, or two parsers could read it differently."""


def parse_object(data: bytes) -> dict[str, object]:
    """Parse UTF-8 JSON text whose outermost value is an object.

    Raises:
        StrictJsonError: The message says what is wrong, without a full stop.
    """
    try:
        value: object = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"it is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise StrictJsonError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"it is not JSON ({error.msg}, line {error.lineno})") from error
    held = as_object(value)
    if held is None:
        raise StrictJsonError("it is no JSON object")
    return held


def as_object(value: object) -> dict[str, object] | None:
    """Return a parsed JSON value if it is an object."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[object] | None:
    """Return a parsed JSON value if it is a list."""
    return cast("list[object]", value) if isinstance(value, list) else None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    held = dict(pairs)
    if len(held) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise StrictJsonError(f"it has the key {ascii(key)[:80]} twice")
            seen.add(key)
    return held


def _refuse_constant(word: str) -> NoReturn:
    raise StrictJsonError(f"it holds {word}, which is not JSON")


def _parse_float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise StrictJsonError(f"it holds the number {digits[:20]}, which is too large")
    return number


def _parse_int(digits: str) -> int:
    # Python's own limit is a ValueError without a place. Tokenizers write "no limit" as a number of 31 digits.
    if len(digits) > 40:
        raise StrictJsonError(f"it holds the number {digits[:20]}…, which has {len(digits)} digits")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_parse_int, parse_float=_parse_float
)
