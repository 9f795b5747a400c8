"""Newer advisories: from a file, from OSV, from a URL, and never backwards."""

import json
from datetime import date

import httpx
import pytest

from loractl_registry.advisories import (
    Feature,
    Package,
    Severity,
    SnapshotError,
    bundled_snapshot,
    check,
    parse_snapshot,
    read_source,
    render_snapshot,
    update,
)
from loractl_registry.advisories.cvss import base_score, severity_of_vector
from loractl_registry.advisories.errors import FetchError, OlderSnapshotError, SourceError
from loractl_registry.advisories.osv import parse_osv
from loractl_registry.advisories.snapshots import MAX_SNAPSHOT_BYTES

TODAY = date(2026, 11, 25)
URL = "https://advisories.example.org/snapshot.json"
HELD = bundled_snapshot()


def osv(name="GHSA-x", *, events=None, package="vllm", ecosystem="PyPI", **fields):
    events = [{"introduced": "0"}, {"fixed": "0.33.0"}] if events is None else events
    affected = {
        "package": {"ecosystem": ecosystem, "name": package},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    return {"id": name, "summary": "A flaw", "affected": [affected], **fields}


def encoded(held):
    return json.dumps(held).encode()


def test_a_newer_snapshot_replaces_the_one_in_force():
    newer = render_snapshot(HELD).replace(b"2026-10-10", b"2026-11-20")

    assert update(HELD, newer, today=TODAY) == parse_snapshot(newer)


def test_an_older_snapshot_is_refused():
    older = render_snapshot(HELD).replace(b"2026-10-10", b"2026-01-01")

    with pytest.raises(OlderSnapshotError, match="2026-01-01"):
        update(HELD, older, today=TODAY)


def test_a_vulnerability_is_added_and_counts_as_reachable():
    added = update(HELD, encoded(osv(database_specific={"severity": "CRITICAL"})), today=TODAY)
    (finding,) = check(added, {"vllm": "0.32.0"}, [])

    assert finding.refuses
    assert finding.advisory.fixed_in == "0.33.0"
    assert added.taken == HELD.taken
    assert parse_snapshot(render_snapshot(added)) == added


def test_the_answer_of_a_query_makes_what_is_known_of_today():
    assert update(HELD, encoded({"vulns": [osv(), osv("GHSA-y")]}), today=TODAY).taken == TODAY


def test_a_known_vulnerability_keeps_what_it_is_reached_by():
    found = osv("GHSA-4r2x-xpjr-7cvv", aliases=["CVE-2026-22778", "PYSEC-9"], events=[{"introduced": "0.1"}])
    added = update(HELD, encoded(found), today=TODAY)
    (known,) = (each for each in added.advisories if "CVE-2026-22778" in each.ids)

    assert len(added.advisories) == len(HELD.advisories)
    assert known.ids == {"CVE-2026-22778", "GHSA-4r2x-xpjr-7cvv", "PYSEC-9"}
    assert known.reachable_when == (Feature.MULTIMODAL,)
    assert (known.severity, known.fixed_in) == (Severity.CRITICAL, "0.14.1")
    assert [str(each) for each in known.affected] == [">=0.1"]


@pytest.mark.parametrize(
    ("events", "ranges"),
    [
        ([{"introduced": "0"}, {"fixed": "0.9"}], ["<0.9"]),
        ([{"introduced": "0.1"}, {"last_affected": "0.9"}], [">=0.1,<=0.9"]),
        ([{"fixed": "0.9"}, {"introduced": "0.1"}], [">=0.1,<0.9"]),
        (
            [{"introduced": "0.1"}, {"fixed": "0.2"}, {"introduced": "0.3"}, {"fixed": "0.4"}],
            [">=0.1,<0.2", ">=0.3,<0.4"],
        ),
        ([{"introduced": "0.1"}, {"fixed": "0.2"}, {"introduced": "0.2"}], [">=0.1,<0.2", ">=0.2"]),
        ([{"introduced": "0"}], [""]),
    ],
)
def test_events_become_ranges(events, ranges):
    (found,) = parse_osv(osv(events=events))

    assert [str(each) for each in found.affected] == ranges


def test_listed_versions_are_used_where_there_is_no_range():
    held = osv()
    held["affected"][0] = {"package": {"ecosystem": "PyPI", "name": "torch"}, "versions": ["2.0", "2.1"]}
    (found,) = parse_osv(held)

    assert (found.package, [str(each) for each in found.affected]) == (Package.TORCH, ["==2.0", "==2.1"])


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(osv(withdrawn="2026-01-01T00:00:00Z"), id="withdrawn"),
        pytest.param(osv(package="numpy"), id="package"),
        pytest.param(osv(ecosystem="npm"), id="ecosystem"),
        pytest.param({"id": "GHSA-x"}, id="nothing"),
        pytest.param({"vulns": []}, id="none"),
    ],
)
def test_what_is_not_about_the_engine_is_passed_over(held):
    assert parse_osv(held) == ()


@pytest.mark.parametrize(
    ("held", "said"),
    [
        pytest.param({}, "no vulnerability", id="empty"),
        pytest.param({"vulns": "all"}, "must be a list", id="text"),
        pytest.param({"vulns": [7]}, "7 is no vulnerability", id="number"),
        pytest.param(osv(events=[]), "does not say which versions", id="no-events"),
        pytest.param(osv(events=[{"introduced": "x y"}]), "is no version", id="version"),
        pytest.param(osv(events=[{"introduced": 1}]), "has the event", id="event"),
        pytest.param(osv(events=["introduced"]), "has the event", id="event-text"),
    ],
)
def test_malformed_vulnerabilities_are_refused(held, said):
    with pytest.raises(SnapshotError, match=said):
        parse_osv(held)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"id": 1}', b" " * (MAX_SNAPSHOT_BYTES + 1)])
def test_what_is_neither_is_refused(data):
    with pytest.raises(SnapshotError):
        update(HELD, data, today=TODAY)


def test_text_of_strangers_becomes_one_printable_line():
    (found,) = parse_osv(osv(summary="a\nb\x1b[31m" + "c" * 1000, aliases=[7, "CVE-1"]))

    assert found.summary.isprintable()
    assert len(found.summary) <= 300
    assert found.aliases == ("CVE-1",)


@pytest.mark.parametrize(
    ("fields", "severity"),
    [
        ({"database_specific": {"severity": "MODERATE"}}, "medium"),
        ({"database_specific": {"severity": "LOW"}}, "low"),
        ({"database_specific": {"severity": "odd"}}, "unknown"),
        ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}, "critical"),
        ({"severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:L/UI:N"}]}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_severity_is_a_word_or_follows_from_a_vector(fields, severity):
    (found,) = parse_osv(osv(**fields))

    assert found.severity == severity


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:H", 6.5),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:L/I:H/A:N", 6.5),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:U/C:H/I:H/A:H", 8.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:L", 5.3),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:H", 9.1),
        ("CVSS:3.0/AV:N/AC:H/PR:L/UI:R/S:U/C:L/I:N/A:N", 2.6),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:3.1/AV:N/AC:L", None),
        ("CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", None),
        ("AV:N/AC:L/Au:N/C:P/I:P/A:P", None),
        ("", None),
    ],
)
def test_base_scores_are_those_that_are_published(vector, score):
    assert base_score(vector) == score
    assert (severity_of_vector(vector) is Severity.UNKNOWN) is (score is None)


def test_a_file_is_read_and_bounded(tmp_path):
    (tmp_path / "small.json").write_bytes(b"{}")
    (tmp_path / "large.json").write_bytes(b" " * (MAX_SNAPSHOT_BYTES + 100))

    assert read_source(str(tmp_path / "small.json")) == b"{}"
    assert len(read_source(str(tmp_path / "large.json"))) == MAX_SNAPSHOT_BYTES + 1


@pytest.mark.parametrize(
    "source", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x", "nowhere.json", "/"]
)
def test_other_sources_are_refused(source):
    with pytest.raises(SourceError):
        read_source(source)


def client(answer):
    return httpx.Client(transport=httpx.MockTransport(answer))


def test_a_url_is_asked_for_once_and_as_it_is():
    asked = []

    def answer(request):
        asked.append(str(request.url))
        return httpx.Response(200, content=b"{}")

    assert read_source(URL, client=client(answer)) == b"{}"
    assert asked == [URL]


@pytest.mark.parametrize("status", [301, 302, 404, 500])
def test_a_url_that_answers_otherwise_is_refused(status):
    answer = httpx.Response(status, headers={"location": "https://elsewhere.example.org/"})

    with pytest.raises(FetchError, match=str(status)):
        read_source(URL, client=client(lambda _: answer))


def test_a_url_that_answers_too_much_is_cut():
    with pytest.raises(SnapshotError, match="larger than"):
        update(
            HELD,
            read_source(URL, client=client(lambda _: httpx.Response(200, content=b" " * (MAX_SNAPSHOT_BYTES * 2)))),
            today=TODAY,
        )


def test_a_network_that_refuses_is_named():
    def refuse(request):
        raise httpx.ConnectError("no route to host", request=request)

    with pytest.raises(FetchError, match="no route to host"):
        read_source(URL, client=client(refuse))


def test_a_client_of_its_own_is_closed(monkeypatch):
    class Refusing(httpx.Client):
        def __init__(self, **options):
            super().__init__(transport=httpx.MockTransport(lambda _: httpx.Response(503)), **options)

    monkeypatch.setattr(httpx, "Client", Refusing)

    with pytest.raises(FetchError, match="503"):
        read_source(URL)
