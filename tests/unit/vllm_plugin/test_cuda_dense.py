"""Linear layers on NVIDIA GPUs: vLLM's real layers over the wrapper, the operator in traces, and who is refused."""

from __future__ import annotations

import importlib
import inspect
import logging

import pytest
import torch

from loractl.vllm_plugin import compat, slot_ranks
from loractl_kernels import dense
from loractl_kernels.dense import SMALL_BUCKETS
from loractl_kernels.ops import Backend

SLOTS, RANK, HIDDEN, SIZES = 3, 8, 48, (32, 16, 16)
MAX_TOKENS = 300
MAPPING = (0, -1, 2, 1, -1, 0, 0)


@pytest.fixture
def cuda_dense(monkeypatch, cuda_layers):
    """The module with the reference behind it, as if just imported."""
    module = importlib.import_module("loractl.vllm_plugin.cuda_dense")
    monkeypatch.setattr(module, "_backend", Backend.REFERENCE)
    monkeypatch.setattr(module, "_scratches", {})
    monkeypatch.setattr(module, "_warmed", set())
    monkeypatch.setattr(slot_ranks, "_ranks", {})
    monkeypatch.setattr(cuda_layers.cuda_punica, "_said", set())
    return module


@pytest.fixture
def wrapper(cuda_dense, cuda_layers):
    made = cuda_layers.make_wrapper(SLOTS, MAX_TOKENS)
    give(made, MAPPING)
    return made


@pytest.fixture
def vllms_own(monkeypatch, cuda_layers):
    """What vLLM's own kernels were asked for."""
    calls: list[tuple[tuple, dict]] = []

    def record(_wrapper, *operands, **named):
        calls.append((operands, named))

    monkeypatch.setattr(cuda_layers.punica_gpu.PunicaWrapperGPU, "add_lora_linear", record)
    return calls


@pytest.fixture
def kernels(monkeypatch, cuda_dense):
    """Triton's place taken by a list of what it was asked for."""
    calls: list[dict] = []

    def record(y, x, a, b, token_slot, **named):
        calls.append({"y": y, "x": x, "token_slot": token_slot.clone()} | named)

    monkeypatch.setattr(cuda_dense, "_backend", Backend.TRITON)
    monkeypatch.setattr(dense, "add_lora_linear", record)
    return calls


def give(wrapper, mapping) -> None:
    """Tell the wrapper which adapter each token has, as vLLM does before a batch."""
    from vllm.lora.layers import LoRAMapping

    index = tuple(0 if slot < 0 else slot + 100 for slot in mapping)
    wrapper.update_metadata(
        LoRAMapping(index_mapping=index, prompt_mapping=index, is_prefill=True),
        [slot + 100 for slot in range(SLOTS)], SLOTS, 1000,
    )  # fmt: skip


def operands(tokens=7, *, dtype=torch.bfloat16, rank=RANK, sizes=SIZES, seed=0, **changes):
    """What vLLM hands to `add_lora_linear`, in its order."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(shape, generator=random) * shape[-1] ** -0.5).to(dtype)

    said = {
        "y": draw(tokens, sum(sizes)), "x": draw(tokens, HIDDEN),
        "lora_a_stacked": tuple(draw(SLOTS, 1, rank, HIDDEN) for _ in sizes),
        "lora_b_stacked": tuple(draw(SLOTS, 1, size, rank) for size in sizes), "scale": 1.0, "output_slices": sizes,
    }  # fmt: skip
    return said | changes


def wanted_of(said, mapping=MAPPING, scale=1.0) -> torch.Tensor:
    wanted = said["y"].double()
    for token, slot in enumerate(mapping):
        if slot >= 0:
            x = said["x"][token].double()
            pairs = zip(said["lora_a_stacked"], said["lora_b_stacked"], strict=True)
            wanted[token] += scale * torch.cat([b[slot, 0].double() @ (a[slot, 0].double() @ x) for a, b in pairs])
    return wanted


def assert_right(found, said, mapping=MAPPING, scale=1.0) -> None:
    torch.testing.assert_close(found.double(), wanted_of(said, mapping, scale), atol=2e-3, rtol=2**-8)
    base = torch.tensor(mapping) < 0
    assert torch.equal(found[base], said["y"][base])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(40,), (24, 24), SIZES, (16, 16, 16, 32)])
def test_deltas_of_all_slices_match_fp64_and_base_rows_keep_their_bits(wrapper, vllms_own, dtype, sizes):
    said = operands(dtype=dtype, sizes=sizes, scale=0.5)
    y = said["y"].clone()

    wrapper.add_lora_linear(*(said | {"y": y}).values())

    assert_right(y, said, scale=0.5)
    assert vllms_own == []


def test_rows_of_wider_matrices_are_taken(wrapper, vllms_own):
    said = operands()
    y, x = (torch.cat([said[name], said[name]], dim=1) for name in "yx")

    wrapper.add_lora_linear(*(said | {"y": y[:, : sum(SIZES)], "x": x[:, :HIDDEN]}).values())

    assert_right(y[:, : sum(SIZES)], said)
    assert torch.equal(y[:, sum(SIZES) :], said["y"])
    assert vllms_own == []


def test_batch_without_adapters_runs_no_kernel(wrapper, cuda_dense, monkeypatch):
    give(wrapper, (-1,) * 7)
    monkeypatch.setattr(dense, "add_lora_linear", None)
    said = operands()
    before = said["y"].clone()

    wrapper.add_lora_linear(*said.values())

    assert torch.equal(said["y"], before)


def test_slots_true_ranks_are_used(wrapper):
    said = operands()
    slot_ranks._ranks[said["lora_a_stacked"][0].data_ptr()] = torch.tensor([3, 8, 5], dtype=torch.int32)
    y = said["y"].clone()

    wrapper.add_lora_linear(*(said | {"y": y}).values())

    for slot, rank in enumerate((3, 8, 5)):
        for stack in said["lora_a_stacked"]:
            stack[slot, :, rank:] = 0
    assert_right(y, said)


REFUSALS = [
    pytest.param(lambda: operands(rank=129), {}, "rank is over 128", id="rank"),
    pytest.param(lambda: operands(sizes=(16,) * 5), {}, "over 4 slices", id="slices"),
    pytest.param(lambda: operands(dtype=torch.float32), {}, "neither bfloat16 nor float16", id="float32"),
    pytest.param(lambda: operands(y=torch.zeros(7, 64)), {}, "neither bfloat16 nor float16", id="output-dtype"),
    pytest.param(
        lambda: operands(x=torch.zeros(7, HIDDEN).half(), y=torch.zeros(7, 64).half()), {}, "another dtype", id="stacks"
    ),
    pytest.param(
        lambda: operands(lora_a_stacked=operands(rank=4)["lora_a_stacked"]), {}, "fully sharded", id="sharded-columns"
    ),
    pytest.param(
        lambda: operands(sizes=(64,), lora_b_stacked=operands(sizes=(32,))["lora_b_stacked"]), {}, "fully sharded",
        id="sharded-rows",
    ),
    pytest.param(lambda: operands(output_slices=(32, 16)), {}, "other columns", id="wider-output"),
    pytest.param(
        lambda: operands(
            lora_a_stacked=tuple(operands(rank=r)["lora_a_stacked"][0] for r in (8, 8, 4)),
            lora_b_stacked=tuple(operands(rank=r)["lora_b_stacked"][i] for i, r in enumerate((8, 8, 4))),
        ), {}, "slices differ in rank", id="ranks-of-slices",
    ),
    pytest.param(
        lambda: operands(lora_b_stacked=tuple(b.mT.contiguous().mT for b in operands()["lora_b_stacked"])), {},
        "not contiguous", id="stacks-not-contiguous",
    ),
    pytest.param(lambda: operands(x=operands()["x"].t().contiguous().t()), {}, "contiguous rows", id="columns"),
    pytest.param(lambda: operands(x=torch.zeros(1, 7, HIDDEN).bfloat16()), {}, "no matrix", id="batched"),
    pytest.param(operands, {"add_inputs": False}, "a buffer of their own", id="own-buffer"),
]  # fmt: skip


@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize(("make", "named", "reason"), REFUSALS)
def test_what_the_kernels_do_not_take_reaches_vllm_and_is_said_once(
    wrapper, vllms_own, caplog, make, named, reason, is_traced
):
    said = make()

    def layer(values):
        wrapper.add_lora_linear(*values, **named)

    torch._dynamo.reset()
    call = torch.compile(layer, backend="eager", fullgraph=True) if is_traced else layer
    with caplog.at_level(logging.WARNING, logger="vllm.loractl"):
        for _ in range(2):
            call(list(said.values()))

    given, keywords = vllms_own[0]
    assert len(vllms_own) == 2
    assert [one is two for one, two in zip(given[:2], said.values(), strict=False)] == [True, True]
    assert (given[2:], keywords) == (tuple(said.values())[2:], {"buffer": None} | named)
    assert [reason in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_trace_serves_batches_of_every_size(wrapper, backend):
    said = operands()
    traces = []

    def counted(graph, example):
        traces.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, example)

    def layer(x, weight):
        y = x @ weight
        wrapper.add_lora_linear(y, x, said["lora_a_stacked"], said["lora_b_stacked"], 1.0, SIZES)
        return y * 1

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=counted, fullgraph=True, dynamic=True)
    weight = torch.eye(HIDDEN, sum(SIZES)).bfloat16()
    for mapping in (MAPPING, MAPPING[2:], (-1,) * 9, (1, -1) * 140):
        give(wrapper, mapping)
        x = operands(len(mapping), seed=len(mapping))["x"]

        found = compiled(x, weight)

        assert_right(found, said | {"x": x, "y": x @ weight}, mapping)
    assert len(traces) == 1


def test_tokens_are_not_guarded_on(wrapper):
    """vLLM drops guards, so none may have been needed; torch refuses to trace where one is."""
    said = operands()

    def layer(x, y):
        wrapper.add_lora_linear(y, x, said["lora_a_stacked"], said["lora_b_stacked"], 1.0, SIZES)

    torch._dynamo.reset()
    x, y = said["x"].clone(), said["y"].clone()
    for matrix in (x, y):
        torch._dynamo.decorators.mark_unbacked(matrix, 0)

    torch.compile(layer, backend="aot_eager", fullgraph=True)(x, y)

    assert_right(y, said)


@pytest.mark.parametrize("tokens", [2, 7])
def test_operator_is_what_torch_wants_of_one(cuda_dense, tokens):
    said = operands(tokens)
    slots = torch.tensor(MAPPING, dtype=torch.int32)

    torch.library.opcheck(
        torch.ops.loractl.add_lora_linear.default,
        (said["y"], said["x"], list(said["lora_a_stacked"]), list(said["lora_b_stacked"]), slots,
         torch.tensor([False]), 1.0),
    )  # fmt: skip


def test_first_call_compiles_for_every_size_and_the_next_for_none(wrapper, kernels):
    for seed in range(2):
        wrapper.add_lora_linear(*operands(seed=seed).values())

    *warmed, first, second = kernels
    assert [len(call["token_slot"]) for call in warmed] == list(dense.warmup_tokens(MAX_TOKENS, SLOTS))
    assert [len(call["token_slot"]) for call in warmed] == [*SMALL_BUCKETS, MAX_TOKENS]
    assert all((call["token_slot"] == -1).all() for call in warmed)
    assert first["token_slot"].tolist() == second["token_slot"].tolist() == list(MAPPING)
    assert len({id(call["scratch"]) for call in kernels}) == 1
    assert all(call["backend"] is Backend.TRITON for call in kernels)


def test_batch_without_adapters_compiles_too_for_those_that_follow(wrapper, kernels):
    give(wrapper, (-1,) * 7)

    wrapper.add_lora_linear(*operands().values())

    assert [len(call["token_slot"]) for call in kernels] == [*SMALL_BUCKETS, MAX_TOKENS]


def test_nothing_is_compiled_while_a_graph_is_captured(wrapper, kernels, cuda_dense, monkeypatch):
    monkeypatch.setattr(cuda_dense, "_is_capturing", lambda _device: True)
    wrapper.add_lora_linear(*operands().values())
    assert [call["token_slot"].tolist() for call in kernels] == [list(MAPPING)]

    monkeypatch.setattr(cuda_dense, "_is_capturing", lambda _device: False)
    wrapper.add_lora_linear(*operands().values())

    assert len(kernels) > 2


@pytest.mark.parametrize(("start", "width"), [(0, 2 * HIDDEN), (0, HIDDEN + 1), (1, 2 * HIDDEN), (3, HIDDEN + 5)])
def test_what_is_compiled_is_of_the_form_that_comes(wrapper, kernels, cuda_dense, start, width):
    x = torch.zeros(7, width).bfloat16()[:, start : start + HIDDEN]

    wrapper.add_lora_linear(*operands(x=x).values())

    *warmed, call = kernels
    assert call["x"] is not None
    assert {cuda_dense._form(one["x"]) for one in warmed} == {cuda_dense._form(x)}
    assert {cuda_dense._form(one["y"]) for one in warmed} == {cuda_dense._form(call["y"])}
    assert all(one["x"].shape == (len(one["token_slot"]), HIDDEN) for one in warmed)


def test_another_form_or_shape_is_compiled_for_itself(wrapper, kernels):
    counts = []
    wide = torch.zeros(7, HIDDEN + 1).bfloat16()[:, :HIDDEN]
    for said in (operands(), operands(x=wide), operands(sizes=(64,)), operands(), operands(dtype=torch.float16)):
        before = len(kernels)
        wrapper.add_lora_linear(*said.values())
        counts.append(len(kernels) - before)

    assert counts == [5, 5, 5, 1, 5]


def test_layers_of_one_rank_share_a_scratch_that_fits_the_widest(wrapper, cuda_dense):
    for sizes in ((64,), SIZES, (16,) * 4):
        wrapper.add_lora_linear(*operands(sizes=sizes).values())
    wrapper.add_lora_linear(*operands(rank=16).values())

    columns = [scratch.max_columns for scratch in cuda_dense._scratches.values()]
    assert columns == [dense.padded_columns(4, RANK), dense.padded_columns(4, 16)]


def test_parameters_are_those_of_vllm(cuda_layers):
    ours, theirs = (
        inspect.signature(kind.add_lora_linear).parameters.values()
        for kind in (cuda_layers.cuda_punica.LoractlPunicaWrapperGPU, cuda_layers.punica_gpu.PunicaWrapperGPU)
    )

    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


def test_graphs_that_vllm_compiled_by_itself_are_not_loaded(monkeypatch, cuda_dense):
    from vllm.config.lora import LoRAConfig

    monkeypatch.setattr(LoRAConfig, "compute_hash", LoRAConfig.compute_hash)
    configs = [LoRAConfig(max_lora_rank=rank) for rank in (8, 16)]
    before = [config.compute_hash() for config in configs]

    cuda_dense.mark_compiled_graphs(compat.symbols())

    after = [config.compute_hash() for config in configs]
    assert len({*before, *after}) == 4
    assert after == [config.compute_hash() for config in configs]


@pytest.fixture
def linear(monkeypatch, cuda_dense, wrapper):
    """Make vLLM's layers of one kind and size, without the model around them."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.layers import base_linear, column_parallel_linear
    from vllm.model_executor.layers.linear import ReplicatedLinear

    kinds = {
        "qkv": column_parallel_linear.MergedQKVParallelLinearWithLoRA,
        "variable": column_parallel_linear.MergedColumnParallelLinearVariableSliceWithLoRA,
        "single": base_linear.BaseLinearLayerWithLoRA,
    }
    for kind in (base_linear.BaseLinearLayerWithLoRA, column_parallel_linear.MergedColumnParallelLinearWithLoRA):
        for name in ("create_lora_weights", "set_lora"):
            monkeypatch.setattr(kind, name, getattr(kind, name))
    slot_ranks.keep_linear(compat.symbols())

    def make(kind):
        layer = object.__new__(kinds[kind])
        torch.nn.Module.__init__(layer)
        layer.tp_size, layer.tp_rank, layer.device, layer.input_size = 1, 0, "cpu", HIDDEN
        layer.output_sizes = SIZES
        layer.output_slices = SIZES if kind != "single" else ()
        layer.n_slices, layer.output_size = (1, sum(SIZES)) if kind == "single" else (len(SIZES), sum(SIZES))
        base = object.__new__(type("Base", (ReplicatedLinear,), {"output_sizes": SIZES}))
        torch.nn.Module.__init__(base)
        layer.base_layer, layer.punica_wrapper = base, wrapper
        layer.create_lora_weights(SLOTS, LoRAConfig(max_lora_rank=RANK, max_loras=SLOTS, lora_dtype=torch.bfloat16))
        return layer

    return make


def adapter(rank, sizes, seed):
    said = operands(rank=rank, sizes=sizes, seed=seed)
    return [a[0, 0] for a in said["lora_a_stacked"]], [b[0, 0] for b in said["lora_b_stacked"]]


@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize("kind", ["qkv", "variable", "single"])
def test_vllms_own_layer_adds_what_was_put_into_its_slots(linear, vllms_own, kind, is_batched):
    layer = linear(kind)
    for slot, rank in enumerate((3, 8, 5)):
        a, b = adapter(rank, SIZES if kind == "qkv" else (sum(SIZES),), slot)
        layer.set_lora(slot, *((a, b) if kind == "qkv" else (a[0], b[0])))
    said = operands(lora_a_stacked=layer.lora_a_stacked, lora_b_stacked=layer.lora_b_stacked)
    y, x = said["y"].clone(), said["x"]

    found = layer._apply_lora_to_output(x[None] if is_batched else x, y[None] if is_batched else y)

    assert found.dim() == 2 + is_batched
    assert_right(found[0] if is_batched else found, said)
    assert vllms_own == []
    assert slot_ranks.of(layer.lora_a_stacked[0]).tolist() == [3, 8, 5]


def test_layer_has_the_largest_rank_of_its_slices(linear):
    layer = linear("qkv")
    before = slot_ranks.of(layer.lora_a_stacked[0])
    assert before.tolist() == [RANK] * SLOTS
    parts = [adapter(rank, SIZES, 0) for rank in (2, 5, 4)]

    layer.set_lora(1, [a[i] for i, (a, _) in enumerate(parts)], [b[i] for i, (_, b) in enumerate(parts)])
    layer.set_lora(2, [parts[0][0][0], None, None], [parts[0][1][0], None, None])
    layer.set_lora(0, [None] * 3, [None] * 3)

    assert slot_ranks.of(layer.lora_a_stacked[0]) is before
    assert before.tolist() == [1, 5, 2]


def test_stacks_beyond_a_slots_rank_are_zero_so_that_ranks_change_no_result(linear, monkeypatch):
    layer = linear("qkv")
    for slot, rank in enumerate((3, 8, 5)):
        layer.set_lora(slot, *adapter(rank, SIZES, slot))
    said = operands()
    with_ranks, without = said["y"].clone(), said["y"].clone()

    layer._apply_lora_to_output(said["x"], with_ranks)
    monkeypatch.setattr(slot_ranks, "of", lambda _a: None)
    layer._apply_lora_to_output(said["x"], without)

    torch.testing.assert_close(with_ranks, without)


def test_operator_is_registered_for_gpus(cuda_dense):
    operator = torch.ops.loractl.add_lora_linear.default

    assert torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CUDA")
    assert [arg.name for arg in operator._schema.arguments if arg.is_write] == ["y"]
