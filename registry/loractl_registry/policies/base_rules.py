"""The rules of ``[base]``: which base models may be used."""

from __future__ import annotations

from collections.abc import Iterator

from loractl_registry.policies.document import BaseRules
from loractl_registry.policies.facts import BaseFacts
from loractl_registry.policies.naming_rules import base_rule, licence_rule, member_rule
from loractl_registry.policies.parsing import Policy
from loractl_registry.policies.patterns import matches, matches_source
from loractl_registry.policies.verdicts import Finding, judged

PATH = ("base",)


def base_rules(policy: Policy) -> BaseRules | Finding:
    """Return the rules, or the denial of a policy without any."""
    if policy.document.base is not None:
        return policy.document.base
    return judged(
        policy,
        PATH,
        required="a rule about bases",
        seen="none",
        denial="the policy has no [base], and what it leaves out is denied",
        way_out='write [base] with by = ["anyone"] or who else may admit bases',
    )


def judge_base(policy: Policy, rules: BaseRules, base: BaseFacts | None) -> Iterator[Finding]:
    """Yield what each rule about the base itself says."""
    name = "NAME" if base is None else base.name
    if rules.allow is not None:
        way_out = "use a base that it names, or have its owner add this one"
        yield base_rule(policy, (*PATH, "allow"), rules.allow, base, way_out=way_out)
    if rules.licences is not None:
        found = None if base is None else base.licence
        way_out = f"say the licence: loractl base add {name} SOURCE --licence SPDX"
        yield licence_rule(policy, (*PATH, "licences"), rules.licences, found, way_out=way_out)
    if rules.sources is not None:
        found = None if base is None else base.source
        way_out = f"take it from one of them: loractl base add {name} SOURCE"
        path = (*PATH, "sources")
        yield member_rule(policy, path, rules.sources, found, is_covered=matches_source, way_out=way_out)


def judge_engine(policy: Policy, rules: BaseRules, engine: str | None) -> Iterator[Finding]:
    """Yield what the rule about the engine says, if there is one."""
    if rules.engines is not None:
        way_out = "install an engine that it names"
        yield member_rule(policy, (*PATH, "engines"), rules.engines, engine, is_covered=matches, way_out=way_out)
