"""Snapshots: the one that is shipped, and those that are malformed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry.advisories import Severity, SnapshotError, bundled_snapshot, parse_snapshot, render_snapshot
from loractl_registry.advisories.ranges import parse_version
from loractl_registry.advisories.snapshots import MAX_SNAPSHOT_BYTES

ROW = {
    "id": "CVE-2026-1",
    "aliases": ["GHSA-1"],
    "package": "vllm",
    "affected": [">=0.3.0,<0.22.0"],
    "fixed_in": "0.22.0",
    "severity": "high",
    "reachable_when": ["multimodal"],
    "summary": "a summary",
}
WHOLE = {"format": 1, "date": "2026-10-10", "advisories": [ROW]}


def text(**fields):
    return json.dumps({**WHOLE, **fields}).encode()


def row(**fields):
    return text(advisories=[{**ROW, **fields}])


def test_shipped_snapshot_knows_what_the_field_names():
    held = {name for each in bundled_snapshot().advisories for name in each.ids}

    assert held >= {
        "CVE-2026-48746",
        "CVE-2026-47155",
        "CVE-2026-41523",
        "CVE-2026-27893",
        "CVE-2026-22807",
        "CVE-2026-22773",
        "CVE-2026-105757",
        "CVE-2026-105754",
        "CVE-2026-115911",
        "PYSEC-2026-2303",
        "CVE-2025-46570",
        "CVE-2025-32434",
        "CVE-2026-4372",
    }


def test_shipped_snapshot_does_not_affect_what_fixes_it():
    for each in bundled_snapshot().advisories:
        if each.fixed_in is not None:
            assert not any(parse_version(each.fixed_in) in part for part in each.affected), each.id
        assert each.summary[-1] not in ".!"
        assert each.severity in set(Severity)


def test_a_snapshot_has_one_text():
    assert parse_snapshot(render_snapshot(bundled_snapshot())) == bundled_snapshot()
    assert render_snapshot(parse_snapshot(text())) == render_snapshot(parse_snapshot(text()))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"[]", "no JSON object", id="list"),
        pytest.param(b'{"format":1,"format":1}', "twice", id="duplicate"),
        pytest.param(b" " * (MAX_SNAPSHOT_BYTES + 1), "larger than", id="large"),
        pytest.param(text(format=2), "format is 2", id="newer"),
        pytest.param(text(format=True), "format is True", id="boolean"),
        pytest.param(text(date="10.10.2026"), "date", id="date"),
        pytest.param(text(date="2026-13-01"), "date", id="month"),
        pytest.param(text(date=0), "date", id="number"),
        pytest.param(text(extra=1), "extra", id="extra"),
        pytest.param(text(advisories=[ROW, ROW]), "twice", id="twice"),
        pytest.param(text(advisories=[ROW] * 10_001), "advisories", id="many"),
        pytest.param(row(package="numpy"), r"advisories\.0\.package", id="package"),
        pytest.param(row(affected=[]), r"advisories\.0\.affected", id="nothing"),
        pytest.param(row(affected=["~=1.0"]), r"affected\.0 .*uses ~=", id="operator"),
        pytest.param(row(affected=[7]), r"affected\.0", id="range-number"),
        pytest.param(row(affected="<1"), r"affected", id="range-text"),
        pytest.param(row(fixed_in="soon"), "fixed_in", id="version"),
        pytest.param(row(severity="awful"), "severity", id="severity"),
        pytest.param(row(reachable_when=["magic"]), "reachable_when", id="feature"),
        pytest.param(row(summary=""), "summary", id="no-summary"),
        pytest.param(row(summary="a\nb"), "summary", id="lines"),
        pytest.param(row(summary="a" * 301), "summary", id="long"),
        pytest.param(row(id="../x y"), r"advisories\.0\.id", id="id"),
        pytest.param(row(more=1), "more", id="more"),
        pytest.param(text(advisories=[{}]), r"advisories\.0\.", id="empty-row"),
    ],
)
def test_a_malformed_snapshot_is_refused_with_its_place(data, said):
    with pytest.raises(SnapshotError, match=said) as caught:
        parse_snapshot(data)

    assert len(str(caught.value)) < 600


@given(data=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    with pytest.raises(SnapshotError):
        parse_snapshot(data)
