"""Which admitted base an adapter belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from loractl_registry.records import Base
from loractl_registry.refusals import BaseNotFoundError


def choose_base(admitted: Sequence[Base], said: str | None, declared: str | None) -> Base | None:
    """Return the base that was said; else the declared one; else the only one; else None.

    A declared base matches by name, by source or by path, and a Hub repository at any commit.

    Raises:
        BaseNotFoundError: A base was said that is not admitted.
    """
    if said is not None:
        for base in admitted:
            if base.name == said:
                return base
        raise BaseNotFoundError(said)
    if declared:
        matching = [base for base in admitted if declared in _names_of(base)]
        if len(matching) == 1:
            return matching[0]
    return admitted[0] if len(admitted) == 1 else None


def _names_of(base: Base) -> set[str]:
    names = {base.name, base.source, str(base.path)}
    if base.source.startswith("hf:"):
        repository = base.source.removeprefix("hf:")
        names |= {repository, repository.partition("@")[0]}
    return names
