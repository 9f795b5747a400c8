"""Tests of a policy, kept beside it in ``policy.tests.toml``: a request each, and what must come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from loractl_registry.policies.errors import PolicyFileError, Problem
from loractl_registry.policies.evaluation import evaluate
from loractl_registry.policies.facts import (
    Approval,
    BaseFacts,
    DataSet,
    Evidence,
    Request,
    Signature,
    require_moment,
)
from loractl_registry.policies.locating import KeyPath
from loractl_registry.policies.parsing import Policy
from loractl_registry.policies.toml_text import TomlText, read_toml
from loractl_registry.policies.validating import in_order, validated
from loractl_registry.policies.verdicts import Decision, Verdict
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

CASES_FILE = "policy.tests.toml"

Moment = Annotated[AwareDatetime, AfterValidator(require_moment)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Base(_Facts):
    name: str
    digest: str = "sha256:unknown"
    licence: str | None = None
    source: str | None = None


class _DataSet(_Facts):
    name: str
    licence: str | None = None
    data_class: str | None = None


class _Signature(_Facts):
    identity: str
    is_verified: bool = True
    roles: tuple[str, ...] = ()


class _Approval(_Facts):
    identity: str
    at: Moment
    roles: tuple[str, ...] = ()
    reason: str = ""


class _Evidence(_Facts):
    type: Literal["eval", "card", "scan", "review", "effect"]
    digest: str = "sha256:unknown"
    kind: str | None = None
    passed: bool | None = None
    metrics: dict[str, float] = Field(default_factory=dict[str, float])


class _Request(_Facts):
    stage: Literal["candidate", "approved", "live"]
    actor: str
    now: Moment
    name: str = "adapter"
    number: Annotated[int, Field(ge=1)] = 1
    digest: str = "sha256:unknown"
    roles: tuple[str, ...] = ()
    added_by: str | None = None
    rank: int | None = None
    size_bytes: int | None = None
    base: _Base | None = None
    engine: str | None = None
    data: tuple[_DataSet, ...] = ()
    signatures: tuple[_Signature, ...] = ()
    approvals: tuple[_Approval, ...] = ()
    evidence: tuple[_Evidence, ...] = ()
    tenant: str | None = None
    break_glass: str | None = None


class _Case(_Facts):
    name: str
    expect: Literal["allow", "deny"]
    rule: str | None = None
    expires: Moment | None = None
    request: dict[str, object] = Field(default_factory=dict[str, object])


class _Cases(_Facts):
    request: dict[str, object] = Field(default_factory=dict[str, object])
    case: Annotated[tuple[_Case, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """One test of a policy.

    Attributes:
        line: Where it begins.
        rule: The rule that must have denied or allowed, None for whichever.
        expires: When the decision must end, None for whenever.
    """

    name: str
    line: int | None
    request: Request
    is_allowed: bool
    rule: str | None = None
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one test came out.

    Attributes:
        problem: What came out instead, None if it came out as it must.
    """

    case: PolicyCase
    decision: Decision
    problem: str | None

    @property
    def has_passed(self) -> bool:
        """Whether it came out as it must."""
        return self.problem is None


def parse_cases(data: bytes, *, name: str = CASES_FILE) -> tuple[PolicyCase, ...]:
    """Parse ``[[case]]`` tables; each has the keys of ``[request]``, if there is one, beneath its own ``request``.

    Raises:
        PolicyFileError: It is malformed; the message names the line.
    """
    toml = read_toml(data, name)
    held = validated(_Cases, toml.values, toml)
    if isinstance(held, list):
        raise PolicyFileError(name, held)
    cases: list[PolicyCase] = []
    problems: list[Problem] = []
    for index, case in enumerate(held.case):
        found = _parsed(index, case, held.request, toml)
        if isinstance(found, PolicyCase):
            cases.append(found)
        else:
            problems += found
    if problems:
        raise PolicyFileError(name, in_order(list(dict.fromkeys(problems))))
    return tuple(cases)


def run_cases(policy: Policy, cases: tuple[PolicyCase, ...]) -> Iterator[CaseResult]:
    """Evaluate every case against `policy`."""
    for case in cases:
        decision = evaluate(policy, case.request)
        yield CaseResult(case, decision, _problem(case, decision))


def _parsed(index: int, case: _Case, shared: Mapping[str, object], toml: TomlText) -> PolicyCase | list[Problem]:
    own: KeyPath = ("case", index, "request")

    def placed(path: KeyPath) -> KeyPath:
        is_shared = bool(path) and path[0] in shared and path[0] not in case.request
        return ("request", *path) if is_shared else (*own, *path)

    request = validated(_Request, {**shared, **case.request}, toml, placed)
    if isinstance(request, list):
        return request
    line = toml.line_of(("case", index))
    return PolicyCase(case.name, line, _facts(request), case.expect == "allow", case.rule, case.expires)


def _facts(said: _Request) -> Request:
    base = said.base
    return Request(
        ref=VersionRef(said.name, said.number),
        digest=said.digest,
        stage=Stage(said.stage),
        actor=said.actor,
        now=said.now,
        roles=frozenset(said.roles),
        added_by=said.added_by,
        rank=said.rank,
        size_bytes=said.size_bytes,
        base=None if base is None else BaseFacts(base.name, base.digest, base.licence, base.source),
        engine=said.engine,
        data=tuple(DataSet(one.name, one.licence, one.data_class) for one in said.data),
        signatures=tuple(Signature(one.identity, one.is_verified, frozenset(one.roles)) for one in said.signatures),
        approvals=tuple(Approval(one.identity, one.at, frozenset(one.roles), one.reason) for one in said.approvals),
        evidence=tuple(Evidence(one.type, one.digest, one.kind, one.passed, one.metrics) for one in said.evidence),
        tenant=said.tenant,
        break_glass=said.break_glass,
    )


def _problem(case: PolicyCase, decision: Decision) -> str | None:
    if decision.allowed != case.is_allowed:
        return (
            f"expected {_word(is_allowed=case.is_allowed)} and got {_word(is_allowed=decision.allowed)}{_by(decision)}"
        )
    if case.rule is not None and (problem := _rule_problem(case.rule, decision)) is not None:
        return problem
    if case.expires is not None and decision.expires != case.expires:
        return f"expected it to expire on {case.expires} and got {decision.expires or 'never'}"
    return None


def _rule_problem(rule: str, decision: Decision) -> str | None:
    verdicts = [one.verdict for one in decision.findings if one.rule == rule]
    if not verdicts:
        return f"no rule {rule} was asked; asked were {', '.join(one.rule for one in decision.findings)}"
    if decision.allowed or Verdict.DENIED in verdicts:
        return None
    return f"{rule} did not deny{_by(decision)}"


def _by(decision: Decision) -> str:
    return "".join(f"; {one.rule} denied: {one.why}" for one in decision.denials[:3])


def _word(*, is_allowed: bool) -> str:
    return "allow" if is_allowed else "deny"
