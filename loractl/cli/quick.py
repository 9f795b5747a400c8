"""Read plain values without pydantic, which Typer imports for every value: it takes as long as a whole list may."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, get_args, get_origin

_Reader = Callable[[Any], Any]


def quicken(param: Any) -> Any:
    """Return `param`, which from now on reads plain values by itself and leaves everything else to Typer.

    Refusals are left to Typer as well, so their words stay the same. Parameters are Typer's own and untyped for us.
    """
    if "process_value" in vars(param):
        return param
    by_typer: Callable[[Any, Any], Any] = param.process_value
    read = _reader(param)

    def process_value(ctx: Any, value: Any) -> Any:
        if read is None or (param.required and param.value_is_missing(value)):
            return by_typer(ctx, value)
        try:
            found = read(value)
        except ValueError:
            return by_typer(ctx, value)
        return found if param.callback is None else param.callback(ctx, param, found)

    param.process_value = process_value
    return param


def _reader(param: Any) -> _Reader | None:
    """Return what reads a value of `param`, or None if that takes more than this module knows."""
    annotation, info = param.type_descriptor.annotation, param.type_descriptor.parameter_info
    is_many = get_origin(annotation) is list
    one = _reader_of_one(get_args(annotation)[0] if is_many else annotation, info)
    if one is None:
        return None
    if is_many:
        return lambda values: [one(value) for value in values or ()]
    return lambda value: None if value is None else one(value)


def _reader_of_one(annotation: Any, info: Any) -> _Reader | None:
    if info.parser is not None:
        parser: _Reader = info.parser
        return parser
    if annotation is str:
        return str
    if annotation is bool:
        return _flag
    if annotation is int and info.min is None and info.max is None:
        return _number
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation
    return None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004  # what `quicken` waits for
    return value


def _number(text: Any) -> int:
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)
