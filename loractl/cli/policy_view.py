"""How policies, their problems and their decisions look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loractl.cli import payloads
from loractl.cli.errors import VerificationFailedError
from loractl.cli.style import Style, clean, count_text
from loractl.cli.tables import fold
from loractl.cli.views import when

if TYPE_CHECKING:
    from loractl_registry.explaining import Explanation
    from loractl_registry.home_policies import PolicyCheck, PolicyTests
    from loractl_registry.policies import Finding

_INDENT = 10


def problem_lines(found: PolicyCheck, style: Style) -> Iterator[str]:
    """Yield what is wrong with a policy, by line, or that nothing is."""
    if found.policy is not None:
        yield f"{style.good('ok')}  {clean(found.name)}  {style.dim(found.policy.digest)}"
    for one in found.problems:
        where = "the file" if one.line is None else f"line {one.line}"
        yield f"{style.bad(where)}: {clean(one.text)}"
        yield f"  {style.command(clean(one.way_out))}"


def result_lines(found: PolicyTests, style: Style) -> Iterator[str]:
    """Yield how each test came out."""
    for one in found.results:
        mark = style.good("ok  ") if one.has_passed else style.bad("fail")
        yield f"{mark}  {clean(one.case.name)}  {style.dim(f'line {one.case.line}')}"
        if one.problem is not None:
            yield f"      {clean(one.problem)}"
    yield f"{count_text(len(found.results), 'test')}, {len(found.failed)} failed"


def explanation_payload(found: Explanation) -> dict[str, object]:
    """Return an explanation as ``--json`` shows it."""
    return {
        "ref": str(found.version.ref),
        "stage": found.version.stage.value,
        "to": found.to.value,
        "identity": found.identity,
        "roles": list(found.roles),
        "tenant": found.tenant,
        "is_allowed": found.is_allowed,
        "policy": found.policy.policy_digest,
        "expires": payloads.time_text(found.policy.expires) if found.policy.expires else None,
        "rules": [payloads.plain(one) for one in found.findings],
    }


def explanation_lines(found: Explanation, style: Style) -> Iterator[str]:
    """Yield the verdict, then each rule with its line, what it asks, what it sees, and why."""
    verdict = style.good("allowed") if found.is_allowed else style.bad("denied")
    who = found.identity + (f" ({', '.join(found.roles)})" if found.roles else ", who has no role")
    yield f"{verdict}  {style.bold(str(found.version.ref))} to {style.stage(found.to.value)} by {clean(who)}"
    if found.policy.expires is not None:
        yield f"  it would hold until {when(found.policy.expires)}"
    for one in found.findings:
        yield from _finding(one, style)


def denial_of(found: Explanation) -> VerificationFailedError:
    """Return the error that ends a command which shows a denial."""
    denials = [one for one in found.findings if one.verdict.value == "denied"]
    rules = ", ".join(one.rule for one in denials[:3]) + (" and more" if len(denials) > 3 else "")
    message = f"{found.version.ref} may not be promoted to {found.to} by {found.identity}: {rules}"
    return VerificationFailedError(message, hint=next((one.way_out for one in denials if one.way_out), None))


def _finding(one: Finding, style: Style) -> Iterator[str]:
    paint = {"allowed": style.good, "waived": style.warn}.get(one.verdict.value, style.bad)
    place = "" if one.line is None else f"  {style.dim(f'line {one.line}')}"
    yield f"{paint(one.verdict.value.ljust(_INDENT - 2))}  {style.bold(clean(one.rule))}{place}"
    rows = [("asks", one.required), ("sees", one.seen), ("why", one.why), ("do", one.way_out or "")]
    room = None if style.width is None else max(style.width - _INDENT - 6, 20)
    for label, text in rows:
        if text:
            first, *rest = fold(clean(text), room)
            yield f"{' ' * _INDENT}{style.dim(label.ljust(4))}  {first}"
            yield from (" " * (_INDENT + 6) + line for line in rest)
