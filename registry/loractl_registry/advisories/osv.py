"""Advisories in the OSV format, as osv.dev, GitHub and PyPA's advisory database write them."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.version import Version

from loractl_registry.advisories.cvss import severity_of_vector
from loractl_registry.advisories.errors import SnapshotError
from loractl_registry.advisories.model import Advisory, Package, Severity
from loractl_registry.advisories.ranges import Range, parse_range, parse_version
from loractl_registry.advisories.snapshots import MAX_ADVISORIES, MAX_SUMMARY
from loractl_registry.file_errors import shown
from loractl_registry.strict_json import as_list, as_object

_PACKAGES = frozenset(Package)
_WORDS = {"MODERATE": "MEDIUM"}
_MAX_EVENTS = 2000

Json = dict[str, object]


def parse_osv(held: Json) -> tuple[Advisory, ...]:
    """Read one vulnerability, or the answer of a query (``{"vulns": [...]}``).

    Withdrawn ones, and those of other packages than `Package`, are passed over. OSV does not say by what a flaw is
    reached, so all of these count as reachable.

    Raises:
        SnapshotError: It is malformed; the message names the vulnerability.
    """
    vulnerabilities = [held] if "vulns" not in held else as_list(held["vulns"])
    if vulnerabilities is None or len(vulnerabilities) > MAX_ADVISORIES:
        raise SnapshotError(f"vulns must be a list of at most {MAX_ADVISORIES} vulnerabilities")
    return tuple(advisory for each in vulnerabilities for advisory in _advisories(each))


def _advisories(value: object) -> list[Advisory]:
    held = as_object(value)
    name = None if held is None else held.get("id")
    if held is None or not isinstance(name, str) or not 2 <= len(name) <= 100 or not name.isascii():
        raise SnapshotError(f"{shown(value)} is no vulnerability of OSV's format")
    if held.get("withdrawn") is not None:
        return []
    by_package: dict[Package, list[Json]] = {}
    for each in as_list(held.get("affected")) or []:
        affected = as_object(each)
        package = None if affected is None else _package(affected)
        if affected is not None and package is not None:
            by_package.setdefault(package, []).append(affected)
    return [_advisory(held, name, package, affected) for package, affected in by_package.items()]


def _advisory(held: Json, name: str, package: Package, affected: list[Json]) -> Advisory:
    ranges = tuple(found for each in affected for found in _ranges(each, name))
    if not ranges:
        raise SnapshotError(f"{name} does not say which versions of {package} it is about")
    aliases = [alias for alias in as_list(held.get("aliases")) or [] if isinstance(alias, str) and len(alias) <= 100]
    summary = held.get("summary") or held.get("details") or "no summary"
    text = "".join(char if char.isprintable() else " " for char in str(summary)[:MAX_SUMMARY]).strip()
    return Advisory(
        id=name,
        aliases=tuple(sorted(set(aliases) - {name})),
        package=package,
        affected=ranges,
        fixed_in=_fixed_in(affected),
        severity=_severity(held),
        summary=text or "no summary",
    )


def _package(affected: Json) -> Package | None:
    package = as_object(affected.get("package")) or {}
    name = str(package.get("name")).lower()
    return Package(name) if package.get("ecosystem") == "PyPI" and name in _PACKAGES else None


def _ranges(affected: Json, name: str) -> Iterable[Range]:
    found: list[Range] = []
    for each in as_list(affected.get("ranges")) or []:
        held = as_object(each) or {}
        if held.get("type") in {"ECOSYSTEM", "SEMVER"}:
            found += _spans(held, name)
    if found:
        return found
    versions = as_list(affected.get("versions")) or []
    return [_read(f"=={version}", name) for version in versions[:_MAX_EVENTS]]


def _spans(held: Json, name: str) -> list[Range]:
    """Turn events in the order of versions into ranges: each begins where a flaw came in and ends where it went."""
    spans: list[Range] = []
    start: str | None = None
    for event, version in _events(held, name):
        if event == "introduced":
            start = version
        elif start is not None and event in {"fixed", "last_affected"}:
            spans.append(_span(start, f"{'<' if event == 'fixed' else '<='}{version}", name))
            start = None
    return spans if start is None else [*spans, _span(start, None, name)]


def _events(held: Json, name: str) -> list[tuple[str, str]]:
    events: list[tuple[str, str]] = []
    for each in (as_list(held.get("events")) or [])[:_MAX_EVENTS]:
        event = as_object(each) or {}
        if len(event) != 1 or not all(isinstance(version, str) for version in event.values()):
            raise SnapshotError(f"{name} has the event {shown(each)}")
        events += [(kind, str(version)) for kind, version in event.items()]
    # At one version, what ends comes before what begins.
    return sorted(events, key=lambda each: (_version(each[1], name), each[0] == "introduced"))


def _span(start: str, end: str | None, name: str) -> Range:
    begin = None if start == "0" else f">={start}"
    return _read(",".join(part for part in (begin, end) if part is not None), name)


def _read(text: str, name: str) -> Range:
    try:
        return parse_range(text)
    except ValueError as error:
        raise SnapshotError(f"{name}: {error}") from error


def _version(text: str, name: str) -> Version:
    version = parse_version(text)
    if version is None:
        raise SnapshotError(f"{name} has an event at {shown(text)}, which is no version")
    return version


def _fixed_in(affected: list[Json]) -> str | None:
    """Return the last version that fixes it."""
    held = [as_object(each) or {} for one in affected for each in as_list(one.get("ranges")) or []]
    events = [as_object(event) or {} for each in held for event in as_list(each.get("events")) or []]
    fixed = [parse_version(version) for event in events if isinstance(version := event.get("fixed"), str)]
    return str(max(known)) if (known := [version for version in fixed if version is not None]) else None


def _severity(held: Json) -> Severity:
    """Return what the database says in a word, else what follows from a CVSS 3 vector."""
    word = (as_object(held.get("database_specific")) or {}).get("severity")
    if isinstance(word, str):
        said = _WORDS.get(word.upper(), word.upper()).lower()
        if said in set(Severity):
            return Severity(said)
    scores = [(as_object(each) or {}).get("score") for each in as_list(held.get("severity")) or []]
    rated = [severity_of_vector(score) for score in scores if isinstance(score, str)]
    return max(rated, key=list(Severity).index, default=Severity.UNKNOWN)
