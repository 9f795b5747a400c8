import json
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from safetensors import safe_open
from torch import nn

FOLDER = Path(__file__).parents[2] / "kernels" / "benchmarks"
FACTS = {
    "gpu": "NVIDIA H200",
    "driver": "580.1",
    "torch": "2.11",
    "triton": "3.6",
    "vllm": "0.32.0",
    "commit": "0123456789abcdef",
}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def layer_row(backend, tokens, p50_us, **columns):
    return {
        "bench": "layer",
        "model": "gpt-oss-20b",
        "backend": backend,
        "M": tokens,
        "adapters": 8,
        "max_loras": 8,
        "rank": 32,
        "base_rows": 0,
        "skew": "uniform",
        "p50_us": p50_us,
        "floor_us": 10.0,
        "run_id": "new",
        "repeat": 0,
        **FACTS,
        **columns,
    }


def engine_row(backend, metric, value, *, adapters=0, base_value=None, **columns):
    return {
        "bench": "engine",
        "model": "gpt-oss-20b",
        "layers": 24,
        "backend": backend,
        "moe_backend": "auto",
        "rank": 32,
        "metric": metric,
        "streams": None,
        "prompt": None,
        "adapters": adapters,
        "value": value,
        "base_value": base_value,
        "best_base_value": None,
        "run_id": "new",
        **FACTS,
        **columns,
    }


def layer_rows():
    return [
        layer_row("loractl", 1, 20.0),
        layer_row("vllm", 1, 80.0),
        layer_row("loractl", 32, 30.0),
        layer_row("vllm", 32, 120.0),
        layer_row("loractl", 1024, 50.0),
        layer_row("vllm", 1024, 25.0),
        layer_row("loractl", 1024, 50.0, repeat=1),
        layer_row("vllm", 1024, 25.0, repeat=1),
        layer_row("loractl", 64, 50.0),
    ]


def engine_rows():
    rows = [engine_row("none", "decode_tok_s", 1000.0, streams=1, base_value=1000.0)]
    for backend, kept in (("vllm", 500.0), ("loractl", 855.0)):
        rows += [
            engine_row(backend, "decode_tok_s", 900.0, streams=1, base_value=900.0),
            engine_row(backend, "decode_tok_s", kept, streams=1, adapters=1, base_value=900.0),
            engine_row(backend, "decode_tok_s", kept - 50, streams=1, adapters=8, base_value=900.0),
            engine_row(backend, "ttft_ms", 10.0, prompt=100, base_value=10.0),
            engine_row(backend, "ttft_first_ms", 12.0, prompt=100, base_value=12.0),
            engine_row(backend, "ttft_ms", 10.5, prompt=100, adapters=1, base_value=10.0),
            engine_row(backend, "ttft_first_ms", 21.0, prompt=100, adapters=1, base_value=12.0),
            engine_row(backend, "jit_compiles", 3.0, adapters=8, kernels={"_moe_kernel": 3}),
        ]
    return rows


def row_of(page, start):
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratio_is_the_peers_time_over_ours_and_its_mean_is_geometric():
    import report_layer

    paired, alone = report_layer.points(layer_rows())

    assert [point.ratio for point in paired] == [4.0, 4.0, 0.5]
    assert alone == ["gpt-oss-20b r32, 64 tokens, 8 of 8 slots: loractl alone"]
    assert report_layer.geomean([4.0, 4.0, 0.5]) == pytest.approx(2.0)


def test_point_is_slower_only_if_it_is_slower_every_time():
    import report_layer

    rows = [
        layer_row("loractl", 8, 10.0),
        layer_row("vllm", 8, 9.0),
        layer_row("loractl", 8, 10.0, repeat=1),
        layer_row("vllm", 8, 11.0, repeat=1),
    ]

    ((point,), _) = report_layer.points(rows)

    assert point.ratios == (0.9, 1.1)
    assert not point.is_slower


@pytest.mark.parametrize(
    ("tokens", "ours_us", "missed"),
    [(512, 20.0, False), (512, 20.1, True), (32, 22.0, False), (32, 22.1, True), (64, 500.0, False)],
)
def test_floor_is_bound_from_512_tokens_and_up_to_32(tokens, ours_us, missed):
    import report_layer

    ((point,), _) = report_layer.points([layer_row("loractl", tokens, ours_us), layer_row("vllm", tokens, 1.0)])

    assert point.misses_floor is missed


def test_layer_section_gives_counts_and_verdicts():
    import report_layer

    text = report_layer.section(layer_rows())

    assert row_of(text, "| gpt-oss-20b")[1:] == ["32", "3", "2.00x", "0.50x", "1", "2", "new"]
    assert "2.00x over 3 points, 3x asked: **missed**" in text
    assert "1 of 3 points: **missed**" in text
    assert "1 of 3 points within it" in text


def test_only_the_last_run_of_a_model_counts():
    import report_layer

    old = [layer_row("loractl", 1, 1.0, run_id="old"), layer_row("vllm", 1, 900.0, run_id="old")]

    assert report_layer.section(old + layer_rows()) == report_layer.section(layer_rows())


def test_best_base_is_the_engine_without_lora_of_the_same_run(tmp_path):
    import rows

    file = tmp_path / "engine.jsonl"
    written = [*engine_rows(), engine_row("none", "decode_tok_s", 9e9, streams=1, run_id="other")]
    file.write_text("".join(json.dumps(row) + "\n" for row in written))

    rows.fill_best_base(file, "new")

    filled = rows.read(file)
    decode = [row for row in filled if row["metric"] == "decode_tok_s" and row["run_id"] == "new"]
    assert {row["best_base_value"] for row in decode} == {1000.0}
    assert filled[-1]["best_base_value"] is None


def test_engine_section_holds_each_number_against_its_target():
    import report_engine

    text = report_engine.section(engine_rows())

    assert row_of(text, "| loractl | 1 adapter | 855")[2] == "855 (95.0%)"
    assert row_of(text, "| decode, 1 adapter |")[2:] == [
        "95.0% / - / - / -",
        "55.6% / - / - / -",
        "met, some points not measured",
    ]
    assert row_of(text, "| decode, 1 adapter, against the best")[2] == "85.5% / - / - / -"
    assert row_of(text, "| time to first token, 1 adapter")[2].startswith("105.0% / -")
    assert row_of(text, "| first prompt of a length against the next, 1 adapter")[-1].startswith("**missed**")
    assert row_of(text, "| prefill, 1 adapter |")[-1] == "**not measured**"
    assert row_of(text, "| compilations while serving")[1:] == ["0", "3", "3", "**missed**"]
    assert "3 (`_moe_kernel`)" in text


def test_engine_that_did_not_run_is_named():
    import report_engine

    text = report_engine.section([row for row in engine_rows() if row["backend"] != "vllm"])

    assert "**No speeds of the engine with vLLM's kernels in this run.**" in text


def test_two_expert_back_ends_of_one_engine_stay_apart():
    import report_engine

    other = [row | {"moe_backend": "marlin", "value": 1.0} for row in engine_rows() if row["backend"] == "vllm"]
    text = report_engine.section(other + engine_rows())

    assert row_of(text, "| vLLM's kernels, marlin | 1 adapter | 1 ")[2] == "1 (0.1%)"
    assert row_of(text, "| vLLM's kernels, auto | 1 adapter | 500")[2] == "500 (55.6%)"


def test_losses_are_the_worst_points_first():
    import report_engine
    import report_layer

    layer, engine = report_layer.losses(layer_rows()), report_engine.losses(engine_rows())

    assert layer.index("1024 tokens") < layer.index("1 tokens")
    assert "**0.50**" in layer
    assert "first prompt of a length against the next, 1 adapter, 100 | 200.0% | 120.0%" in engine


def test_page_says_what_is_missing_and_is_the_same_every_time():
    import report

    empty = report.page([], [])

    assert empty.count("**No rows**") == 2
    assert report.plots([], []) == {}
    assert report.page(layer_rows(), engine_rows()) == report.page(layer_rows(), engine_rows())
    assert report.plots(layer_rows(), engine_rows()) == report.plots(layer_rows(), engine_rows())


def test_every_plot_is_well_formed_and_on_the_page():
    import report

    page, plots = report.page(layer_rows(), engine_rows()), report.plots(layer_rows(), engine_rows())

    assert set(re.findall(r"assets/kernels/([\w-]+\.svg)", page)) == set(plots)
    for text in plots.values():
        assert ET.fromstring(text).tag.endswith("svg")
        assert "nan" not in text


def test_bar_is_as_tall_as_its_value():
    import svg

    text = svg.bars("title", "%", [("1", [50.0, None, 100.0])], [("a", "red"), ("b", "green"), ("c", "blue")])

    heights = [float(found) for found in re.findall(r'height="([\d.]+)" fill="(?:red|green|blue)', text)]
    assert heights[0] * 2 == pytest.approx(heights[1], abs=0.2)
    assert ">-<" in text


@pytest.mark.parametrize("model", ["gptoss", "qwen"])
def test_adapters_share_tensors_and_differ_in_scale(model, tmp_path):
    import engine_models

    shape = engine_models.ExpertShape(experts=3, hidden=8, intermediate=4)

    folders = engine_models.write_adapters(tmp_path, model, 2, 4, 3, shape=shape)
    again = engine_models.write_adapters(tmp_path, model, 2, 4, 3, shape=shape)

    assert again == folders
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    assert len({(folder / "adapter_model.safetensors").resolve() for folder in folders}) == 1
    assert len({config["lora_alpha"] for config in configs}) == 3
    with safe_open(folders[0] / "adapter_model.safetensors", "pt") as tensors:
        shapes = {name: tuple(tensors.get_tensor(name).shape) for name in tensors.keys()}  # noqa: SIM118
    prefix = "base_model.model.model.layers.1.mlp.experts"
    if model == "gptoss":
        assert shapes[f"{prefix}.base_layer.lora_B.weight"] == (8, 12)
        assert shapes[f"{prefix}.lora_A.weight"] == (12, 4)
        assert len(shapes) == 2 * 4
    else:
        assert shapes[f"{prefix}.2.down_proj.lora_A.weight"] == (4, 4)
        assert shapes[f"{prefix}.2.gate_proj.lora_B.weight"] == (4, 4)
        assert len(shapes) == 2 * 3 * 6


@pytest.mark.parametrize(("model", "experts"), [("gptoss", 32), ("qwen", 128)])
def test_model_config_has_the_layers_asked_for(model, experts):
    import engine_models

    config = engine_models.model_config(model, 5)

    assert config["num_hidden_layers"] == 5
    assert experts in (config.get("num_local_experts"), config.get("num_experts"))
    assert len(config.get("layer_types", range(5))) == 5


def test_engine_arguments_are_known_to_vllm():
    import dataclasses

    import engine
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in ("base", "loractl", "vllm"):
        arguments = ["run", "--model", "gptoss", "--engine", name, "--rank", "32", "--fast"]
        options = engine._parser().parse_args(arguments)

        assert set(engine.llm_kwargs(options)) <= known


class SteadyEngine:
    def __init__(self):
        self.calls, self.now = [], 0.0

    def __call__(self, prompts, adapters, tokens):
        self.calls.append((len(prompts), tuple(adapters), tokens))
        self.now += 1.0 + 0.5 * tokens


def test_bench_measures_base_beside_adapters_and_never_repeats_a_prompt(monkeypatch):
    import engine_measure

    engine = SteadyEngine()
    monkeypatch.setattr(engine_measure.time, "perf_counter", lambda: engine.now)
    bench = engine_measure.Bench(engine, adapters=3, tokens=4, reps=3, deadline=math.inf)

    found = bench.run(("ttft", "decode", "prefill"), streams=(2,))

    assert [m.adapters for m in found if m.metric == "prefill_tok_s"] == [0, 1, 3]
    assert [m.value for m in found if m.metric == "decode_tok_s"] == [2 * 4 / (4 * 0.5)] * 3
    assert len([m for m in found if m.metric == "ttft_first_ms"]) == 8
    assert (2, (0, 1), 5) in engine.calls
    assert bench.prompt(8) != bench.prompt(8)


def test_base_and_adapters_take_turns(monkeypatch):
    import engine_measure

    engine = SteadyEngine()
    monkeypatch.setattr(engine_measure.time, "perf_counter", lambda: engine.now)

    engine_measure.Bench(engine, adapters=2, tokens=4, reps=3, deadline=math.inf).run(("ttft",))

    alone = [adapters for _, adapters, _ in engine.calls]
    assert alone == [(None,), (0,)] * (len(alone) // 2)
    assert len(alone) == 4 * 2 * (1 + 9)


def test_bench_leaves_out_what_the_budget_does_not_allow():
    import engine_measure

    bench = engine_measure.Bench(SteadyEngine(), adapters=0, tokens=4, reps=3, deadline=-math.inf)

    assert bench.run(("prefill",)) == []
    assert bench.left_out == ["prefill 8000"]


def test_rows_stand_beside_the_base_requests_of_the_same_point():
    from engine_measure import Measurement, as_rows

    found = [Measurement("decode_tok_s", 0, 100.0, streams=8), Measurement("decode_tok_s", 8, 80.0, 0.01, streams=8)]

    base, mixed = as_rows(found, {"model": "m", "backend": "loractl"}, {"run_id": "r"})

    assert (mixed["value"], mixed["base_value"], mixed["spread"]) == (80.0, 100.0, 0.01)
    assert base["bench"] == "engine"
    assert {"streams", "prompt", "adapters", "best_base_value", "run_id"} <= set(mixed)


def test_compilations_count_from_the_monitors_start_on():
    from engine_measure import compiled_kernels

    log = (
        "WARNING Triton kernel JIT compilation during inference: _early. This causes\n"
        "INFO Kernel JIT monitor activated; monitored JIT compilations during inference will use mode=warn.\n"
        "WARNING Triton kernel JIT compilation during inference: _fused_moe_kernel (constexprs={}). This causes\n"
        "WARNING Triton kernel JIT compilation during inference: _fused_moe_kernel (constexprs={}). This causes\n"
        "Triton autotuning for function _tuned,\nwith key as (1,),\n"
    )

    assert compiled_kernels(log) == {"_fused_moe_kernel": 2, "_tuned": 1}
    with pytest.raises(ValueError, match="not activated"):
        compiled_kernels("nothing")


def answer(adapter, level, tokens=(1, 2), logprobs=(-1.0, -1.0)):
    from engine_gate import Answer

    return Answer(adapter, [level, level - 0.5], list(tokens), list(logprobs))


def test_gate_refuses_an_adapter_that_does_nothing_and_one_in_place_of_another():
    from engine_gate import GateError, check

    assert check([answer(None, -5.0), answer(0, -5.2), answer(1, -5.4)]) == pytest.approx(0.2)
    with pytest.raises(GateError, match="the base model and adapter 0 give the same"):
        check([answer(None, -5.0), answer(0, -5.0)])
    with pytest.raises(GateError, match="adapter 0 and adapter 1 give the same"):
        check([answer(None, -5.0), answer(0, -5.2), answer(1, -5.2)])
    with pytest.raises(GateError, match="not finite"):
        check([answer(None, math.nan)])


def test_gate_compares_engines_up_to_the_first_token_that_differs(tmp_path):
    from engine_gate import GateError, compare, load, save

    ours = [answer(None, -5.0), answer(0, -5.2, (1, 2), (-1.0, -9.0))]
    theirs = [answer(None, -5.01), answer(0, -5.21, (1, 3), (-1.02, -1.0))]
    save(tmp_path / "gate.json", [theirs], {"rank": 32})

    (reference,) = load(tmp_path / "gate.json", {"rank": 32})
    found = compare(ours, reference)

    assert found["max"] == pytest.approx(0.02)
    with pytest.raises(GateError, match="is of"):
        load(tmp_path / "gate.json", {"rank": 16})
    with pytest.raises(GateError, match="differ from the reference"):
        compare(ours, [answer(None, -5.0), answer(0, -5.6)])


def test_wide_weights_leave_quantised_tensors_alone():
    from engine_worker import WIDEN, widen

    model = nn.ModuleDict({"input_norm": nn.Linear(2, 2, bias=False), "experts": nn.Linear(2, 2)})
    model["experts"].w13_weight_scale = nn.Parameter(torch.ones(2))
    model["experts"].w13_weight = nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False)
    before = model["experts"].weight.detach().clone()

    assert widen(model) == 3
    assert torch.equal(model["input_norm"].weight, torch.ones(2, 2))
    assert torch.equal(model["experts"].weight, before * WIDEN)
    assert torch.equal(model["experts"].bias, torch.zeros(2))
    assert torch.equal(model["experts"].w13_weight_scale, torch.ones(2))


def test_command_of_an_engine_is_understood_by_it(tmp_path):
    import engine
    import engine_processes

    options = engine._parser().parse_args(["all", "gptoss:vllm:marlin", "--logs", str(tmp_path), "--fast"])

    line = engine_processes.command(options.engines[0], options, ["--metrics", ""], kv_gib=2.0, utilization=0.1)
    parsed = engine._parser().parse_args(line[2:])

    assert (parsed.model, parsed.engine, parsed.moe_backend) == ("gptoss", "vllm", "marlin")
    assert parsed.run_id == options.run_id
    assert parsed.metrics == ()
    assert parsed.fast


def test_reference_engine_runs_before_the_one_that_is_held_to_it():
    import engine_processes

    engines = ["qwen:loractl", "gptoss:loractl", "gptoss:vllm", "gptoss:base"]

    assert sorted(engines, key=engine_processes._turn) == [
        "gptoss:base",
        "gptoss:vllm",
        "gptoss:loractl",
        "qwen:loractl",
    ]


def test_engine_that_fails_is_said_and_the_rest_runs(monkeypatch, tmp_path, capsys):
    import engine
    import engine_processes

    fake = tmp_path / "engine.py"
    fake.write_text("import sys; sys.exit('base' in sys.argv)")
    monkeypatch.setattr(engine_processes, "ENGINE", fake)
    arguments = ["all", "gptoss:base", "gptoss:loractl", "--logs", str(tmp_path), "--out", str(tmp_path / "out.jsonl")]

    code = engine_processes.run_all(engine._parser().parse_args(arguments))

    said = capsys.readouterr().out
    assert code == 1
    assert "*** FAILED: gptoss:base: exit status 1" in said
    assert "held to nothing" in said
    assert "gptoss:loractl: " in said
