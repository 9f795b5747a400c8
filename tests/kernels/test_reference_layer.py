"""The reference back end against a loop over pairs and elements in float64, and by the checks of an installation."""

from __future__ import annotations

import math

import pytest
import torch
from kernels.cases import NARROW, make_layer

from loractl_kernels.exact import expected_layer, rounding_of
from loractl_kernels.ops import Backend
from loractl_kernels.reference import Gate
from loractl_kernels.selfcheck import check_case, outputs_of


def loop_delta(x, adapters, layer, *, is_interleaved):
    """Return [pairs][out_features] deltas, from nothing but the definition."""
    case = layer.case
    deltas = []
    for pair in range(layer.topk_ids.numel()):
        token, k = divmod(pair, case.top_k)
        slot, expert = int(layer.token_slot[token]), int(layer.topk_ids[token, k])
        if not 0 <= slot < case.slots or expert < 0 or not int(layer.slot_enabled[slot]):
            deltas.append(torch.zeros(adapters.out_features, dtype=torch.float64))
            continue
        row = x[token] if x.shape[0] == case.tokens else x[pair]
        rank = case.rank if adapters.ranks is None else int(adapters.ranks[slot])
        parts = []
        for a, b in zip(adapters.a, adapters.b, strict=True):
            vector = torch.stack([(a[slot, expert, r].double() * row.double()).sum() for r in range(rank)])
            parts.append((b[slot, expert, :, :rank].double() * vector).sum(dim=1))
        deltas.append(torch.stack(parts, dim=1).flatten() if is_interleaved else torch.cat(parts))
    return torch.stack(deltas) if deltas else torch.zeros(0, adapters.out_features, dtype=torch.float64)


def activated(gate, up, kind):
    if kind is Gate.SWIGLU_OAI:
        gate, up = min(gate, 7.0), max(-7.0, min(up, 7.0))
        return (up + 1) * gate / (1 + math.exp(-1.702 * gate))
    if kind is Gate.SILU:
        return up * gate / (1 + math.exp(-gate))
    if kind is Gate.GELU:
        return up * gate * 0.5 * (1 + math.erf(gate / math.sqrt(2)))
    return up * gate * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))


def loop_activation(gate_up, kind):
    """Return the activation of [rows, 2 * intermediate], an element at a time."""
    half = gate_up.shape[1] // 2
    places = [(2 * i, 2 * i + 1) if kind is Gate.SWIGLU_OAI else (i, half + i) for i in range(half)]
    rows = [[activated(row[gate], row[up], kind) for gate, up in places] for row in gate_up.tolist()]
    return torch.tensor(rows, dtype=torch.float64).view(-1, half)


def loop_total(w2, layer):
    total = torch.zeros(layer.case.tokens, layer.case.hidden, dtype=torch.float64)
    for pair in range(layer.topk_ids.numel()):
        token, k = divmod(pair, layer.case.top_k)
        if int(layer.topk_ids[token, k]) >= 0:
            total[token] += w2[pair]
    return total


@pytest.mark.parametrize("case", NARROW.values(), ids=NARROW)
def test_float64_layer_is_what_a_loop_gives(case):
    layer = make_layer(case)
    found = expected_layer(layer)

    w13 = layer.y13.double() + loop_delta(layer.x, layer.w13, layer, is_interleaved=False)
    gate_up = layer.y13.double() + loop_delta(layer.x, layer.w13, layer, is_interleaved=layer.gating.is_interleaved)
    weighted = layer.weight.flatten()[:, None].double() * loop_delta(layer.act, layer.w2, layer, is_interleaved=False)
    w2 = layer.y2.double() + weighted

    for name, wanted in {
        "w13": w13,
        "activation": loop_activation(gate_up, case.gate),
        "w2": w2,
        "total": loop_total(w2, layer),
    }.items():
        torch.testing.assert_close(
            getattr(found, name).value,
            wanted,
            rtol=1e-11,
            atol=1e-11,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("case", NARROW.values(), ids=NARROW)
def test_reference_passes_every_check(case):
    failed = [finding for finding in check_case(case, "cpu", Backend.REFERENCE) if not finding.passed]

    assert not failed


def test_bound_is_no_more_than_twice_the_largest_error_of_rounding_where_it_is_reached():
    layer = make_layer(NARROW["odd"])
    found, wanted = outputs_of(layer, Backend.REFERENCE), expected_layer(layer).total

    ratio = ((found.total.double() - wanted.value).abs() / wanted.bound).max()

    assert 0.5 < float(ratio) <= 1


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float32, 2**-24)])
def test_rounding_is_that_of_the_dtype(dtype, unit):
    values = torch.linspace(1, 4, 4001, dtype=torch.float64)
    error = ((values.to(dtype).double() - values).abs() / values).max()

    assert rounding_of(dtype)[0] == unit
    assert unit / 4 < float(error) <= unit


def test_a_wrong_sign_is_found():
    layer = make_layer(NARROW["odd"])
    wrong = layer.with_slot_changed(0)
    found, wanted = outputs_of(wrong, Backend.REFERENCE), expected_layer(layer)

    for name in ("w13", "activation", "w2", "total"):
        expected = getattr(wanted, name)
        error = (getattr(found, name).double() - expected.value).abs()
        assert bool((error > expected.bound).any()), name


def test_layers_are_the_same_each_time_and_signed():
    first, second = (make_layer(NARROW["float32"]) for _ in range(2))

    assert torch.equal(first.x, second.x)
    assert torch.equal(first.topk_ids, second.topk_ids)
    assert abs(float(first.x.mean())) < 0.1
    assert float(first.x.min()) < -1 < 1 < float(first.x.max())
