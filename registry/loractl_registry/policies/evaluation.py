"""Whether a policy allows what someone wants: a pure function of the policy and the facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from loractl_registry.policies.base_rules import PATH as BASE
from loractl_registry.policies.base_rules import base_rules, judge_base, judge_engine
from loractl_registry.policies.document import RUNGS, AdapterRules, DataRules, Rung
from loractl_registry.policies.facts import BaseRequest, Request
from loractl_registry.policies.locating import KeyPath
from loractl_registry.policies.naming_rules import any_of, who_rule
from loractl_registry.policies.parsing import Policy
from loractl_registry.policies.patterns import matches
from loractl_registry.policies.rung_rules import class_rule, expiry_of, judge_expiry, judge_rung, judge_waivable
from loractl_registry.policies.verdicts import Decision, Finding, Verdict, decided, judged
from loractl_registry.stages import Stage

_BREAK_GLASS: KeyPath = ("adapter", "break_glass")


def evaluate(policy: Policy, request: Request) -> Decision:
    """Judge a version against the wanted rung and all rungs below it, its base, its data and the tenant.

    Everything that is not said is denied: a rung without a rule, a policy without `[base]`, a fact that a rule asks for
    and nobody knows. Nothing reads a file or the clock.
    """
    adapter = policy.document.adapter
    climbed = _climbed(adapter, request.stage)
    findings = [*_base(policy, request)]
    for stage, rung in climbed:
        findings += _rung(policy, stage, rung, request)
    findings += _glass(policy, adapter, request)
    findings += [] if adapter is None or adapter.data is None else _data(policy, adapter.data, request)
    return decided(
        policy,
        findings,
        action=f"promote to {request.stage}",
        subject=str(request.ref),
        digest=request.digest,
        expires=_expires(adapter, climbed, request),
    )


def evaluate_base(policy: Policy, request: BaseRequest) -> Decision:
    """Judge whether `request.actor` may admit a base; see `evaluate`."""
    rules = base_rules(policy)
    if isinstance(rules, Finding):
        findings = [rules]
    else:
        way_out = f"ask {any_of(rules.by)} to run: loractl base add {request.base.name} SOURCE"
        who = who_rule(policy, (*BASE, "by"), rules.by, request.actor, request.roles, way_out=way_out)
        findings = [who, *judge_base(policy, rules, request.base)]
    base = request.base
    return decided(policy, findings, action="admit", subject=base.name, digest=base.digest)


def _climbed(adapter: AdapterRules | None, to: Stage) -> list[tuple[Stage, Rung | None]]:
    """Return every rung up to `to`; a stage that no climb enters has none, and is denied as one without a rule."""
    if to not in RUNGS:
        return [(to, None)]
    held = dict(adapter.rungs()) if adapter is not None else {}
    return [(stage, held.get(stage)) for stage in RUNGS[: RUNGS.index(to) + 1]]


def _base(policy: Policy, request: Request) -> Iterator[Finding]:
    rules = base_rules(policy)
    if isinstance(rules, Finding):
        yield rules
    else:
        yield from judge_base(policy, rules, request.base)
        yield from judge_engine(policy, rules, request.engine)


def _rung(policy: Policy, stage: Stage, rung: Rung | None, request: Request) -> Iterator[Finding]:
    path: KeyPath = ("adapter", stage.value)
    if rung is None:
        yield judged(
            policy,
            path,
            required=f"a rule for {stage}",
            seen="none",
            denial=f"no rule of the policy allows {stage}",
            way_out=f"give the policy a rule for {stage}, as the preset solo has",
        )
        return
    if stage is request.stage and request.break_glass is None:
        way_out = f"ask {any_of(rung.by)} to run: loractl promote {request.ref} --to {stage}"
        yield who_rule(policy, (*path, "by"), rung.by, request.actor, request.roles, way_out=way_out)
    yield from judge_rung(policy, path, rung, request)
    for finding in judge_waivable(policy, path, rung, request):
        yield _waived(finding) if request.break_glass is not None else finding
    if request.break_glass is None:
        yield from judge_expiry(policy, path, rung, request)


def _waived(finding: Finding) -> Finding:
    if finding.verdict is Verdict.ALLOWED:
        return finding
    return replace(finding, verdict=Verdict.WAIVED, why=f"{finding.why}; waived by breaking the glass")


def _glass(policy: Policy, adapter: AdapterRules | None, request: Request) -> Iterator[Finding]:
    if request.break_glass is None:
        return
    rules = None if adapter is None else adapter.break_glass
    if rules is None:
        yield judged(
            policy,
            _BREAK_GLASS,
            required="a rule for breaking the glass",
            seen="none",
            denial="no rule of the policy allows it",
            way_out="climb without --break-glass",
        )
        return
    way_out = f"ask {any_of(rules.by)} to run: loractl promote {request.ref} --break-glass --reason TEXT"
    yield who_rule(policy, (*_BREAK_GLASS, "by"), rules.by, request.actor, request.roles, way_out=way_out)
    reason = request.break_glass.strip()
    yield judged(
        policy,
        (*_BREAK_GLASS, "hours"),
        required=f"a reason; it holds for {rules.hours} hours",
        seen=reason or "none",
        denial=None if reason else "there is no reason",
        way_out="say why with --reason TEXT",
    )


def _data(policy: Policy, rules: DataRules, request: Request) -> Iterator[Finding]:
    path: KeyPath = ("adapter", "data")
    yield class_rule(policy, (*path, "classes"), rules.classes, request.data)
    if request.tenant is None:
        return
    held = {one.data_class for one in request.data}
    for name in rules.classes:
        if name in held:
            yield _tenant(policy, (*path, "tenants", name), rules.tenants.get(name, ()), request.tenant)


def _tenant(policy: Policy, path: KeyPath, allowed: tuple[str, ...], tenant: str) -> Finding:
    is_allowed = any(matches(pattern, tenant) for pattern in allowed)
    return judged(
        policy,
        path,
        required=any_of(allowed) or "no tenant at all",
        seen=tenant,
        denial=None if is_allowed else f"{tenant} may not use data of the class {path[-1]}",
        way_out="serve this tenant a version that was trained on more open data",
    )


def _expires(
    adapter: AdapterRules | None, climbed: list[tuple[Stage, Rung | None]], request: Request
) -> datetime | None:
    """Return the earliest end of all rungs and of the broken glass."""
    ends = [end for _, rung in climbed if rung is not None and (end := expiry_of(rung, request)) is not None]
    if request.break_glass is not None and adapter is not None and adapter.break_glass is not None:
        ends.append(request.now + timedelta(hours=adapter.break_glass.hours))
    return min(ends).astimezone(UTC) if ends else None
