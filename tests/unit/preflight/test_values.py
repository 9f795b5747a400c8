from __future__ import annotations

import json

import numpy as np
import pytest
from support.files import packed
from support.preflight import CONFIGS, PREFIX, adapter_on, peft_values

from loractl_registry import ExpertLayout
from loractl_registry.preflight import PreflightRefusedError, check_stored, read_base_shape
from loractl_registry.preflight.placing import place
from loractl_registry.preflight.values import check_values
from loractl_registry.tensor_values import TensorValues

QWEN = CONFIGS["qwen3_moe"]
TENSORS = adapter_on(QWEN)
GOOD = TensorValues(is_finite=True, is_all_zero=False)
ZERO = TensorValues(is_finite=True, is_all_zero=True)
BROKEN = TensorValues(is_finite=False, is_all_zero=False)


def check(tensors, changed, base=QWEN):
    return check_values(dict.fromkeys(tensors, GOOD) | changed, place(tensors, read_base_shape(base)))


def named(text, side="B"):
    return [name for name in TENSORS if text in name and name.endswith((f"lora_{side}.weight", f"embedding_{side}"))]


def test_trained_adapter_has_no_findings():
    assert check(TENSORS, {}) == ()


@pytest.mark.parametrize("name", [named("layers.0.self_attn.q_proj")[0], named("experts.3.up_proj", "A")[0]])
def test_tensor_that_is_not_finite_is_refused_by_name(name):
    with pytest.raises(PreflightRefusedError, match="not finite") as caught:
        check(TENSORS, {name: BROKEN})

    assert name in str(caught.value)


@pytest.mark.parametrize("side", ["A", "B"])
def test_adapter_of_zeros_has_no_effect_and_is_refused(side):
    with pytest.raises(PreflightRefusedError, match="no effect at all"):
        check(TENSORS, dict.fromkeys(named("", side), ZERO))


def test_zeros_in_a_or_in_b_of_each_pair_are_no_effect_either():
    zeros = [*named("layers.0", "A"), *named("layers.1", "B"), *named("embed", "A"), *named("lm_head", "B")]

    with pytest.raises(PreflightRefusedError, match="no effect at all"):
        check(TENSORS, dict.fromkeys(zeros, ZERO))


@pytest.mark.parametrize("part", ["self_attn.v_proj", "lm_head", "embed_tokens", "mlp.down_proj"])
def test_module_of_zeros_in_every_layer_is_refused(part):
    with pytest.raises(PreflightRefusedError, match=f"every pair of .*{part}"):
        check(TENSORS, dict.fromkeys(named(part), ZERO))


def test_projection_of_zeros_in_every_expert_is_refused():
    zeros = [name for name in named(".up_proj") if ".experts." in name]

    with pytest.raises(PreflightRefusedError, match=r"every pair of mlp\.experts\.up_proj"):
        check(TENSORS, dict.fromkeys(zeros, ZERO))


def test_expert_of_zeros_is_a_finding():
    findings = check(TENSORS, dict.fromkeys(named("experts.2."), ZERO))

    assert len(findings) == 3
    assert findings[0].startswith("mlp.experts.down_proj: 1 of 4 pairs are without effect, such as ")


def test_layer_of_zeros_is_a_finding():
    (finding,) = check(TENSORS, dict.fromkeys(named("layers.0.self_attn.q_proj"), ZERO))

    assert "self_attn.q_proj: 1 of 2 pairs" in finding


def test_fused_experts_of_zeros_in_every_layer_are_refused():
    base = CONFIGS["gpt_oss"]
    tensors = adapter_on(base)
    zeros = [name for name in tensors if name.endswith("experts.lora_B.weight")]

    with pytest.raises(PreflightRefusedError, match=r"every pair of mlp\.experts\.down"):
        check(tensors, dict.fromkeys(zeros, ZERO), base)


def stored(folder, tensors, fill, **config):
    generator = np.random.default_rng(0)
    header, data, position = {}, b"", 0
    for name, info in tensors.items():
        part = fill(name, generator.standard_normal(info.shape).astype("<f4")).tobytes()
        header[name] = {"dtype": "F32", "shape": list(info.shape), "data_offsets": [position, position + len(part)]}
        data, position = data + part, position + len(part)
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(packed(header, data))
    (folder / "adapter_config.json").write_text(json.dumps(peft_values(**config)))
    return folder


@pytest.mark.parametrize("layout", [ExpertLayout.PER_EXPERT, ExpertLayout.FUSED])
def test_stored_adapter_is_checked_through_and_through(tmp_path, layout):
    tensors = adapter_on(QWEN, layout=layout)

    report = check_stored(stored(tmp_path / "good", tensors, lambda _, values: values), QWEN)

    assert report.experts is layout
    assert report.findings == ()


def test_stored_adapter_says_what_its_values_lack(tmp_path):
    def fill(name, values):
        return values * 0 if ".experts.1." in name and "lora_B" in name else values

    report = check_stored(stored(tmp_path / "odd", TENSORS, fill), QWEN)

    assert [finding.partition(":")[0] for finding in report.findings] == [
        f"mlp.experts.{name}" for name in ("down_proj", "gate_proj", "up_proj")
    ]


def test_stored_adapter_with_one_number_that_is_none_is_refused(tmp_path):
    name = f"{PREFIX}model.layers.1.self_attn.k_proj.lora_B.weight"

    def fill(tensor, values):
        if tensor == name:
            values[-1, -1] = np.inf
        return values

    with pytest.raises(PreflightRefusedError, match="not finite") as caught:
        check_stored(stored(tmp_path / "inf", TENSORS, fill), QWEN)
    assert name in str(caught.value)
