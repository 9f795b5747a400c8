"""The numbers of tokens cover what vLLM's kernels are compiled for, and the warm-up runs them before the graphs."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from loractl.vllm_plugin import compat, cuda_warmup
from loractl.vllm_plugin.compat import Symbol
from loractl.vllm_plugin.cuda_warmup import install_warmup, logprob_counts, warm, warm_token_counts

SMS = 132
GPT_OSS, QWEN, MIXTRAL, DEEPSEEK, SCOUT, QWEN_60 = (4, 32), (8, 128), (2, 8), (6, 64), (1, 16), (4, 60)
LAYERS = [
    pytest.param(8192, 129, *GPT_OSS, id="gpt-oss-graphs-to-128"),
    pytest.param(8192, 257, *GPT_OSS, id="gpt-oss-graphs-to-256"),
    pytest.param(8192, 513, *GPT_OSS, id="gpt-oss-graphs-to-512"),
    pytest.param(2048, 1, *GPT_OSS, id="gpt-oss-no-graphs"),
    pytest.param(8192, 129, *QWEN, id="qwen-graphs-to-128"),
    pytest.param(17000, 257, *QWEN, id="qwen-large-batch"),
    pytest.param(2048, 1, *QWEN, id="qwen-no-graphs"),
    pytest.param(4200, 1, *MIXTRAL, id="mixtral-no-graphs"),
    pytest.param(8192, 257, *DEEPSEEK, id="deepseek"),
    pytest.param(8192, 257, *SCOUT, id="one-expert-a-token"),
    pytest.param(8192, 257, *QWEN_60, id="60-experts"),
]


def cdiv(a, b):
    return -(-a // b)


def kind(integer):
    return 1 if integer == 1 else 16 if integer % 16 == 0 else None


def power_of_two(number):
    return 1 << max(number - 1, 0).bit_length()


def uncovered(keys, maximum, first, top_k, experts):
    """The numbers of tokens that ask for a variant which the warm-up's do not."""
    counts = warm_token_counts(maximum, first=first, top_k=top_k, experts=experts)
    compiled = {key for tokens in counts for key in keys(tokens, top_k, experts)}
    return [tokens for tokens in range(first, maximum + 1) if not set(keys(tokens, top_k, experts)) <= compiled]


def fused_moe_keys(config_of):
    """What `invoke_fused_moe_triton_kernel` of vLLM 0.32.0 hands to `fused_moe_kernel`, gate and up, then down."""

    def keys(tokens, top_k, experts):
        config = config_of(tokens, experts)
        tile, pairs = config["BLOCK_SIZE_M"], tokens * top_k
        is_naive = 4 * pairs <= experts
        padded = pairs + experts * (tile - 1)
        if pairs < experts:
            padded = min(pairs * tile, padded)
        for rows, each in ((tokens, top_k), (pairs, 1)):
            em = pairs * tile if is_naive else min(padded, rows * each * tile) if rows < tile else padded
            yield (each == top_k, tuple(sorted(config.items())), is_naive, kind(em), kind(pairs))

    return keys


def ogs_keys(columns, depth, block_n):
    """What `matmul_ogs` of vLLM 0.32.0 compiles for on Hopper with mxfp4: flags, then the integers of the launch."""

    def keys(tokens, top_k, experts):
        pairs = tokens * top_k
        block_m = max(16, min(power_of_two(max(1, pairs // experts)), 128))
        grid_m = pairs if pairs <= experts else cdiv(max(pairs - experts + 1, 0), block_m) + experts - 1
        for at, rows in ((0, tokens), (1, pairs)):
            grid_n = cdiv(columns[at], block_n)
            split_k = max(min(SMS // (cdiv(pairs, block_m) * grid_n), cdiv(depth[at], 128) // 4), 1)
            sizes = (kind(rows), kind(grid_m), kind(pairs) if at else None)
            yield (at, block_m, split_k, *sizes, pairs % 4 == 0)

    return keys


def routing_keys(tokens, top_k, experts):
    """What `sort_tokens` of triton_kernels hands to its kernels."""
    pairs, blocks = tokens * top_k, cdiv(tokens, 128) * 4
    tiles = pairs if pairs <= experts else experts - 1 - ((experts - pairs - 1) // 16)
    blocks1a = 4 * cdiv(tiles, 512) + 5
    yield ("memset", kind(2 * pairs), kind(cdiv(tokens, 32)), kind(blocks), kind(blocks1a))
    yield ("compute", kind(tokens), kind(blocks), pairs % 4 == 0)
    yield ("sum", kind(tokens), kind(blocks))


@pytest.mark.usefixtures("vllm_may_warn")
@pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")
@pytest.mark.parametrize(("maximum", "first", "top_k", "experts"), LAYERS)
def test_counts_cover_the_default_tiles_of_fused_moe(maximum, first, top_k, experts):
    fused_moe = importlib.import_module("vllm.model_executor.layers.fused_moe.fused_moe")
    keys = fused_moe_keys(lambda tokens, number: fused_moe.get_default_config(tokens, number, 768, 2048, top_k, None))

    assert uncovered(keys, maximum, first, top_k, experts) == []


@pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")
@pytest.mark.parametrize(
    "file", ["E=128,N=768,device_name=NVIDIA_H200", "E=128,N=384,device_name=NVIDIA_H100_80GB_HBM3"]
)
@pytest.mark.parametrize(("maximum", "first"), [(8192, 257), (2048, 1)])
def test_counts_cover_the_tuned_tiles_of_fused_moe(file, maximum, first):
    spec = importlib.util.find_spec("vllm")
    folder = Path(spec.submodule_search_locations[0]) / "model_executor" / "layers" / "fused_moe" / "configs"
    tuned = json.loads((folder / f"{file}.json").read_text())
    tuned.pop("triton_version", None)
    grid = {int(tokens): config for tokens, config in tuned.items()}
    keys = fused_moe_keys(lambda tokens, _: grid[min(grid, key=lambda at: abs(at - tokens))])

    assert uncovered(keys, maximum, first, *QWEN) == []


@pytest.mark.parametrize(("maximum", "first", "top_k", "experts"), LAYERS)
@pytest.mark.parametrize("block_n", [128, 256])
def test_counts_cover_the_oai_gemms(maximum, first, top_k, experts, block_n):
    keys = ogs_keys((5760, 2880), (2880, 2880), block_n)

    assert uncovered(keys, maximum, first, top_k, experts) == []


@pytest.mark.parametrize(("maximum", "first", "top_k", "experts"), LAYERS)
def test_counts_cover_the_oai_routing(maximum, first, top_k, experts):
    assert uncovered(routing_keys, maximum, first, top_k, experts) == []


def test_counts_are_few_and_mostly_small():
    for shape in (GPT_OSS, QWEN):
        counts = warm_token_counts(8192, first=257, top_k=shape[0], experts=shape[1])

        assert len(counts) < 56
        assert sum(counts) < 60_000
        assert counts == tuple(sorted(set(counts)))
        assert counts[0] >= 257
        assert counts[-1] <= 8192


@pytest.mark.parametrize(("maximum", "first"), [(256, 257), (0, 1)])
def test_no_count_where_nothing_runs_eagerly(maximum, first):
    assert warm_token_counts(maximum, first=first, top_k=4, experts=32) == ()


@pytest.mark.parametrize("maximum", [0, 1, 5, 20, 100, 2000])
def test_logprob_counts_cover_every_number_of_columns(maximum):
    def key(count):
        return min(power_of_two(count + 1), 1024), kind(count + 1)

    asked = {key(count) for count in logprob_counts(maximum)}

    assert {key(count) for count in range(maximum + 1)} == asked
    assert max(logprob_counts(maximum)) <= maximum


def test_logprob_counts_of_vllms_default_are_seven():
    assert logprob_counts(20) == (0, 1, 2, 4, 8, 15, 16)


class MoeLayer(nn.Module):
    """Where vLLM keeps what a layer of experts is like."""

    def __init__(self, top_k, experts, local_experts):
        super().__init__()
        self.moe_config = SimpleNamespace(experts_per_token=top_k, num_experts=experts, num_local_experts=local_experts)


class Runner:
    """Stands for vLLM's model runner V2, and writes down what it is asked for."""

    def __init__(self, *, is_last_rank=True, sizes=(1, 8, 128), mixed=1, max_tokens=1024, layers=1, max_logprobs=20):
        self.lora_config = SimpleNamespace(max_loras=4)
        self.cudagraph_manager = SimpleNamespace(
            cudagraph_mode=SimpleNamespace(mixed_mode=lambda: SimpleNamespace(value=mixed))
        )
        self.compilation_config = SimpleNamespace(cudagraph_capture_sizes=list(sizes))
        self.model_config = SimpleNamespace(max_logprobs=max_logprobs)
        self.max_num_tokens, self.is_pooling_model = max_tokens, False
        self.model = nn.Sequential(*(MoeLayer(4, 32, 32) for _ in range(layers)))
        self.model.compute_logits = lambda hidden: torch.zeros(hidden.shape[0], 50)
        self.runs, self.loaded, self._active, self._is_last = [], [], None, is_last_rank

    def get_model(self):
        return self.model

    @contextmanager
    def maybe_setup_dummy_loras(self, lora_config, remove_lora=True):
        self.loaded.append(lora_config.max_loras)
        yield
        self.loaded.append(0)

    @contextmanager
    def maybe_select_dummy_loras(self, lora_config, num_scheduled_tokens, num_active_loras=0):
        self._active = num_active_loras
        yield

    def maybe_dummy_run_with_lora(self, *given, **named):
        raise AssertionError("every run would load its own adapters")

    def _dummy_run(self, num_tokens, *, is_profile, randomize_inputs, skip_eplb):
        assert is_profile
        assert randomize_inputs
        assert skip_eplb
        with self.maybe_dummy_run_with_lora(
            self.lora_config, num_scheduled_tokens=[num_tokens], num_sampled_tokens=None, remove_lora=True,
            num_active_loras=self.lora_config.max_loras,
        ):  # fmt: skip
            self.runs.append((num_tokens, self._active))
        hidden = torch.zeros(num_tokens, 8)
        return (hidden, hidden[-3:]) if self._is_last else (None, None)


def worker_of(runner, *, has_lora=True, is_v2=True, has_jit_warmup=True):
    config = SimpleNamespace(
        lora_config=runner.lora_config if has_lora else None,
        kernel_config=SimpleNamespace(enable_jit_warmup=has_jit_warmup),
    )
    return SimpleNamespace(vllm_config=config, use_v2_model_runner=is_v2, model_runner=runner)


@pytest.fixture
def seams(monkeypatch):
    """The symbols over a fake module of vLLM, a fake of Triton's knobs, and what was asked of the sampler."""
    asked = []
    module = ModuleType("fake_vllm")
    module.topk_scores = lambda logits, count, sampled: asked.append((tuple(logits.shape), count, sampled.dtype))
    module.kernel_warmup = lambda worker, *, process_local_only=False: worker.done.append("vllm")
    module.moe_layer = MoeLayer
    monkeypatch.setitem(sys.modules, "fake_vllm", module)
    names = (*cuda_warmup._RESTED_ON, "topk_scores", "kernel_warmup", "moe_layer")
    for name in set(names) - set(vars(module)):
        setattr(module, name, object())
    knobs = ModuleType("triton.knobs")
    knobs.compilation = SimpleNamespace(listener=None)
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.knobs", knobs)
    symbols = {name: Symbol("fake_vllm", name) for name in names}
    return SimpleNamespace(symbols=symbols, module=module, knobs=knobs, asked=asked)


@pytest.fixture
def log(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level("INFO", "vllm.loractl"):
        yield caplog


def test_every_count_runs_with_all_adapters_and_one_without(seams):
    runner = Runner()

    warm(worker_of(runner), seams.symbols)

    counts = warm_token_counts(1024, first=129, top_k=4, experts=32)
    assert runner.runs == [*((tokens, 4) for tokens in reversed(counts)), (129, 0)]
    assert runner.loaded == [4, 0]
    assert "maybe_dummy_run_with_lora" not in vars(runner)


@pytest.mark.parametrize(
    ("sizes", "mixed", "first"), [((1, 8, 128), 1, 129), ((1, 8, 128), 0, 1), ((), 1, 1), ((1, 2048), 1, 1024)]
)
def test_counts_begin_where_graphs_end(seams, sizes, mixed, first):
    runner = Runner(sizes=sizes, mixed=mixed)

    warm(worker_of(runner), seams.symbols)

    assert min(tokens for tokens, _ in runner.runs) == first


def test_counts_of_global_and_of_local_experts_are_run(seams):
    runner = Runner()
    runner.model = nn.Sequential(MoeLayer(4, 60, 30))
    runner.model.compute_logits = lambda hidden: torch.zeros(hidden.shape[0], 50)

    warm(worker_of(runner), seams.symbols)

    wanted = {tokens for experts in (60, 30) for tokens in warm_token_counts(1024, first=129, top_k=4, experts=experts)}
    assert {tokens for tokens, active in runner.runs if active} == wanted


def test_model_without_experts_runs_once_each_way(seams):
    runner = Runner(layers=0)

    warm(worker_of(runner), seams.symbols)

    assert runner.runs == [(129, 4), (129, 0)]


@pytest.mark.parametrize(("max_logprobs", "asked"), [(20, (0, 1, 2, 4, 8, 15, 16)), (-1, logprob_counts(50))])
def test_sampler_is_asked_for_every_kind_of_logprobs(seams, max_logprobs, asked):
    warm(worker_of(Runner(max_logprobs=max_logprobs)), seams.symbols)

    assert seams.asked == [((2, 50), count, torch.int64) for count in asked]


def test_rank_without_hidden_states_does_not_sample(seams):
    warm(worker_of(Runner(is_last_rank=False)), seams.symbols)

    assert seams.asked == []


@pytest.mark.parametrize("off", ["has_lora", "has_jit_warmup"])
def test_engine_without_lora_or_without_warmup_is_left_alone(seams, log, off):
    runner = Runner()

    warm(worker_of(runner, **{off: False}), seams.symbols)

    assert runner.runs == []
    assert log.messages == []


def test_old_model_runner_is_left_alone_and_the_log_says_so(seams, log):
    runner = Runner()

    warm(worker_of(runner, is_v2=False), seams.symbols)

    assert runner.runs == []
    assert [record.levelname for record in log.records] == ["WARNING"]


def test_seam_that_is_gone_is_named_before_anything_runs(seams):
    runner = Runner()
    del seams.module.select_dummy_loras

    with pytest.raises(compat.UnsupportedVllmError, match=r"fake_vllm\.select_dummy_loras"):
        warm(worker_of(runner), seams.symbols)

    assert runner.runs == []


def test_log_counts_what_triton_compiled_and_what_it_read(seams, log):
    runner, heard, times = Runner(layers=0), [], iter((1.0, 3.5))
    seams.knobs.compilation.listener = before = lambda **event: heard.append(event)
    runner.model.compute_logits = lambda hidden: (
        [seams.knobs.compilation.listener(cache_hit=is_hit) for is_hit in (True, True, False)]
        and torch.zeros(hidden.shape[0], 50)
    )

    warm(worker_of(runner), seams.symbols, clock=lambda: next(times))

    assert log.messages == [
        "warm-up: 1 token counts from 129 to 129, 1 kernels compiled, 2 read from Triton's cache, 2.5 s"
    ]
    assert len(heard) == 3
    assert seams.knobs.compilation.listener is before


def test_ours_follows_vllms_warmup(seams, monkeypatch):
    done = []
    monkeypatch.setattr(cuda_warmup, "warm", lambda worker, symbols: done.append("ours"))
    install_warmup(seams.symbols)
    worker = SimpleNamespace(done=done)

    seams.module.kernel_warmup(worker)

    assert done == ["vllm", "ours"]


def test_warmup_of_one_process_alone_is_left_to_vllm(seams, monkeypatch):
    done = []
    monkeypatch.setattr(cuda_warmup, "warm", lambda worker, symbols: done.append("ours"))
    install_warmup(seams.symbols)

    seams.module.kernel_warmup(SimpleNamespace(done=done), process_local_only=True)

    assert done == ["vllm"]


@pytest.mark.usefixtures("vllm_may_warn")
@pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")
def test_vllms_worker_calls_it_by_the_name_that_is_replaced():
    gpu_worker = importlib.import_module("vllm.v1.worker.gpu_worker")

    assert "kernel_warmup" in gpu_worker.Worker.compile_or_warm_up_model.__wrapped__.__code__.co_names


@pytest.mark.usefixtures("vllm_may_warn")
@pytest.mark.skipif(compat.installed_version() is None, reason="needs vLLM")
@pytest.mark.parametrize(("adapters", "slots"), [(2, {1, 2}), (0, {0})])
def test_vllms_own_dummy_run_takes_the_adapters_that_are_loaded(adapters, slots):
    runner_class = importlib.import_module("vllm.v1.worker.gpu.model_runner").GPUModelRunner
    ran, active = [], []

    class Bare(runner_class):
        is_first_pp_rank = is_last_pp_rank = property(lambda self: self._is_first)

        def execute_model(self, scheduler_output, **named):
            ran.append((scheduler_output.total_num_scheduled_tokens, named["is_profile"], named["randomize_inputs"]))
            self._is_first = False

    runner = object.__new__(Bare)
    runner._is_first, runner.max_num_reqs, runner.max_num_tokens, runner.speculator = True, 4, 64, None
    runner.lora_config = SimpleNamespace(max_loras=2)
    runner.kv_connector = SimpleNamespace(set_disabled=lambda value: None)
    runner.lora_manager = SimpleNamespace(
        set_active_adapters=lambda requests, mapping: active.append((len(requests), mapping))
    )

    assert cuda_warmup._run(runner, 33, adapters=adapters) is None

    ((requests, mapping),) = active
    assert ran == [(33, True, True)]
    assert requests == adapters
    assert len(mapping.index_mapping) == 33
    assert set(mapping.index_mapping) == slots
