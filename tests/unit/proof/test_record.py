"""A proof is read back as it was written, and nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from unit.proof.test_verdict import measured, numbers, piece

from loractl.proof import EffectProof, MalformedProofError, judge
from loractl.proof.record import LARGEST, rounded


def proof(**changes):
    values = measured(**changes)
    return EffectProof(measured=values, verdict=judge(values))


def test_proof_is_read_back_as_it_was_written():
    written = proof(pieces=[piece(1 / 3, module="ä"), piece(0.0)])

    assert EffectProof.parse(written.to_json()) == written
    assert EffectProof.parse(written.to_json()).to_json() == written.to_json()


def test_bytes_are_canonical():
    data = proof().to_json()

    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data
    assert json.loads(data)["measured"]["schema"] == "loractl.effect-proof/1"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda held: b"", "not JSON", id="empty"),
        pytest.param(lambda held: b"[]", "no JSON object", id="list"),
        pytest.param(lambda held: held[:-1], "not JSON", id="cut"),
        pytest.param(lambda held: held.replace(b'"layers":2', b'"layers":-2'), "layers", id="negative"),
        pytest.param(lambda held: held.replace(b'"layers":2', b'"layers":2,"more":1'), "more", id="unknown-key"),
        pytest.param(lambda held: held.replace(b'"layers":2', b'"layers":2,"layers":2'), "twice", id="key-twice"),
        pytest.param(lambda held: held.replace(b"effect-proof/1", b"effect-proof/2"), "schema", id="other-version"),
        pytest.param(lambda held: held.replace(b"sha256:a", b"sha256:A"), "adapter_digest", id="digest"),
        pytest.param(lambda held: held.replace(b'"logit_scale":16.0', b'"logit_scale":NaN'), "NaN", id="nan"),
        pytest.param(lambda held: held.replace(b'"passed":true', b'"passed":false'), "does not follow", id="verdict"),
        pytest.param(lambda held: held.replace(b'"effect":0.5', b'"effect":0.0'), "does not follow", id="numbers"),
    ],
)
def test_anything_else_is_refused_and_named(spoil, message):
    data = spoil(proof().to_json())

    with pytest.raises(MalformedProofError, match=message):
        EffectProof.parse(data)


def test_oversize_proof_is_refused_unread(monkeypatch):
    monkeypatch.setattr("loractl.proof.record.MAX_BYTES", 10)

    with pytest.raises(MalformedProofError, match="at most 10"):
        EffectProof.parse(proof().to_json())


def test_failed_proof_is_evidence_too():
    failed = proof(prompts=[numbers(engine_effect=0.0)])

    assert not EffectProof.parse(failed.to_json()).passed


@pytest.mark.parametrize(("value", "kept"), [(1 / 3, 0.333333), (float("inf"), LARGEST), (float("nan"), LARGEST)])
def test_number_is_kept_to_six_digits_and_finite(value, kept):
    assert rounded(value) == kept


def test_reading_a_proof_imports_nothing_heavy():
    probe = (
        "import sys, loractl.proof; "
        "sys.exit(', '.join({'torch', 'vllm', 'transformers', 'numpy', 'tokenizers', 'peft'} & sys.modules.keys()))"
    )

    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stderr.strip() == ""
