"""The layer benchmark without a GPU: what it measures, its gate, and what it says of the rows."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

from loractl_kernels import ops
from loractl_kernels.bench import (
    TOKENS,
    GateError,
    GraphTimer,
    LayerCase,
    LoractlBackend,
    Skew,
    Timing,
    Workspace,
    matrix,
)
from loractl_kernels.errors import BackendError
from loractl_kernels.ops import Backend
from loractl_kernels.shapes import SHAPES, MoeShape, UnknownShapeError, shape_of

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"
CPU = torch.device("cpu")
SMALL = MoeShape("small", experts=6, top_k=2, hidden=48, intermediate=40, layers=1)
SHARED_A = MoeShape("shared-a", experts=6, top_k=2, hidden=48, intermediate=40, layers=1, slices=1, is_interleaved=True)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def summary():
    return load("summary")


@pytest.fixture
def rows():
    return load("rows")


@pytest.fixture
def layer(summary, rows):
    return load("layer")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_are_read_back_as_they_were_appended(rows, tmp_path, name):
    for number in range(2):
        with rows.opened(tmp_path / name, "at") as out:
            out.write(f'{{"number": {number}}}\n')

    assert rows.read(tmp_path / name) == [{"number": 0}, {"number": 1}]


def reference_step(batch, *, is_weighted: bool = True) -> None:
    routing = ops.route(
        batch.topk_ids,
        batch.token_slot,
        batch.slot_enabled,
        experts=batch.case.shape.experts,
        slots=batch.case.max_loras,
        backend=Backend.REFERENCE,
    )
    ops.expand_add(batch.y13, ops.shrink(batch.x, batch.w13, routing), batch.w13, routing)
    weight = batch.topk_weight if is_weighted else None
    ops.expand_add(batch.y2, ops.shrink(batch.act, batch.w2, routing), batch.w2, routing, pair_weight=weight)


def case_of(shape=SMALL, tokens=24, adapters=8, max_loras=16, rank=4, **more) -> LayerCase:
    return LayerCase(shape, tokens, adapters, max_loras, rank, **more)


@pytest.fixture(scope="module")
def workspace():
    return Workspace(SMALL, 4, CPU, max_tokens=40, max_loras=16)


@pytest.mark.parametrize("shape", [SMALL, SHARED_A], ids=lambda shape: shape.name)
@pytest.mark.parametrize("more", [{}, {"base_share": 0.5}, {"skew": Skew.ZIPF}], ids=["uniform", "half-base", "zipf"])
def test_gate_passes_the_reference(shape, more):
    workspace = Workspace(shape, 4, CPU, max_tokens=40, max_loras=16)
    batch = workspace.batch(case_of(shape, **more))
    workspace.reset(batch)

    reference_step(batch)

    workspace.check(batch, "reference")


def test_gate_refuses_a_missing_delta(workspace):
    batch = workspace.batch(case_of())
    workspace.reset(batch)

    with pytest.raises(GateError, match="nobody: small r4 M=24 L=8/16 base=0 uniform: w13"):
        workspace.check(batch, "nobody")


def test_gate_refuses_a_missing_routing_weight(workspace):
    batch = workspace.batch(case_of())
    workspace.reset(batch)

    reference_step(batch, is_weighted=False)

    with pytest.raises(GateError, match="w2"):
        workspace.check(batch, "unweighted")


@pytest.mark.parametrize("name", ["y13", "y2"])
def test_gate_refuses_one_changed_bit_of_a_base_row(workspace, name):
    batch = workspace.batch(case_of(base_share=0.5))
    workspace.reset(batch)
    reference_step(batch)
    pair = int(torch.where(batch.token_slot < 0)[0][0]) * SMALL.top_k

    getattr(batch, name)[pair].view(torch.int16)[0] ^= 1

    with pytest.raises(GateError, match="without an adapter"):
        workspace.check(batch, "careless")


def test_gate_refuses_nan(workspace):
    batch = workspace.batch(case_of(base_share=0))
    workspace.reset(batch)
    reference_step(batch)

    batch.y2[0, 0] = torch.nan

    with pytest.raises(GateError, match="w2: sampled row 0"):
        workspace.check(batch, "poisoned")


def test_floors_count_each_hit_once_and_no_base_row(workspace):
    batch = workspace.batch(case_of(base_share=0.5))
    hits = {
        (int(slot), int(expert))
        for slot, experts in zip(batch.token_slot, batch.topk_ids, strict=True)
        for expert in experts
        if slot >= 0
    }

    floors = batch.floors()

    weights = len(hits) * 4 * (2 * 48 + 2 * 40 + 40 + 48) * 2
    assert floors.weights == weights
    assert floors.seam == weights + 12 * 2 * (48 + 2 * (40 + 2 * (80 + 48)))
    assert floors.seam_us(1e6) == floors.seam


def test_floors_are_those_of_the_published_table():
    case = LayerCase(shape_of("gpt-oss-20b"), 1, 1, 8, 32)
    shape = case.shape

    assert round(4 * 32 * shape.elements_per_rank * 2 / 4.3e6, 1) == 0.9


@pytest.mark.parametrize("adapters", [1, 8])
def test_slots_are_spread_over_the_stack(workspace, adapters):
    batch = workspace.batch(case_of(adapters=adapters))

    assert sorted(set(batch.token_slot.tolist())) == [index * 16 // adapters for index in range(adapters)]


def test_same_case_gives_the_same_batch(workspace):
    first, second = workspace.batch(case_of(skew=Skew.ZIPF)), workspace.batch(case_of(skew=Skew.ZIPF))

    assert torch.equal(first.token_slot, second.token_slot)
    assert torch.equal(first.topk_ids, second.topk_ids)


def test_matrix_is_the_one_that_was_asked_for():
    cases = list(matrix(SMALL, 8))

    assert {case.tokens for case in cases} == set(TOKENS)
    assert {case.adapters for case in cases} == {1, 2, 8, 16, 32}
    assert all(case.adapters <= case.tokens for case in cases)
    assert {(8, 64)} < {(case.adapters, case.max_loras) for case in cases}
    assert {case.base_share for case in cases} == {0, 0.5}
    assert {case.skew for case in cases} == set(Skew)
    assert len(set(cases)) == len(cases)


def test_shapes_are_found_in_any_case_and_unknown_ones_refused():
    assert shape_of("QWEN3-30b-a3b") is SHAPES["Qwen3-30B-A3B"]
    with pytest.raises(UnknownShapeError, match="no shape 'llama'; there are gpt-oss-20b"):
        shape_of("llama")


def test_timer_refuses_a_cpu():
    with pytest.raises(BackendError, match="needs a CUDA GPU"):
        GraphTimer(CPU)


def test_percentiles_of_equal_steps():
    assert Timing.of([float(value) for value in range(11)]) == Timing(2.0, 5.0, 8.0)


class FakeTimer:
    """Runs a step instead of replaying it."""

    def __init__(self) -> None:
        self._times = itertools.count(10)

    def capture(self, step):
        return type("Graph", (), {"replay": staticmethod(step)})

    def measure(self, graph, reps):
        return Timing(1.0, float(next(self._times)), 3.0)


class Fake:
    slack = 1.0

    def __init__(self, name: str, step) -> None:
        self.name, self._step = name, step

    def prepare(self, batch):
        return lambda: self._step(batch)


@pytest.fixture
def walk(layer, tmp_path, monkeypatch):
    """Measure some cases of the small shape with fake back ends; returns the run."""
    monkeypatch.setattr(layer.torch.cuda, "empty_cache", lambda: None)

    def run(*backends, budget_s: float = 1e9):
        cases = tuple(case for case in matrix(SMALL, 4, (1, 8)) if case.max_loras == 8)
        plan = layer.Plan(((SMALL, 4, cases),), 2, 30, budget_s, 4.3e12)
        with (tmp_path / "layer.jsonl").open("w") as out:
            found = layer.Run(plan, backends, {"gpu": "none"}, out, CPU, layer.time.monotonic())
            found.walk(FakeTimer())
        return found

    return run


def test_run_writes_a_row_of_each_back_end_and_repeat(walk, tmp_path):
    run = walk(Fake("loractl", reference_step), Fake("vllm", reference_step))

    points = {(row["backend"], row["repeat"], row["M"], row["adapters"]) for row in run.rows}
    assert {("loractl", 0, 8, 8), ("vllm", 0, 8, 8), ("vllm", 1, 1, 1)} <= points
    assert len((tmp_path / "layer.jsonl").read_text().splitlines()) == len(run.rows)
    assert {"bench", "rank", "bytes", "floor_us", "weights_floor_us", "base_rows", "skew", "gpu"} <= set(run.rows[0])
    assert not list(run.complaints())


def test_run_prints_no_number_behind_a_red_gate(walk):
    run = walk(Fake("loractl", lambda batch: None), Fake("vllm", reference_step))

    assert {row["backend"] for row in run.rows} == {"vllm"}
    assert run.red
    assert next(run.complaints()).startswith("RED GATE, no number: loractl: small r4")


def test_run_goes_on_past_a_case_that_cannot_run(walk):
    def refuse(batch):
        raise RuntimeError("no such thing")

    run = walk(Fake("loractl", reference_step), Fake("vllm", refuse))

    assert {row["backend"] for row in run.rows} == {"loractl"}
    assert not run.red
    assert "no such thing" in next(run.complaints())


def test_run_says_what_it_left_out_when_the_time_was_up(walk):
    run = walk(Fake("loractl", reference_step), budget_s=-1.0)

    assert not run.rows
    assert list(run.complaints()) == ["the time was up: 12 cases were left out"]


def row(backend: str, tokens: int, p50_us: float, **more) -> dict[str, object]:
    base = {"model": "m", "rank": 8, "adapters": 8, "max_loras": 8, "base_rows": 0, "skew": "uniform", "floor_us": 10.0}
    return base | {"backend": backend, "M": tokens, "p50_us": p50_us} | more


def test_summary_has_ratios_slow_points_and_floors(summary):
    rows = [
        row("loractl", 8, 20.0), row("vllm", 8, 80.0), row("loractl", 512, 40.0), row("vllm", 512, 40.0),
        row("loractl", 16, 25.0), row("vllm", 16, 20.0),
    ]  # fmt: skip

    text = "\n".join(summary.summary_lines(rows))

    assert "m r8                     geomean  1.47x  worst  0.80x at m r8 M=16 L=8/8  (3 points)" in text
    assert "slower than vLLM in every repeat: 1 of 3 points" in text
    assert "M >= 512: within 2x of the seam floor: 0 of 1 points\n  4.00x" in text
    assert "M <= 32: within 12 us of the seam floor: 1 of 2 points\n  15.00 us" in text


def test_summary_calls_nothing_slower_that_was_so_once_alone(summary):
    rows = [row("loractl", 8, 20.0), row("loractl", 8, 22.0), row("vllm", 8, 21.0), row("vllm", 8, 19.0)]

    assert "slower than vLLM in every repeat: 0 of 1 points" in "\n".join(summary.summary_lines(rows))


def test_summary_of_no_rows_says_so(summary):
    assert list(summary.summary_lines([])) == ["0 rows; points: loractl 0, vllm 0"]


def test_options_choose_models_and_ranks(layer):
    plan = layer.plan_of(layer.parse(["--models", "gpt-oss-20b:32", "OLMoE-1B-7B", "--tokens", "8", "--thin"]))

    assert [(shape.name, rank) for shape, rank, _ in plan.groups] == [("gpt-oss-20b", 32), ("OLMoE-1B-7B", 16)]
    assert [(case.adapters, case.max_loras) for case in plan.groups[0][2]] == [(1, 8), (8, 8)]


def test_loractl_step_asks_for_triton(workspace):
    step = LoractlBackend().prepare(workspace.batch(case_of()))

    with pytest.raises(BackendError, match="triton"):
        step()
