"""When ``loractl promote`` proves a draft's effect first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.evidence import effect_proof

from loractl.cli import proving

ASKING = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[[adapter.candidate.evidence]]
type = "effect"
"""


@dataclass
class Proof:
    """What an engine would have found."""

    text: bytes
    passed: bool = True

    def to_json(self):
        return self.text


@pytest.fixture
def proven(monkeypatch):
    """Stand in for the engine; what is proven is remembered."""
    refs = []

    def prove(app, version, report, file, *, has_engine):
        refs.append(str(version.ref))
        return Proof(effect_proof(version))

    monkeypatch.setattr(proving, "_prove", prove)
    monkeypatch.setattr(proving, "_is_engine_at_hand", lambda: True)
    return refs


@pytest.mark.parametrize(
    ("setting", "asks", "flags", "expected"),
    [
        pytest.param(None, False, (), [], id="default-is-quick"),
        pytest.param("policy", False, (), [], id="policy-does-not-ask"),
        pytest.param("policy", True, (), ["poet@1"], id="policy-asks"),
        pytest.param("auto", False, (), ["poet@1"], id="auto-with-an-engine"),
        pytest.param("auto", False, ("--no-prove",), [], id="flag-wins-over-auto"),
        pytest.param("never", False, ("--prove",), ["poet@1"], id="flag-wins-over-never"),
    ],
)
def test_promotion_proves_first_when_the_setting_says_so(
    cli, lived_in, monkeypatch, proven, setting, asks, flags, expected
):
    if setting is not None:
        monkeypatch.setenv("LORACTL_PROVE", setting)
    if asks:
        (lived_in / "policy.toml").write_text(ASKING)

    assert cli("promote", "poet@1", *flags).code == 0

    assert proven == expected


def test_never_leaves_it_to_the_policy_to_deny(cli, lived_in, monkeypatch, proven):
    monkeypatch.setenv("LORACTL_PROVE", "never")
    (lived_in / "policy.toml").write_text(ASKING)

    denied = cli("promote", "poet@1", "--json")

    assert (denied.code, denied.error["code"], proven) == (3, "registry.policy_denied", [])


def test_auto_without_an_engine_proves_what_the_policy_asks_for_alone(cli, lived_in, monkeypatch, proven):
    monkeypatch.setenv("LORACTL_PROVE", "auto")
    monkeypatch.setattr(proving, "_is_engine_at_hand", lambda: False)

    assert cli("promote", "poet@1").code == 0

    assert proven == []


def test_nothing_is_proven_twice(cli, lived_in, monkeypatch, proven):
    monkeypatch.setenv("LORACTL_PROVE", "auto")
    assert cli("promote", "poet@1").code == 0
    assert cli("demote", "poet@1", "--reason", "once more").code == 0

    assert cli("promote", "poet@1").code == 0

    assert proven == ["poet@1"]


def test_other_words_are_refused(cli, lived_in, monkeypatch):
    monkeypatch.setenv("LORACTL_PROVE", "always")

    refused = cli("promote", "poet@1", "--json")

    assert (refused.code, refused.error["code"]) == (2, "settings.invalid")
