"""What can stand for a word: the dynamic side of tab completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from loractl_registry import completing
from loractl_registry.stages import LADDER, Stage, Verb, climb

Candidate = tuple[str, str]
Given = Mapping[str, str]


def candidates(kind: str, home: Path, incomplete: str, given: Given) -> list[Candidate]:
    """Return the values and their descriptions for a word of `kind` that starts with `incomplete`.

    Args:
        kind: As the catalogue names it; an unknown one offers nothing.
        home: Home of the registry; nothing is offered where there is none.
        incomplete: The part that is typed already.
        given: The words that are there already, by parameter name.
    """
    source = _KINDS.get(kind)
    found = source(home, incomplete, given) if source else []
    return [(value, about) for value, about in found if value.startswith(incomplete)]


def _plain(names: Callable[[Path, str], list[str]], about: str) -> Callable[[Path, str, Given], list[Candidate]]:
    return lambda home, incomplete, _: [(name, about) for name in names(home, incomplete)]


def _refs(home: Path, incomplete: str, _given: Given) -> list[Candidate]:
    live = completing.refs(home, incomplete, (Stage.LIVE,)) if "@" not in incomplete else []
    bare = [(ref.partition("@")[0], f"live: {ref}") for ref, _ in live]
    return bare + completing.refs(home, incomplete)


def _versions(home: Path, incomplete: str, _given: Given) -> list[Candidate]:
    return completing.refs(home, incomplete)


def _promotable(home: Path, incomplete: str, given: Given) -> list[Candidate]:
    to = given.get("to")
    return completing.promotable(home, incomplete, Stage(to) if to in set(LADDER) else None)


def _movable(verb: Verb) -> Callable[[Path, str, Given], list[Candidate]]:
    return lambda home, incomplete, _: completing.movable(home, verb, incomplete)


def _stages(_home: Path, _incomplete: str, _given: Given) -> list[Candidate]:
    return [(stage.value, "") for stage in Stage]


def _rungs(home: Path, _incomplete: str, given: Given) -> list[Candidate]:
    """Return the rungs above the version that is being promoted, or all while it is not known."""
    ref = given.get("ref", "")
    stage = next((Stage(text) for found, text in completing.refs(home, ref) if found == ref), None)
    return [(rung.value, "") for rung in LADDER[1:] if stage is None or climb(stage, rung)]


def _api_keys(home: Path, incomplete: str, _given: Given) -> list[Candidate]:
    return [(prefix, f"of {tenant}") for prefix, tenant in completing.api_keys(home, incomplete)]


def _dashboards(_home: Path, _incomplete: str, _given: Given) -> list[Candidate]:
    return [("grafana", "a dashboard"), ("prometheus", "alert rules")]


_KINDS: Mapping[str, Callable[[Path, str, Given], list[Candidate]]] = {
    "adapter": _plain(completing.names, "adapter"),
    "base": _plain(completing.bases, "base"),
    "rollback": _plain(completing.rollbackable, "adapter"),
    "ref": _refs,
    "version": _versions,
    "promotable": _promotable,
    "demotable": _movable(Verb.DEMOTE),
    "rejectable": _movable(Verb.REJECT),
    "retirable": _movable(Verb.RETIRE),
    "revocable": _movable(Verb.REVOKE),
    "stage": _stages,
    "rung": _rungs,
    "dashboard": _dashboards,
    "tenant": _plain(completing.tenants, "tenant"),
    "api-key": _api_keys,
}
