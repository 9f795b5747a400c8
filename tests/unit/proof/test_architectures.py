"""On every architecture that preflight knows, every piece has its place in transformers' model and moves its output."""

from __future__ import annotations

import json

import pytest
from support.preflight import CONFIGS, config_of
from unit.proof.conftest import Bench
from unit.proof.fixtures import Fixture, write

from loractl.proof import choose_prompts, prove_modules, prove_with_reference
from loractl.proof.reference_side import Reference
from loractl_registry import ExpertLayout
from loractl_registry.preflight import check_stored, read_base_shape

# These divide the hidden size by the heads, in vLLM; transformers would believe a head_dim.
WITHOUT_HEAD_DIM = ("deepseek_v2", "deepseek_v3", "olmoe", "qwen2", "qwen2_moe")
FUSED = ("qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v2", "deepseek_v3")


def tiny(kind, folder):
    from transformers import AutoConfig, AutoModelForCausalLM

    values = config_of(kind, head_dim=None) if kind in WITHOUT_HEAD_DIM else CONFIGS[kind]
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(**values, **ids, initializer_range=0.15)
    if getattr(config, "rope_parameters", None):
        config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    held = {**values, **json.loads((folder / "config.json").read_text())}
    return Bench(kind, folder, held, choose_prompts(folder, held), Reference(folder, held))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        *(pytest.param(kind, None, id=kind) for kind in CONFIGS),
        *(pytest.param(kind, ExpertLayout.FUSED, id=f"{kind}-fused") for kind in FUSED),
    ],
)
def test_adapter_on_all_that_a_base_takes_is_proven(kind, layout, tmp_path):
    bench = tiny(kind, tmp_path / "base")
    shape = read_base_shape(bench.config)
    names = {path.rpartition(".")[2] for path in (*shape.linears, *shape.experts)}
    adapter = write(Fixture("all", tuple(sorted(names)), layout), bench.config, tmp_path / "adapter")
    check_stored(adapter, bench.config)

    whole = prove_with_reference(bench.subject(adapter), bench.prompts, bench.observe(adapter), bench.reference)
    modules = prove_modules(bench.subject(adapter), bench.prompts, None)

    assert whole.passed, whole.verdict.reasons
    assert modules.passed, modules.verdict.reasons
    assert all(piece.relative is not None for piece in modules.measured.pieces)
    experts = sum(3 * each.count for each in shape.experts.values())
    assert len(whole.measured.pieces) == len(shape.linears) + experts
