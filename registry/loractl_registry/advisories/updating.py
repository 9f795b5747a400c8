"""Newer advisories from a file or a URL that the user names; nothing is fetched unasked, and no host is built in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry.advisories.errors import FetchError, OlderSnapshotError, SnapshotError, SourceError
from loractl_registry.advisories.model import Advisory, Severity, Snapshot
from loractl_registry.advisories.osv import parse_osv
from loractl_registry.advisories.snapshots import MAX_SNAPSHOT_BYTES, parse_snapshot, snapshot_of
from loractl_registry.home_errors import os_errors_named
from loractl_registry.strict_json import StrictJsonError, parse_object

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)


def update(held: Snapshot, data: bytes, *, today: date) -> Snapshot:
    """Return what is known after reading `data`: a snapshot of ours, or vulnerabilities in the OSV format.

    A snapshot replaces `held`, unless it is older. OSV's vulnerabilities are added: where one is known already, by any
    of its ids, OSV says what is affected and how badly, and `held` goes on saying by what it is reached. The answer of
    a query makes what is known of `today`; a single vulnerability does not.

    Raises:
        SnapshotError: It is neither, or malformed.
        OlderSnapshotError: It is older than `held`.
    """
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise SnapshotError(f"they are larger than {MAX_SNAPSHOT_BYTES} bytes")
    try:
        parsed = parse_object(data)
    except StrictJsonError as error:
        raise SnapshotError(str(error)) from error
    if "format" not in parsed:
        taken = max(held.taken, today) if "vulns" in parsed else held.taken
        return merged(held, parse_osv(parsed), taken=taken)
    found = parse_snapshot(data)
    if found.taken < held.taken:
        raise OlderSnapshotError(found.taken, held.taken)
    return found


def merged(held: Snapshot, found: Iterable[Advisory], *, taken: date) -> Snapshot:
    """Return `held` with what was found, each flaw of a package once."""
    advisories = list(held.advisories)
    for each in found:
        same = next((n for n, one in enumerate(advisories) if one.package is each.package and one.ids & each.ids), None)
        if same is None:
            advisories.append(each)
        else:
            advisories[same] = _joined(advisories[same], each)
    return snapshot_of(taken, advisories)


def read_source(source: str, *, client: httpx.Client | None = None) -> bytes:
    """Return what is in the file or behind the URL; of a larger one, enough to see that it is too large.

    Args:
        source: A path, or an https URL. It is asked for once, as it is; a redirection is not followed.
        client: Instead of one of its own.

    Raises:
        SourceError: It is another kind of URL, or there is no such file.
        FetchError: The URL did not answer with it.
        RegistryError: The operating system refused.
    """
    scheme = _SCHEME.match(source)
    if scheme is None:
        return _read(Path(source))
    if scheme[1].lower() != "https":
        raise SourceError(source, f"{scheme[1]} is not fetched")
    return _fetch(source, client)


def _joined(known: Advisory, found: Advisory) -> Advisory:
    severity = known.severity if found.severity is Severity.UNKNOWN else found.severity
    return replace(
        known,
        aliases=tuple(sorted((known.ids | found.ids) - {known.id})),
        affected=found.affected,
        fixed_in=found.fixed_in or known.fixed_in,
        severity=severity,
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise SourceError(str(path), "there is no such file")
    with os_errors_named(path), path.open("rb") as stream:
        return stream.read(MAX_SNAPSHOT_BYTES + 1)


def _fetch(url: str, client: httpx.Client | None) -> bytes:
    import httpx  # 0.1 s, and only an update from a URL needs it

    own = client is None
    asking = client or httpx.Client(timeout=TIMEOUT_S)
    try:
        with asking.stream("GET", url, headers={"Accept": "application/json"}, follow_redirects=False) as answer:
            if not answer.is_success:
                raise FetchError(url, f"it answers {answer.status_code}")
            data = bytearray()
            for part in answer.iter_bytes():
                data += part
                if len(data) > MAX_SNAPSHOT_BYTES:
                    break
            return bytes(data)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(url, str(error) or type(error).__name__) from error
    finally:
        if own:
            asking.close()
