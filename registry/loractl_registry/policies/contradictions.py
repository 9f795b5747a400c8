"""Rules of a policy that cannot all be meant: nobody could ever meet them, or one of them says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from loractl_registry.policies.document import AdapterRules, BaseRules, EvidenceRule, PolicyDocument, Rung
from loractl_registry.policies.locating import KeyPath, dotted
from loractl_registry.policies.patterns import only_identities
from loractl_registry.stages import Stage

Contradiction = tuple[KeyPath, str, str]
"""Where it stands, what is wrong, and the way out."""

_CAPS = ("max_rank", "max_size_mib", "expires_days")
_LISTS = ("bases", "base_licences", "data_licences")


def contradictions(document: PolicyDocument) -> Iterator[Contradiction]:
    """Yield everything that contradicts something else in `document`."""
    if document.adapter is None:
        return
    yield from _data(document.adapter)
    below: list[tuple[Stage, Rung]] = []
    missing: Stage | None = None
    for stage, rung in document.adapter.rungs():
        if rung is None:
            missing = missing or stage
            continue
        path: KeyPath = ("adapter", stage.value)
        if missing is not None:
            text = f"{dotted(path)} can never be entered: {missing}, which comes first, has no rule"
            yield path, text, f"write [adapter.{missing}]"
        yield from _quorums(path, rung)
        yield from _evidence(path, rung.evidence)
        yield from _data_class(path, rung, document.adapter.data_classes)
        if document.base is not None:
            yield from _against_base(path, rung, document.base)
        for lower_stage, lower in below:
            yield from _against_below(path, rung, ("adapter", lower_stage.value), lower, document.adapter.data_classes)
        below.append((stage, rung))


def _data(rules: AdapterRules) -> Iterator[Contradiction]:
    if rules.data is None:
        return
    for name in rules.data.tenants:
        if name not in rules.data.classes:
            path = ("adapter", "data", "tenants", name)
            yield path, f"{dotted(path)} is about a data class that is not defined", _classes(name, rules.data.classes)


def _data_class(path: KeyPath, rung: Rung, classes: tuple[str, ...]) -> Iterator[Contradiction]:
    if rung.max_data_class is not None and rung.max_data_class not in classes:
        at = (*path, "max_data_class")
        text = f"{dotted(at)} is {rung.max_data_class!r}, a data class that is not defined"
        yield at, text, _classes(rung.max_data_class, classes)


def _classes(name: str, classes: tuple[str, ...]) -> str:
    near = get_close_matches(name, classes, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"use one of {', '.join(classes)}, or name it in adapter.data.classes"


def _quorums(path: KeyPath, rung: Rung) -> Iterator[Contradiction]:
    for key, rule in (("signatures", rung.signatures), ("approvals", rung.approvals)):
        if rule is not None and only_identities(rule.by) and rule.count > len(rule.by):
            at = (*path, key, "count")
            text = f"{dotted(at)} is {rule.count} and only {_people(len(rule.by))} named"
            yield at, text, "lower the count, or name more people or a role"
    rule = rung.approvals
    if rule is None:
        return
    if rule.four_eyes and only_identities(rule.by) and rule.count == len(rule.by):
        at = (*path, "approvals", "four_eyes")
        text = (
            f"four eyes cannot be had in {dotted((*path, 'approvals'))}: {_people(len(rule.by))} named for a count of"
            f" {rule.count}, and one of them may be the one who added the version"
        )
        yield at, text, "name one more person or a role"
    if rule.max_age_days is not None and rung.expires_days is not None and rule.max_age_days > rung.expires_days:
        at = (*path, "approvals", "max_age_days")
        text = f"{dotted(at)} is {rule.max_age_days} and the rung expires after {rung.expires_days} days"
        yield at, f"{text}, so an approval would outlive what it allowed", "lower it, or raise expires_days"


def _people(count: int) -> str:
    return "1 person is" if count == 1 else f"{count} people are"


def _evidence(path: KeyPath, rules: Iterable[EvidenceRule]) -> Iterator[Contradiction]:
    for index, rule in enumerate(rules):
        for metric, bounds in rule.metrics.items():
            at: KeyPath = (*path, "evidence", index, "metrics", metric)
            if bounds.min is None and bounds.max is None:
                yield at, f"{dotted(at)} has no bound", "write min = NUMBER or max = NUMBER"
            elif bounds.min is not None and bounds.max is not None and bounds.min > bounds.max:
                text = f"{dotted(at)} asks for at least {bounds.min:g} and at most {bounds.max:g}"
                yield (*at, "min"), text, "swap them"


def _against_base(path: KeyPath, rung: Rung, base: BaseRules) -> Iterator[Contradiction]:
    pairs = (
        ("bases", rung.bases, "allow", base.allow),
        ("base_licences", rung.base_licences, "licences", base.licences),
    )
    for key, wanted, base_key, held in pairs:
        if _is_disjoint(wanted, held):
            at = (*path, key)
            yield at, f"{dotted(at)} has nothing in common with base.{base_key}", f"name one that base.{base_key} names"


def _against_below(
    path: KeyPath, rung: Rung, lower_path: KeyPath, lower: Rung, classes: tuple[str, ...]
) -> Iterator[Contradiction]:
    caps: list[tuple[str, int | None, int | None]] = [(key, getattr(rung, key), getattr(lower, key)) for key in _CAPS]
    caps.append(("max_data_class", _rank_of(rung, classes), _rank_of(lower, classes)))
    for key, cap, lower_cap in caps:
        if cap is not None and lower_cap is not None and cap > lower_cap:
            at = (*path, key)
            text = f"{dotted(at)} is {getattr(rung, key)!r} and {dotted((*lower_path, key))} is {getattr(lower, key)!r}"
            yield at, f"{text}, which holds here too", f"lower it, or leave it out: {path[-1]} takes what is below it"
    for key in _LISTS:
        if _is_disjoint(getattr(rung, key), getattr(lower, key)):
            at = (*path, key)
            text = f"{dotted(at)} has nothing in common with {dotted((*lower_path, key))}, which holds here too"
            yield at, text, "name one that both name"


def _rank_of(rung: Rung, classes: tuple[str, ...]) -> int | None:
    return classes.index(rung.max_data_class) if rung.max_data_class in classes else None


def _is_disjoint(wanted: tuple[str, ...] | None, held: tuple[str, ...] | None) -> bool:
    if wanted is None or held is None:
        return False
    if len({one.startswith("sha256:") for one in (*wanted, *held)}) > 1:
        return False  # a name and a digest may mean the same base
    return {one.casefold() for one in wanted}.isdisjoint(one.casefold() for one in held)
