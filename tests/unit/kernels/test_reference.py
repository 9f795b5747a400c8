"""The reference operations against a double loop in float64."""

from __future__ import annotations

import math

import pytest
import torch

from loractl_kernels import Gate, ShapeError, add_routed_delta, gated_activation, routed_linear, sum_top_k

# One rounding of the result, and sums in fp32 over at most 131 + 8 terms of order one.
ABSOLUTE = {torch.float32: 2e-4, torch.bfloat16: 2e-1, torch.float16: 3e-2}
RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}

SHAPES = [
    pytest.param(0, 2, 4, 8, 16, 24, id="no-pairs"),
    pytest.param(1, 1, 1, 1, 1, 1, id="all-ones"),
    pytest.param(1, 2, 4, 8, 64, 48, id="one-pair"),
    pytest.param(37, 3, 7, 5, 131, 29, id="primes"),
    pytest.param(130, 3, 4, 8, 32, 96, id="many-pairs"),
]


def signed(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return zero-mean values of both signs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def choices(count: int, low: int, high: int, seed: int) -> torch.Tensor:
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))


def naive_delta(out, x, a, b, slots, experts, weights):
    result = out.double().clone()
    for pair in range(x.shape[0]):
        slot, expert = int(slots[pair]), int(experts[pair])
        if slot < 0:
            continue
        weight = 1.0 if weights is None else float(weights[pair])
        for row in range(result.shape[1]):
            vector = a[slot, expert].double() @ x[pair].double()
            result[pair, row] += weight * float(b[slot, expert, row].double() @ vector)
    return result


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(
        found.double(), wanted, atol=ABSOLUTE[found.dtype], rtol=RELATIVE[found.dtype], check_dtype=False
    )


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("pairs", "slots", "experts", "rank", "width", "height"), SHAPES)
def test_delta_matches_a_double_loop(pairs, slots, experts, rank, width, height, dtype, is_weighted):
    out = signed(pairs, height, seed=1, dtype=dtype)
    x = signed(pairs, width, seed=2, dtype=dtype)
    a = signed(slots, experts, rank, width, seed=3, dtype=dtype)
    b = signed(slots, experts, height, rank, seed=4, dtype=dtype)
    pair_slot, pair_expert = choices(pairs, -1, slots, 5), choices(pairs, 0, experts, 6)
    weights = torch.rand(pairs, generator=torch.Generator().manual_seed(7)) if is_weighted else None
    wanted = naive_delta(out, x, a, b, pair_slot, pair_expert, weights)

    add_routed_delta(out, x, a, b, pair_slot, pair_expert, pair_weight=weights)

    assert_close(out, wanted)


@pytest.mark.parametrize("expert", [0, 3])
def test_delta_with_every_pair_on_one_expert_and_the_others_empty(expert):
    out, x = signed(19, 16, seed=1), signed(19, 32, seed=2)
    a, b = signed(2, 4, 8, 32, seed=3), signed(2, 4, 16, 8, seed=4)
    pair_slot, pair_expert = choices(19, 0, 2, 5), torch.full((19,), expert)
    wanted = naive_delta(out, x, a, b, pair_slot, pair_expert, None)

    add_routed_delta(out, x, a, b, pair_slot, pair_expert)

    assert_close(out, wanted)


def test_delta_with_an_a_that_all_experts_share():
    shared = signed(2, 1, 8, 32, seed=3)
    out, x, b = signed(11, 16, seed=1), signed(11, 32, seed=2), signed(2, 4, 16, 8, seed=4)
    pair_slot, pair_expert = choices(11, 0, 2, 5), choices(11, 0, 4, 6)
    wanted = naive_delta(out, x, shared.repeat(1, 4, 1, 1), b, pair_slot, pair_expert, None)

    add_routed_delta(out, x, shared.expand(-1, 4, -1, -1), b, pair_slot, pair_expert)

    assert_close(out, wanted)


def test_delta_of_interleaved_columns_goes_where_the_view_points():
    whole, x = signed(9, 32, seed=1), signed(9, 24, seed=2)
    a, b = signed(1, 2, 4, 24, seed=3), signed(1, 2, 16, 4, seed=4)
    slots, experts = torch.zeros(9, dtype=torch.long), choices(9, 0, 2, 6)
    up_before = whole[:, 1::2].clone()
    wanted = naive_delta(whole[:, ::2], x, a, b, slots, experts, None)

    add_routed_delta(whole[:, ::2], x, a, b, slots, experts)

    assert_close(whole[:, ::2].contiguous(), wanted)
    assert torch.equal(whole[:, 1::2], up_before)


def test_base_rows_stay_bit_identical_down_to_the_sign_of_zero():
    out = signed(8, 16, seed=1)
    out[::2] = -0.0
    before = out.clone()
    pair_slot = torch.tensor([-1, -1, 0, 1, -1, -1, 0, -1])

    add_routed_delta(
        out,
        signed(8, 32, seed=2),
        signed(2, 3, 4, 32, seed=3),
        signed(2, 3, 16, 4, seed=4),
        pair_slot,
        choices(8, 0, 3, 6),
    )

    base = pair_slot < 0
    assert torch.equal(out[base].view(torch.int32), before[base].view(torch.int32))
    assert not torch.equal(out[~base], before[~base])


def test_another_adapters_weights_leave_a_row_bit_identical():
    x, b = signed(12, 32, seed=2), signed(2, 3, 16, 4, seed=4)
    first = signed(2, 3, 4, 32, seed=3)
    second = first.clone()
    second[1] = signed(3, 4, 32, seed=9)
    slots, experts = torch.tensor([0, 1] * 6), choices(12, 0, 3, 6)
    ours, theirs = torch.zeros(12, 16), torch.zeros(12, 16)

    add_routed_delta(ours, x, first, b, slots, experts)
    add_routed_delta(theirs, x, second, b, slots, experts)

    assert torch.equal(ours[slots == 0], theirs[slots == 0])
    assert not torch.equal(ours[slots == 1], theirs[slots == 1])


def test_bfloat16_sums_are_kept_in_fp32_and_rounded_once():
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    a = torch.full((1, 1, 1, 4096), 1.0, dtype=torch.bfloat16)
    b = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    out = torch.full((1, 1), 3.0, dtype=torch.bfloat16)

    add_routed_delta(out, x, a, b, torch.tensor([0]), torch.tensor([0]))

    # In bfloat16 a running sum of ones stops growing at 256.
    assert out.item() == torch.tensor(4099.0).bfloat16().item()


@pytest.mark.parametrize(
    ("operand", "change"),
    [
        ("lora_a", {"a": (2, 3, 4, 31)}),
        ("lora_b", {"b": (2, 3, 16, 5)}),
        ("lora_b", {"b": (2, 2, 16, 4)}),
        ("out", {"out": (7, 16)}),
        ("pair_slot", {"slots": (7,)}),
        ("pair_expert", {"experts": (9,)}),
        ("pair_weight", {"weights": (3,)}),
    ],
)
def test_operands_that_disagree_are_refused_with_both_shapes(operand, change):
    shapes = {"out": (8, 16), "x": (8, 32), "a": (2, 3, 4, 32), "b": (2, 3, 16, 4)}
    shapes |= {"slots": (8,), "experts": (8,), "weights": (8,)} | change
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}

    with pytest.raises(ShapeError) as caught:
        add_routed_delta(
            tensors["out"],
            tensors["x"],
            tensors["a"],
            tensors["b"],
            tensors["slots"].long(),
            tensors["experts"].long(),
            pair_weight=tensors["weights"],
        )

    assert caught.value.operand == operand
    assert str(list(next(iter(change.values())))) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 13])
def test_silu_gate_matches_its_formula(rows, dtype):
    gate_up = signed(rows, 2 * 7, seed=1, dtype=dtype)
    gate, up = gate_up.double()[:, :7], gate_up.double()[:, 7:]

    found = gated_activation(gate_up, Gate.SILU)

    assert_close(found, gate / (1 + torch.exp(-gate)) * up)


def test_gelu_gates_match_their_formulas():
    gate_up = signed(13, 14, seed=1)
    gate, up = gate_up.double()[:, :7], gate_up.double()[:, 7:]
    exact = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    approximate = gate * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))

    assert_close(gated_activation(gate_up, Gate.GELU), exact * up)
    assert_close(gated_activation(gate_up, Gate.GELU_TANH), approximate * up)


def test_swiglu_oai_is_interleaved_and_clamps_gate_above_and_up_on_both_sides():
    gate_up = signed(17, 2 * 11, seed=1) * 8
    gate, up = gate_up.double()[:, ::2].clamp(max=7.0), gate_up.double()[:, 1::2].clamp(-7.0, 7.0)

    found = gated_activation(gate_up, Gate.SWIGLU_OAI)

    assert_close(found, (up + 1) * gate / (1 + torch.exp(-1.702 * gate)))


def test_an_odd_number_of_columns_is_refused():
    with pytest.raises(ShapeError, match="gate_up"):
        gated_activation(torch.zeros(2, 5), Gate.SILU)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("pairs", [0, 1, 23])
def test_routed_linear_matches_a_double_loop(pairs, has_bias):
    x, weight = signed(pairs, 31, seed=1), signed(5, 13, 31, seed=2)
    bias = signed(5, 13, seed=3) if has_bias else None
    experts = choices(pairs, 0, 4, 4)  # the last expert stays empty
    wanted = torch.zeros(pairs, 13, dtype=torch.double)
    for pair in range(pairs):
        wanted[pair] = weight[experts[pair]].double() @ x[pair].double()
        if bias is not None:
            wanted[pair] += bias[experts[pair]].double()

    assert_close(routed_linear(x, weight, bias, experts), wanted)


def test_routed_linear_refuses_a_weight_of_another_width():
    with pytest.raises(ShapeError, match="weight"):
        routed_linear(torch.zeros(2, 8), torch.zeros(3, 4, 7), None, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(("tokens", "top_k"), [(0, 4), (1, 1), (5, 8)])
def test_top_k_sum_is_in_fp32(tokens, top_k):
    y = signed(tokens, top_k, 9, seed=1, dtype=torch.bfloat16)

    assert_close(sum_top_k(y), y.double().sum(dim=1))
