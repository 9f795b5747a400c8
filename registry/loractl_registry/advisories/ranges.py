"""Ranges of versions, written as PEP 440 specifiers and read as a plain order.

PEP 440 keeps ``0.22.0rc1`` out of ``<0.22.0``, because who asks for less than a release does not want its candidates.
A flaw that 0.22.0 fixes may well be in the candidates, so here they are in.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

_HOLDS: Mapping[str, Callable[[Version, Version], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Range:
    """Versions that hold every clause, such as ``>=0.3.0,<0.22.0``; without a clause, all of them."""

    clauses: tuple[tuple[str, Version], ...]

    def __str__(self) -> str:
        return ",".join(f"{symbol}{version}" for symbol, version in self.clauses)

    def __contains__(self, version: Version) -> bool:
        # A local part, as in 2.13.0+cpu, says how it was built.
        public = Version(version.public)
        return all(_HOLDS[symbol](public, bound) for symbol, bound in self.clauses)


def parse_range(text: str) -> Range:
    """Read a specifier of the operators ``< <= > >= == !=``, without wildcards.

    Raises:
        ValueError: It is none.
    """
    try:
        specifiers = SpecifierSet(text)
        found = [(each.operator, Version(each.version)) for each in specifiers]
    except (InvalidSpecifier, InvalidVersion):
        raise ValueError(f"{text[:80]!r} is no range such as >=0.3.0,<0.22.0") from None
    if unknown := sorted({symbol for symbol, _ in found} - _HOLDS.keys()):
        raise ValueError(f"{text[:80]!r} uses {unknown[0]}, and ranges use {' '.join(_HOLDS)}")
    # The library keeps them as a set: lower bounds first, as people write them.
    return Range(tuple(sorted(found, key=lambda clause: (clause[1], clause[0]))))


def parse_version(text: str) -> Version | None:
    """Read an installed version, None if it is none that can be compared."""
    try:
        return Version(text)
    except InvalidVersion:
        return None
