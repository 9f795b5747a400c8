"""vLLM's experts with fused deltas: what they compute, when they leave it to vLLM, and on which stream."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from loractl.vllm_plugin.errors import UnsupportedMoeError
from loractl_kernels.cases import Case
from loractl_kernels.reference import Gate

KINDS = ("triton", "marlin", "oai")
SMALL = Case(tokens=7, top_k=2, experts=5, slots=3, hidden=64, intermediate=48, rank=8)
CASES = {
    "3d": SMALL,
    "2d": replace(SMALL, slices=2),
    "gpt-oss": replace(SMALL, gate=Gate.SWIGLU_OAI, has_mixed_ranks=False),
    "gpt-oss-2d": replace(SMALL, gate=Gate.SWIGLU_OAI, slices=2),
    "float16": replace(SMALL, dtype=torch.float16),
    "one-token": replace(SMALL, tokens=1, base_share=0.0),
    "top-1": replace(SMALL, top_k=1),
    "slot-off": replace(SMALL, tokens=13, off_slots=(1,)),
}
# A result is a sum over few pairs of numbers of about 1, each rounded four times, so 2^-5 is some eight roundings.
TOLERANCE = {torch.bfloat16: 2.0**-5, torch.float16: 2.0**-8}


@pytest.fixture
def made(monkeypatch, cuda_layers):
    def make(case: Case):
        layer = cuda_layers.CudaLayer(case)
        layer.replace_gemms(monkeypatch)
        return layer

    return make


def check(found: torch.Tensor, wanted: torch.Tensor) -> None:
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted, rtol=0.0, atol=TOLERANCE[found.dtype] * scale)


@pytest.mark.parametrize("side_pairs", [0, 1024], ids=["one-stream", "two-streams"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_gives_base_and_deltas(made, cuda_layers, monkeypatch, kind, name, side_pairs):
    cuda_layers.side_pairs(monkeypatch, side_pairs)
    layer = made(CASES[name])
    wanted = layer.expected()

    found = layer.run(kind, layer.context())

    assert float((wanted - layer.expected(with_adapters=False)).abs().max()) > 0.2 * float(wanted.abs().max())
    check(found, wanted)
    assert "main: vLLM's activation" not in layer.streams.log


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_run_beside_the_gemms_of_a_small_batch(made, kind):
    layer = made(SMALL)
    layer.run(kind, layer.context())
    layer.streams.log.clear()

    layer.run(kind, layer.context())

    assert layer.streams.log == [
        "main: record", "side: wait", "side: route", "side: shrink", "side: record", "main: gemm w13",
        "main: wait", "main: expand_activate",
        "main: record", "side: wait", "side: shrink", "side: record", "main: gemm w2",
        "main: wait", "main: expand_sum",
    ]  # fmt: skip


@pytest.fixture
def in_gemms(made, cuda_layers, monkeypatch):
    """A layer whose batch is large enough for its deltas to go into vLLM's GEMMs, of a class that allows it."""
    from loractl.vllm_plugin import cuda_gemms
    from loractl_kernels import grouped

    def make(case: Case):
        cuda_layers.side_pairs(monkeypatch, 0)
        layer = made(case)
        triton_moe, sizes = cuda_layers.triton_moe, ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K")
        monkeypatch.setattr(grouped, "SMALL_PAIRS", case.tokens * case.top_k - 1)
        monkeypatch.setattr(cuda_layers.FusedTriton, "_gemms_take_deltas", True)
        monkeypatch.setattr(triton_moe, "try_get_optimal_moe_config", lambda *_a, **_k: dict.fromkeys(sizes, 16))
        launch = cuda_gemms.with_deltas(triton_moe.invoke_fused_moe_triton_kernel)
        monkeypatch.setattr(triton_moe, "invoke_fused_moe_triton_kernel", launch)
        return layer

    return make


@pytest.mark.parametrize("name", ["3d", "2d", "float16", "top-1", "slot-off"])
def test_deltas_of_a_large_batch_are_in_the_gemms(in_gemms, name):
    layer = in_gemms(CASES[name])
    layer.run("triton", layer.context())
    layer.streams.log.clear()

    found = layer.run("triton", layer.context())

    check(found, layer.expected())
    assert [line for line in layer.streams.log if line != "main: expand_add"] == [
        "main: route", "main: shrink", "main: vLLM's activation", "main: shrink",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["gpt-oss-2d", "base"])
def test_gemms_are_vllms_where_they_cannot_have_the_deltas(in_gemms, name):
    layer = in_gemms(replace(SMALL, base_share=1.0) if name == "base" else CASES[name])

    found = layer.run("triton", layer.context())

    check(found, layer.expected())
    assert {"main: gemm w13", "main: gemm w2"} <= set(layer.streams.log)


def test_layer_after_one_that_failed_has_no_deltas_of_it(in_gemms):
    from loractl.vllm_plugin import cuda_gemms

    layer = in_gemms(SMALL)
    with pytest.raises(AttributeError):
        layer.run("triton", layer.context(), workspace13=None)

    assert cuda_gemms.layer is None


@pytest.mark.parametrize("kind", KINDS)
def test_larger_batch_runs_on_one_stream(made, cuda_layers, monkeypatch, kind):
    cuda_layers.side_pairs(monkeypatch, SMALL.tokens * SMALL.top_k - 1)
    layer = made(SMALL)
    monkeypatch.setattr(torch.cuda, "Stream", None)
    layer.run(kind, layer.context())
    layer.streams.log.clear()

    layer.run(kind, layer.context())

    assert layer.streams.log == [
        "main: route", "main: shrink", "main: gemm w13", "main: expand_activate", "main: shrink", "main: gemm w2",
        "main: expand_sum",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_small_batch_in_a_graph_a_layer_runs_on_one_stream(made, cuda_layers, monkeypatch, kind):
    from vllm.config import VllmConfig
    from vllm.config.compilation import CUDAGraphMode
    from vllm.forward_context import set_forward_context

    layer = made(SMALL)
    monkeypatch.setattr(torch.cuda, "Stream", None)

    with set_forward_context(None, VllmConfig(), cudagraph_runtime_mode=CUDAGraphMode.PIECEWISE):
        layer.run(kind, layer.context())

    assert {line.partition(":")[0] for line in layer.streams.log} == {"main"}


@pytest.mark.parametrize("is_large", [True, False])
def test_routing_says_whether_two_streams_are_used(made, cuda_layers, monkeypatch, is_large):
    cuda_layers.side_pairs(monkeypatch, 0 if is_large else 1024)
    layer = made(SMALL)
    context = layer.context()
    experts = layer.experts("triton", context)

    step = experts._start(layer.layer.x, layer.layer.weight, layer.layer.topk_ids, layer.activation)

    assert [named["side"] for _, named in layer.streams.operands if "side" in named][-1] is not is_large
    assert (step.side is None) is is_large


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_adapters_is_the_base_bit_for_bit(made, kind):
    layer = made(SMALL)
    layer.set_slots(torch.full((SMALL.tokens,), -1, dtype=torch.int32))

    found = layer.run(kind, layer.context())

    ran = set(layer.streams.log)
    assert torch.equal(found, layer.run(kind, None))
    assert ran == {"main: gemm w13", "main: vLLM's activation", "main: gemm w2"}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_base_are_the_same_beside_an_adapter(made, kind):
    layer = made(replace(SMALL, base_share=0.5))
    is_base = layer.layer.token_slot < 0

    found, base = layer.run(kind, layer.context()), layer.run(kind, None)

    assert is_base.any()
    assert torch.equal(found[is_base], base[is_base])
    assert not torch.equal(found, base)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_no_tokens_has_no_adapters(made, kind):
    layer = made(SMALL)
    experts = layer.experts(kind, layer.context())

    assert experts._has_adapters(layer.layer.topk_ids)
    assert not experts._has_adapters(layer.layer.topk_ids[:0])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_on_the_input_are_refused_with_adapters_alone(made, kind):
    layer = made(replace(SMALL, top_k=1))

    with pytest.raises(UnsupportedMoeError, match="weighted twice"):
        layer.run(kind, layer.context(), apply_router_weight_on_input=True)
    layer.set_slots(torch.full((SMALL.tokens,), -1, dtype=torch.int32))
    layer.run(kind, layer.context(), apply_router_weight_on_input=True)


def test_layer_that_fails_leaves_nothing_for_the_next(made, monkeypatch):
    layer = made(SMALL)
    experts = layer.experts("triton", layer.context())
    monkeypatch.setattr(layer, "down", None)
    operands = layer.operands("triton")

    with pytest.raises(TypeError):
        experts.apply(*operands.values())

    assert experts._pass is None


def test_deltas_are_of_the_input_before_it_was_quantised(made, monkeypatch):
    layer = made(SMALL)
    experts = layer.experts("triton", layer.context(original_hidden_states=layer.layer.x))
    seen = layer.streams.operands

    experts._start(layer.layer.x.to(torch.int8), layer.layer.weight, layer.layer.topk_ids, layer.activation)

    assert seen[-1][0][0] is layer.layer.x


# What goes vLLM's way in whole: what the context says besides, and what the log says of it once.
UNFUSED = {
    "shared-factors": ({"enable_moe_shared_loras": True}, "not fused into the experts, because experts share factors"),
    "exchanged-tokens": (
        {"local_token_lora_mapping": torch.tensor([0, 1, -1, 2, 1, 0, -1], dtype=torch.int32)},
        "tokens were exchanged between ranks",
    ),
}


@pytest.mark.parametrize("name", UNFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_deltas_that_are_not_fused_are_added_by_themselves(made, caplog, kind, name):
    changes, message = UNFUSED[name]
    layer = made(replace(SMALL, has_shared_a=name == "shared-factors"))
    if "local_token_lora_mapping" in changes:
        layer.set_slots(changes["local_token_lora_mapping"])
    wanted, context = layer.expected(), layer.context(**changes)

    found = [layer.run(kind, context) for _ in range(2)]

    check(found[0], wanted)
    assert torch.equal(*found)
    assert "main: vLLM's activation" in layer.streams.log
    assert [message in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("kind", ["triton", "marlin"])
def test_unknown_activation_is_not_fused(made, caplog, kind):
    layer = made(replace(SMALL, gate=Gate.GELU))

    check(layer.run(kind, layer.context()), layer.expected())

    assert "main: expand_activate" not in layer.streams.log
    assert any("the activation is MoEActivation.GELU" in line for line in caplog.messages)


@pytest.mark.parametrize("limit", [None, 5.0])
def test_activation_with_a_limit_is_taken_only_where_it_is_gpt_oss(made, limit):
    layer = made(SMALL)
    experts = layer.experts("triton", layer.context())
    experts.quant_config = SimpleNamespace(gemm1_clamp_limit=limit, gemm1_alpha=None)
    module = type(layer.activation)

    silu, oai = experts._gating(module.SILU), experts._gating(module.SWIGLUOAI)

    assert (silu is None) is (limit is not None)
    assert oai.limit == (limit or 7.0)
    assert oai.alpha == 1.702


REFUSED = {
    "rank": (replace(SMALL, rank=144), {}, {}, "rank 144 is over 128"),
    "fully-sharded": (SMALL, {"fully_sharded": True}, {}, "adapters are fully sharded"),
    "expert-map": (SMALL, {}, {"expert_map": torch.arange(5, dtype=torch.int32)}, "experts are spread over ranks"),
    "float32": (replace(SMALL, dtype=torch.float32), {}, {}, "the dtype is torch.float32"),
    "too-many-tokens": (replace(SMALL, tokens=8), {}, {}, "a batch has 8 tokens, and 7 were planned for"),
}


class Recorder:
    """In place of vLLM's own kernels: what they were asked for."""

    def __init__(self, monkeypatch, cuda_layers) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []
        for name in ("add_lora_w13", "add_lora_w2"):
            monkeypatch.setattr(cuda_layers.punica_gpu.PunicaWrapperGPU, name, self.of(name))

    def of(self, name: str):
        def record(_wrapper, *operands, **named):
            self.calls.append((name, named | {"handed": operands[5:8]}))
            return ("sorted", "experts", "padded", "mapping")

        return record


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", ["triton", "marlin"])
def test_what_the_kernels_do_not_take_runs_vllms_own(made, cuda_layers, monkeypatch, caplog, kind, name):
    case, changes, operands, message = REFUSED[name]
    recorder = Recorder(monkeypatch, cuda_layers)
    layer = made(case)
    layer.wrapper._max_tokens = SMALL.tokens
    context = layer.context(**changes)

    for _ in range(2):
        layer.run(kind, context, **operands)

    assert [call for call, _ in recorder.calls] == ["add_lora_w13", "add_lora_w2"] * 2
    assert recorder.calls[1][1]["handed"] == ("sorted", "experts", "padded")
    assert not any("route" in line for line in layer.streams.log)
    assert [message in line for line in caplog.messages] == [True]


def test_second_stream_of_vllms_own_runs_vllms_own(made, cuda_layers, monkeypatch, caplog):
    recorder = Recorder(monkeypatch, cuda_layers)
    layer = made(SMALL)

    layer.run("triton", layer.context(aux_stream=object(), events=(None,) * 4))

    assert [(call, named["add_inputs"]) for call, named in recorder.calls] == [
        ("add_lora_w13", False), ("add_lora_w2", False),
    ]  # fmt: skip
    assert len(caplog.messages) == 2
    assert "vLLM's own second stream is on" in caplog.messages[0]
    assert "deltas go into a buffer of their own" in caplog.messages[1]


def test_wrapper_of_another_kind_is_left_to_vllm(made, cuda_layers, monkeypatch, caplog):
    recorder = Recorder(monkeypatch, cuda_layers)
    layer = made(SMALL)
    wrapper = cuda_layers.punica_gpu.PunicaWrapperGPU(16, 16, "cpu", lora_config=layer.wrapper.lora_config)

    layer.run("triton", layer.context(punica_wrapper=wrapper))

    assert [call for call, _ in recorder.calls] == ["add_lora_w13", "add_lora_w2"]
    assert ["no GPU wrapper of ours" in line for line in caplog.messages] == [True]
