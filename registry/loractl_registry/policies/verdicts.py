"""What a policy answers: one finding per rule, and the decision that they add up to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from loractl_registry.clock import to_text
from loractl_registry.policies.locating import KeyPath, dotted
from loractl_registry.policies.parsing import Policy

_SHOWN = 8


class Verdict(StrEnum):
    """How one rule came out. ``waived``: not met, and set aside by breaking the glass."""

    ALLOWED = "allowed"
    DENIED = "denied"
    WAIVED = "waived"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule asked and saw.

    Attributes:
        rule: The key of the rule in the policy, such as ``adapter.approved.approvals``.
        line: Where it stands, None if the policy does not say it at all.
        way_out: One imperative line where it was not met.
    """

    rule: str
    line: int | None
    required: str
    seen: str
    verdict: Verdict
    why: str
    way_out: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Every rule's finding, in the order of the rungs; denied if a single one is.

    Attributes:
        subject: The ref, or the name of the base.
        subject_digest: Digest of the manifest that was judged.
        expires: When an allowed decision ceases to hold, in UTC; None for never.
    """

    allowed: bool
    action: str
    subject: str
    subject_digest: str
    policy_digest: str
    findings: tuple[Finding, ...]
    expires: datetime | None = None

    @property
    def denials(self) -> tuple[Finding, ...]:
        """The findings that deny."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.DENIED)

    @property
    def digest(self) -> str:
        """``sha256:hex`` over the canonical JSON of everything above; the order of the facts does not change it."""
        body = {
            "action": self.action,
            "allowed": self.allowed,
            "expires": None if self.expires is None else to_text(self.expires),
            "findings": [
                [one.rule, one.line, one.required, one.seen, one.verdict.value, one.why] for one in self.findings
            ],
            "policy": self.policy_digest,
            "subject": [self.subject, self.subject_digest],
        }
        text = json.dumps(body, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def judged(
    policy: Policy, path: KeyPath, *, required: str, seen: str, denial: str | None, way_out: str, well: str = "met"
) -> Finding:
    """Return the finding of the rule at `path`: denied for the reason `denial`, allowed if that is None."""
    line = policy.line_of(path)
    if denial is None:
        return Finding(dotted(path), line, required, seen, Verdict.ALLOWED, well)
    return Finding(dotted(path), line, required, seen, Verdict.DENIED, denial, way_out)


def decided(
    policy: Policy,
    findings: Sequence[Finding],
    *,
    action: str,
    subject: str,
    digest: str,
    expires: datetime | None = None,
) -> Decision:
    """Add up `findings`; where there are none, nothing is allowed."""
    allowed = bool(findings) and all(one.verdict is not Verdict.DENIED for one in findings)
    return Decision(allowed, action, subject, digest, policy.digest, tuple(findings), expires if allowed else None)


def listed(texts: Iterable[str], *, none: str = "none") -> str:
    """Write `texts` sorted and bounded, so that neither order nor number changes how a finding reads."""
    held = sorted(texts)
    more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    return ", ".join(held[:_SHOWN]) + more if held else none
