"""Limits as they are typed: ``tokens-per-minute=100000``, or ``poet:concurrent=2`` for one adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import typer

from loractl.cli.errors import CliUsageError

_SETTING = re.compile(r"(?:([^:=]+):)?([a-z_-]+)=([0-9]{1,16}|none)", re.ASCII)


class LimitSetting(NamedTuple):
    """One limit.

    Attributes:
        adapter: Empty for all requests of the tenant together.
        value: None takes the limit away.
    """

    adapter: str
    name: str
    value: int | None


class LimitSettings(NamedTuple):
    """What a command line says about limits: for all requests together, and for single adapters."""

    in_all: Mapping[str, int | None]
    by_adapter: Mapping[str, Mapping[str, int | None]]


def parse_limit(text: str) -> LimitSetting:
    """Read ``[ADAPTER:]LIMIT=NUMBER``, or ``none`` in place of the number.

    Raises:
        typer.BadParameter: It is something else.
    """
    from loractl_registry.tenancy import LIMIT_NAMES  # pydantic and cryptography, which help does without

    found = _SETTING.fullmatch(text.strip())
    name = "" if found is None else found[2].replace("-", "_")
    if found is None or name not in LIMIT_NAMES:
        known = ", ".join(each.replace("_", "-") for each in LIMIT_NAMES)
        raise typer.BadParameter(f"{text[:80]!r} is no limit; write [ADAPTER:]LIMIT=NUMBER, with one of {known}")
    return LimitSetting(found[1] or "", name, None if found[3] == "none" else int(found[3]))


def gather(settings: Iterable[LimitSetting]) -> LimitSettings:
    """Sort `settings` by what they are for.

    Raises:
        CliUsageError: One limit is given twice.
    """
    in_all, by_adapter = dict[str, int | None](), dict[str, dict[str, int | None]]()
    for adapter, name, value in settings:
        held = by_adapter.setdefault(adapter, {}) if adapter else in_all
        if name in held:
            typed = f"{adapter}:{name}" if adapter else name
            raise CliUsageError(f"limit {typed.replace('_', '-')} is given twice", hint="say it once")
        held[name] = value
    return LimitSettings(in_all, by_adapter)


def limit_words(in_all: Mapping[str, int], by_adapter: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return limits as they would be typed."""
    every = [(name, value, "") for name, value in in_all.items()]
    every += [(name, value, f"{adapter}:") for adapter, held in by_adapter.items() for name, value in held.items()]
    return [f"{prefix}{name.replace('_', '-')}={value}" for name, value, prefix in every]
