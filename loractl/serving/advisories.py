"""What of the known flaws of the engine can be reached as loractl serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version

from loractl_registry import Registry
from loractl_registry.advisories import (
    DISTRIBUTIONS,
    Feature,
    Finding,
    Override,
    Snapshot,
    check,
    require_safe,
    staleness,
)

_ALWAYS = frozenset({Feature.STRUCTURED_OUTPUT, Feature.HOT_LORA})
"""Requests may ask for a grammar, and adapters come and go while others answer, whatever the flags say."""

_BY_FLAG: tuple[tuple[str, Feature], ...] = (
    ("--spec", Feature.SPECULATIVE),
    ("-sc", Feature.SPECULATIVE),
    ("--kv-transfer", Feature.KV_CONNECTOR),
    ("--kv-events", Feature.KV_CONNECTOR),
    ("--ec-transfer", Feature.DISAGGREGATED),
    ("--nnodes", Feature.MULTI_NODE),
    ("--trust-remote-code", Feature.BASE_CODE),
    ("--enable-prompt-embeds", Feature.PROMPT_EMBEDS),
    ("--enable-mm-embeds", Feature.MULTIMODAL),
    ("--tool-server", Feature.HARMONY_TOOLS),
)
_NO_PREFIX_CACHE = "--no-enable-prefix-caching"


@dataclass(frozen=True, slots=True)
class AdvisoryCheck:
    """What the advisories say of what is installed.

    Attributes:
        overridden: Findings that refuse and that somebody decided to serve with.
        stale: How old the snapshot is, if it is too old to rely on.
    """

    snapshot: Snapshot
    findings: tuple[Finding, ...]
    overridden: tuple[Finding, ...]
    stale: timedelta | None

    @property
    def reachable(self) -> tuple[Finding, ...]:
        """The findings that can be reached."""
        return tuple(finding for finding in self.findings if finding.is_reachable)


def installed_versions() -> dict[str, str]:
    """Return the versions of what advisories are kept about, as far as it is installed here."""
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def features_in_use(argv: Iterable[str], variables: Mapping[str, str]) -> frozenset[Feature]:
    """Return what an engine uses that is started with `argv` and `variables` behind the gateway.

    What the gateway never lets through counts as not in use: images and other media, prompt embeddings, tools that the
    server runs itself, and every route beyond seven, such as ``/score``. So does what admission refuses: code and
    pickles. API keys are checked by the gateway, before the engine's own check. Prefixes are shared between requests,
    so the prefix cache counts as in use unless it is off.
    """
    flags = [argument.partition("=")[0].replace("_", "-").lower() for argument in argv if argument.startswith("-")]
    found = {*_ALWAYS, *(feature for start, feature in _BY_FLAG if any(flag.startswith(start) for flag in flags))}
    if _NO_PREFIX_CACHE not in flags:
        found.add(Feature.PREFIX_CACHE)
    if variables.get("HF_HUB_OFFLINE") != "1":
        found.add(Feature.HUB_DOWNLOAD)
    if variables.get("PYTHONOPTIMIZE"):
        found.add(Feature.PYTHON_OPTIMIZED)
    if variables.get("VLLM_USE_RUST_FRONTEND"):
        found.add(Feature.RUST_FRONTEND)
    return frozenset(found)


def check_advisories(
    registry: Registry,
    features: frozenset[Feature],
    *,
    overrides: Sequence[Override] = (),
    installed: Mapping[str, str] | None = None,
) -> AdvisoryCheck:
    """Return what is known of what is installed, if none of it stops serving.

    Raises:
        EngineAdvisoryError: Something critical can be reached, and nobody has decided to serve all the same.
        OverrideError: An override names an advisory that is not among the findings.
        SnapshotError: The snapshot in the home is malformed.
    """
    found = look_at_advisories(registry, features, installed=installed)
    overridden = require_safe(found.findings, overrides)
    return AdvisoryCheck(found.snapshot, found.findings, overridden, found.stale)


def look_at_advisories(
    registry: Registry, features: frozenset[Feature], *, installed: Mapping[str, str] | None = None
) -> AdvisoryCheck:
    """Return what is known of what is installed, whatever it is. Raises `SnapshotError`."""
    snapshot = registry.advisories.snapshot()
    findings = check(snapshot, installed_versions() if installed is None else installed, features)
    return AdvisoryCheck(snapshot, findings, (), staleness(snapshot, datetime.now(UTC).date()))
