"""The rules of ``[adapter.STAGE]``: what a version must be and have to enter a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from loractl_registry.clock import to_text
from loractl_registry.policies.document import EvidenceRule, Rung, Threshold
from loractl_registry.policies.facts import DataSet, Evidence, Request
from loractl_registry.policies.locating import KeyPath
from loractl_registry.policies.naming_rules import UNKNOWN, any_of, base_rule, licence_rule
from loractl_registry.policies.parsing import Policy
from loractl_registry.policies.quorum_rules import judge_approvals, judge_signatures, stands_since
from loractl_registry.policies.verdicts import Finding, judged, listed

MIB = 2**20
_NEEDS_PASSED = ("scan", "effect")


def judge_rung(policy: Policy, path: KeyPath, rung: Rung, request: Request) -> Iterator[Finding]:
    """Yield what each rule of `rung` says, but for those that breaking the glass may waive and for who climbs."""
    rank, size = rung.max_rank, rung.max_size_mib
    if rank is not None:
        yield _cap(policy, (*path, "max_rank"), rank, request.rank, str, way_out=f"train it with a rank up to {rank}")
    if size is not None:
        way_out = "train fewer modules or a lower rank"
        yield _cap(policy, (*path, "max_size_mib"), size * MIB, request.size_bytes, _mib, way_out=way_out)
    if rung.bases is not None:
        yield base_rule(policy, (*path, "bases"), rung.bases, request.base, way_out="train it on a base that is named")
    if rung.base_licences is not None:
        found = None if request.base is None else request.base.licence
        way_out = "train it on a base with a licence that is named"
        yield licence_rule(policy, (*path, "base_licences"), rung.base_licences, found, way_out=way_out)
    if rung.data_licences is not None:
        yield _data_licences(policy, (*path, "data_licences"), rung.data_licences, request)
    if rung.max_data_class is not None:
        yield _max_class(policy, (*path, "max_data_class"), rung.max_data_class, request)
    if rung.signatures is not None:
        yield judge_signatures(policy, (*path, "signatures"), rung.signatures, request)


def judge_waivable(policy: Policy, path: KeyPath, rung: Rung, request: Request) -> Iterator[Finding]:
    """Yield what the rules of `rung` say that breaking the glass may waive."""
    if rung.approvals is not None:
        yield judge_approvals(policy, (*path, "approvals"), rung, rung.approvals, request)
    for index, rule in enumerate(rung.evidence):
        yield _evidence(policy, (*path, "evidence", index), rule, request)


def expiry_of(rung: Rung, request: Request) -> datetime | None:
    """Return when a decision that rests on `rung` ceases to hold, None for never."""
    if rung.expires_days is None:
        return None
    return stands_since(rung, request) + timedelta(days=rung.expires_days)


def judge_expiry(policy: Policy, path: KeyPath, rung: Rung, request: Request) -> Iterator[Finding]:
    """Yield until when `rung` holds, if it has an end."""
    end = expiry_of(rung, request)
    if end is not None:
        yield judged(
            policy,
            (*path, "expires_days"),
            required=f"renewal within {rung.expires_days} days",
            seen=f"it stands since {to_text(stands_since(rung, request))}",
            denial=None,
            way_out="",
            well=f"holds until {to_text(end)}",
        )


def _cap(
    policy: Policy, path: KeyPath, cap: int, found: int | None, write: Callable[[int], str], *, way_out: str
) -> Finding:
    denial = None
    if found is None:
        denial = "it is not known"
    elif found > cap:
        denial = f"{write(found)} is more than {write(cap)}"
    seen = UNKNOWN if found is None else write(found)
    return judged(policy, path, required=f"at most {write(cap)}", seen=seen, denial=denial, way_out=way_out)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes} bytes ({size_bytes / MIB:.1f} MiB)"


def _data_licences(policy: Policy, path: KeyPath, wanted: tuple[str, ...], request: Request) -> Finding:
    folded = {one.casefold() for one in wanted}
    wrong = [one.name for one in request.data if one.licence is None or one.licence.casefold() not in folded]
    denial = f"{listed(wrong)} has none of them" if wrong else None
    return judged(
        policy,
        path,
        required=f"{any_of(wanted)} for every data set",
        seen=listed((f"{one.name}: {one.licence or UNKNOWN}" for one in request.data), none=UNKNOWN),
        denial=denial if request.data else "nobody said what it was trained on",
        way_out="state every data set with its licence in the provenance",
    )


def _max_class(policy: Policy, path: KeyPath, highest: str, request: Request) -> Finding:
    classes = () if policy.document.adapter is None else policy.document.adapter.data_classes
    allowed = classes[: classes.index(highest) + 1] if highest in classes else ()
    return class_rule(policy, path, allowed, request.data)


def class_rule(policy: Policy, path: KeyPath, allowed: tuple[str, ...], data: tuple[DataSet, ...]) -> Finding:
    """Judge whether every data set is of one of the classes `allowed`."""
    wrong = [one.name for one in data if one.data_class not in allowed]
    denial = f"{listed(wrong)} has none of them" if wrong else None
    return judged(
        policy,
        path,
        required=f"{any_of(allowed)} for every data set",
        seen=listed((f"{one.name}: {one.data_class or UNKNOWN}" for one in data), none=UNKNOWN),
        denial=denial if data else "nobody said what it was trained on",
        way_out="state every data set with its class in the provenance",
    )


def _evidence(policy: Policy, path: KeyPath, rule: EvidenceRule, request: Request) -> Finding:
    items = [one for one in request.evidence if one.type == rule.type]
    objections = [(one, _objection(rule, one)) for one in items]
    is_met = any(objection is None for _, objection in objections)
    denial = f"no {rule.type} meets it" if items else f"there is no {rule.type}"
    record = f"loractl evidence add {request.ref} FILE --type {rule.type}"
    return judged(
        policy,
        path,
        required=_wanted(rule),
        seen=listed(f"{one.digest[:19]} {objection or 'counts'}" for one, objection in objections),
        denial=None if is_met else denial,
        way_out=f"loractl prove {request.ref}" if rule.type == "effect" else record,
    )


def _wanted(rule: EvidenceRule) -> str:
    parts = [rule.type if rule.kinds is None else f"{rule.type} by {any_of(rule.kinds)}"]
    if rule.type in _NEEDS_PASSED:
        parts.append("that passed")
    parts += [f"{metric} {_bounds(bounds)}" for metric, bounds in rule.metrics.items()]
    return " ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])


def _bounds(bounds: Threshold) -> str:
    texts = [] if bounds.min is None else [f"at least {bounds.min:g}"]
    if bounds.max is not None:
        texts.append(f"at most {bounds.max:g}")
    return " and ".join(texts)


def _objection(rule: EvidenceRule, item: Evidence) -> str | None:
    """Return why `item` does not count, None if it does; a metric that is missing or no number never counts."""
    if item.passed is False or (item.passed is None and item.type in _NEEDS_PASSED):
        return "did not pass"
    if rule.kinds is not None and item.kind not in rule.kinds:
        return f"is by {item.kind or 'nobody known'}"
    for metric, bounds in rule.metrics.items():
        value = item.metrics.get(metric)
        if value is None:
            return f"has no {metric}"
        is_enough = bounds.min is None or value >= bounds.min
        if not (is_enough and (bounds.max is None or value <= bounds.max)):
            return f"has {metric} {value:g}"
    return None
