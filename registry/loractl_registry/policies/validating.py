"""Turns what pydantic says about a TOML text into problems with lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loractl_registry.file_errors import shown
from loractl_registry.policies.errors import Problem
from loractl_registry.policies.locating import KeyPath, dotted
from loractl_registry.policies.toml_text import TomlText

_MAX_PROBLEMS = 100

_M = TypeVar("_M", bound=BaseModel)
Placed = Callable[[KeyPath], KeyPath]
"""Maps a path within the validated value to one within the file."""


def validated(
    model: type[_M], values: Mapping[str, object], toml: TomlText, placed: Placed = lambda path: path
) -> _M | list[Problem]:
    """Return the value, or what is wrong with it in the order of the lines."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)[:_MAX_PROBLEMS]
        # A list whose element is wrong is reported too, and says less.
        held = {one["loc"][:end] for one in details for end in range(len(one["loc"]))}
        return in_order([_problem(model, one, toml, placed) for one in details if one["loc"] not in held])


def in_order(problems: list[Problem]) -> list[Problem]:
    """Return `problems` by line, those about the whole file first."""
    return sorted(problems, key=lambda problem: problem.line or 0)


def _problem(model: type[BaseModel], error: ErrorDetails, toml: TomlText, placed: Placed) -> Problem:
    path = tuple(part for part in error["loc"] if part != "[key]")
    there = placed(path)
    line, key = toml.line_of(there), dotted(there)[:120]
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(known_keys(model, path[:-1]), there, line)
        case "missing":
            where = dotted(there[:-1]) or toml.name
            return Problem(line, f"{where} has no {there[-1]!r}", f"write {there[-1]} = ...")
        case _:
            found: object = error["input"]
            text = shown(list(cast("tuple[object, ...]", found)) if isinstance(found, tuple) else found)
            return Problem(line, f"{key} is {text}", f"make it {_wanted(error)}")


def _unknown_key(known: tuple[str, ...], path: KeyPath, line: int | None) -> Problem:
    key = str(path[-1])
    near = get_close_matches(key, known, n=1)
    way_out = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return Problem(line, f"unknown key {dotted(path)[:120]}", way_out)


def _wanted(error: ErrorDetails) -> str:
    match error["type"]:
        case "tuple_type":
            return 'a list, such as ["anyone"]'
        case "too_short":
            return "a list of at least one, or leave the key out"
        case "string_too_short" | "string_too_long":
            return "1 to 200 characters long"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"a table: [{dotted(tuple(error['loc']))[:120]}]"
        case _:
            said = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return said[:1].lower() + said[1:]


def known_keys(model: type[BaseModel], path: KeyPath) -> tuple[str, ...]:
    """Return the keys that a table at `path` within `model` may have."""
    held: type[BaseModel] | None = model
    for part in path:
        if held is not None and isinstance(part, str) and part in held.model_fields:
            held = _model_in(held.model_fields[part].annotation)
    return () if held is None else tuple(held.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the one model that `annotation` is made of, as in ``tuple[Rung, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = cast("tuple[object, ...]", get_args(annotation))
    return next((found for one in arguments if (found := _model_in(one)) is not None), None)
