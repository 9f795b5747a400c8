"""The norm of a change, against the products that it never forms."""

import json
import struct

import numpy as np
import pytest
from support.preflight import PREFIX, adapter_on, config_of, peft_values
from support.registry import random_tensors, safetensors_bytes

from loractl_registry import ExpertLayout, change_norms
from loractl_registry.change_norms import changes_of_modules
from loractl_registry.preflight.errors import PreflightRefusedError

TARGETS = {
    "target_modules": ["q_proj"],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
}


def write(folder, base, *, rank, seed, layout=None, only=None, alpha=8.0, rslora=False):
    """Write an adapter of random numbers on all that `base` takes; return its numbers by tensor."""
    folder.mkdir()
    shapes = {name: info.shape for name, info in adapter_on(base, only=only, layout=layout, rank=rank).items()}
    tensors = random_tensors(shapes, seed)
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    values = peft_values(rank, lora_alpha=alpha, use_rslora=rslora, **TARGETS)
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return {name: decoded(data).reshape(shape) for name, (_, shape, data) in tensors.items()}


def decoded(data):
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)


def products(tensors, scale, base):
    """Return scale * B @ A of each module, experts of a layer stacked, as PEFT lays them out."""
    found = {}
    experts = base.get("num_experts") or base.get("num_local_experts")
    for name, a in tensors.items():
        if "lora_A" not in name and "embedding_A" not in name:
            continue
        b = tensors[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        module = name.removeprefix(PREFIX).partition(".lora_")[0]
        if module.endswith((".experts", ".experts.base_layer")):
            stacked = np.einsum("ore,eri->eoi", b.reshape(len(b), -1, experts), a.reshape(experts, -1, a.shape[1]))
            path = module.removesuffix(".base_layer")
            if path == module:
                found[f"{path}.down_proj"] = scale * stacked
            elif base["model_type"] == "gpt_oss":
                found[f"{path}.gate_proj"], found[f"{path}.up_proj"] = (
                    scale * stacked[:, 0::2],
                    scale * stacked[:, 1::2],
                )
            else:
                half = stacked.shape[1] // 2
                found[f"{path}.gate_proj"] = scale * stacked[:, :half]
                found[f"{path}.up_proj"] = scale * stacked[:, half:]
        elif ".experts." in module:
            path, _, rest = module.rpartition(".experts.")
            key = f"{path}.experts.{rest.partition('.')[2]}"
            found[key] = np.concatenate([found.get(key, np.zeros((0, len(b), a.shape[1]))), scale * (b @ a)[None]])
        else:
            found[module] = scale * (b @ a)
    return found


CASES = [
    pytest.param("qwen3", None, None, id="attention-and-dense"),
    pytest.param("llama", None, ["embed_tokens", "lm_head"], id="embedding"),
    pytest.param("qwen3_moe", ExpertLayout.PER_EXPERT, None, id="experts-2d"),
    pytest.param("qwen3_moe", ExpertLayout.FUSED, None, id="experts-3d"),
    pytest.param("gpt_oss", None, None, id="experts-3d-interleaved"),
]


@pytest.mark.parametrize(("kind", "layout", "only"), CASES)
def test_norms_are_those_of_the_products(tmp_path, monkeypatch, kind, layout, only):
    monkeypatch.setattr(change_norms, "CHUNK", 17)
    base = config_of(kind)
    one = products(write(tmp_path / "1", base, rank=3, seed=1, layout=layout, only=only), 8.0 / 3, base)
    other = products(
        write(tmp_path / "2", base, rank=5, seed=2, layout=layout, only=only, rslora=True), 8.0 / 5**0.5, base
    )

    found = {one.module: one for one in changes_of_modules(tmp_path / "1", tmp_path / "2", base)}

    assert found.keys() == one.keys() == other.keys()
    for module, change in found.items():
        wanted = [np.linalg.norm(value) for value in (one[module], other[module], other[module] - one[module])]
        assert [change.before, change.after, change.change] == pytest.approx(wanted, rel=1e-9)


def test_layouts_of_experts_compare_with_each_other(tmp_path):
    base = config_of("qwen3_moe")
    flat = products(write(tmp_path / "1", base, rank=2, seed=1, layout=ExpertLayout.PER_EXPERT), 4.0, base)
    fused = products(write(tmp_path / "2", base, rank=3, seed=2, layout=ExpertLayout.FUSED), 8.0 / 3, base)

    found = changes_of_modules(tmp_path / "1", tmp_path / "2", base)

    assert {one.module: one.change for one in found} == pytest.approx(
        {module: np.linalg.norm(flat[module] - fused[module]) for module in flat}, rel=1e-9
    )


def test_same_bytes_differ_by_nothing_at_all(tmp_path):
    base = config_of("qwen3_moe")
    for name in "12":
        write(tmp_path / name, base, rank=4, seed=1)

    found = changes_of_modules(tmp_path / "1", tmp_path / "2", base)

    assert {one.change for one in found} == {0.0}
    assert all(one.before == one.after > 0 for one in found)


def test_module_that_one_version_does_not_adapt_counts_whole(tmp_path):
    base = config_of("qwen3")
    write(tmp_path / "1", base, rank=4, seed=1, only=["q_proj"])
    write(tmp_path / "2", base, rank=4, seed=2, only=["v_proj"])

    found = changes_of_modules(tmp_path / "1", tmp_path / "2", base)

    assert all(one.change == pytest.approx(max(one.before, one.after)) for one in found)
    assert {(one.before == 0, one.module.endswith("v_proj")) for one in found} == {(True, True), (False, False)}


def test_without_another_version_the_change_is_from_the_base(tmp_path):
    base = config_of("qwen3")
    write(tmp_path / "2", base, rank=4, seed=2, only=["q_proj"])

    found = changes_of_modules(None, tmp_path / "2", base)

    assert all((one.before, one.change) == (0.0, one.after) for one in found)


def test_scale_alone_is_a_change(tmp_path):
    base = config_of("qwen3")
    write(tmp_path / "1", base, rank=4, seed=1, only=["q_proj"])
    write(tmp_path / "2", base, rank=4, seed=1, only=["q_proj"], alpha=16.0)

    (one, *_) = changes_of_modules(tmp_path / "1", tmp_path / "2", base)

    assert (one.after, one.change) == pytest.approx((2 * one.before, one.before))


@pytest.mark.parametrize(
    ("dtype", "word", "data", "numbers"),
    [
        pytest.param("F16", "<e", [1.5, -0.25], [1.5, -0.25], id="f16"),
        pytest.param("F32", "<f", [3.25, -7.0], [3.25, -7.0], id="f32"),
        pytest.param("F64", "<d", [1e-9, 2.0], [1e-9, 2.0], id="f64"),
        pytest.param("F8_E4M3", "B", [0x38, 0xC8], [1.0, -4.0], id="e4m3"),
        pytest.param("F8_E5M2", "B", [0x3C, 0x01], [1.0, 2.0**-16], id="e5m2"),
        pytest.param("F8_E4M3FNUZ", "B", [0x40, 0x01], [1.0, 2.0**-10], id="e4m3fnuz"),
        pytest.param("F8_E5M2FNUZ", "B", [0x40, 0x01], [1.0, 2.0**-17], id="e5m2fnuz"),
    ],
)
def test_every_dtype_is_read(tmp_path, dtype, word, data, numbers):
    base = config_of("qwen3")
    size, width = struct.calcsize(word), 64
    cells = [data[0], data[1], *[0] * (width - 2)]
    a = b"".join(struct.pack(word, cell) for cell in cells)
    b = struct.pack(word, data[0]) + bytes(size * 95)
    name = f"{PREFIX}model.layers.0.self_attn.q_proj"
    tensors = {f"{name}.lora_A.weight": (dtype, (1, width), a), f"{name}.lora_B.weight": (dtype, (96, 1), b)}
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_values(1, lora_alpha=1)))

    (found,) = changes_of_modules(None, tmp_path, base)

    assert found.after == pytest.approx(abs(numbers[0]) * np.hypot(*numbers), rel=1e-9)


def test_adapter_of_another_base_is_refused_by_name(tmp_path):
    write(tmp_path / "1", config_of("qwen3_moe"), rank=2, seed=1)

    with pytest.raises(PreflightRefusedError):
        changes_of_modules(None, tmp_path / "1", config_of("llama"))
