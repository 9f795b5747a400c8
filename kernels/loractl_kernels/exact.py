"""What the operations of a layer must give, in float64, with the largest error that their rounding rules allow.

With u the unit roundoff of the operands' dtype (2^-8 for bfloat16, 2^-11 for float16), the rules allow one rounding of
the rank vector ``v = A x``, one of the result ``y + w B v``, and sums in float32. So the error of a result z is at most

    u |z|  +  |w| sum_r |B_r| (u |v_r| + g(K) sum_k |A_rk x_k|)  +  g(R) |w| sum_r |B_r v_r|

and terms of second order, for which everything is widened by 1 %. For g(n), the relative error of a float32 sum of n
terms, we take ``4 sqrt(n) 2^-24``: the worst case ``n 2^-24`` is never near, and that of independent roundings with a
factor of 4 fails less than once in 10^3 sums of which all are extreme (Higham and Mary, 2019). Where float16 leaves its
normal range an absolute 2^-25 takes the place of u.

An activation f(gate) * up passes an error on with at most ``|f'| <= 1.13``, and rounds once or twice itself. A sum over
k adds up the errors of its terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor

from loractl_kernels.cases import Layer
from loractl_kernels.operands import Adapters
from loractl_kernels.reference import Gate

_WIDENED: Final = 1.01
_STEEPEST: Final = 1.13
"""Largest slope of silu, gelu and x * sigmoid(alpha x): 1.10, 1.13 and 1.10."""
_EXPONENTIAL: Final = 2.0**-18
"""Relative error of a fast exponential of up to 2^5 and a division in float32, twice over."""


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """A result in float64, with the largest error allowed for each element."""

    value: Tensor
    bound: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedLayer:
    """The results of the four operations that write one: see `loractl_kernels.selfcheck.Outputs`."""

    w13: Expected
    activation: Expected
    w2: Expected
    total: Expected


def expected_layer(layer: Layer) -> ExpectedLayer:
    """Return what a layer must give; a group of pairs at a time, in float64 on the layer's device."""
    unit, tiny = rounding_of(layer.case.dtype)
    is_interleaved = layer.gating.is_interleaved
    delta, slack = routed_delta(layer.x, layer.w13, layer, is_interleaved=False)
    w13 = _rounded(layer.y13.double() + delta, slack, unit, tiny)
    if is_interleaved and len(layer.w13.a) == 2:
        delta, slack = routed_delta(layer.x, layer.w13, layer, is_interleaved=True)
    gate_up = _rounded(layer.y13.double() + delta, slack, unit, tiny)
    delta, slack = routed_delta(layer.act, layer.w2, layer, is_interleaved=False)
    weight = layer.weight.flatten()[:, None].double()
    w2 = _rounded(layer.y2.double() + weight * delta, weight.abs() * slack, unit, tiny)
    return ExpectedLayer(w13, _activated(gate_up, layer, unit, tiny), w2, _summed(w2, layer, unit, tiny))


def rounding_of(dtype: torch.dtype) -> tuple[float, float]:
    """Return the unit roundoff of `dtype`, and its largest rounding error below its normal range."""
    limits = torch.finfo(dtype)
    return limits.eps / 2, limits.smallest_normal * limits.eps / 2


def routed_delta(x: Tensor, adapters: Adapters, layer: Layer, *, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    """Return the deltas of all pairs, [pairs, out_features] float64, 0 without an adapter, and their largest errors."""
    keys = layer.keys()
    delta = torch.zeros(keys.numel(), adapters.out_features, dtype=torch.float64, device=x.device)
    slack = torch.zeros_like(delta)
    top_k = layer.case.top_k if x.shape[0] == layer.case.tokens else 1
    found = cast("list[int]", torch.unique(keys).tolist())  # pyright: ignore[reportUnknownMemberType]  (torch's stub)
    for key in found:
        if key >= 0:
            pairs = torch.where(keys == key)[0]
            slot, expert = divmod(key, layer.case.experts)
            products = [_product(x[pairs // top_k], adapters, index, slot, expert) for index in range(len(adapters.a))]
            for target, parts in zip((delta, slack), zip(*products, strict=True), strict=True):
                target[pairs] = torch.stack(parts, -1).flatten(1) if is_interleaved else torch.cat(parts, -1)
    return delta, slack


def _product(x: Tensor, adapters: Adapters, index: int, slot: int, expert: int) -> tuple[Tensor, Tensor]:
    """Return B A x of one slice for the rows of one group, and its largest error."""
    unit, tiny = rounding_of(x.dtype)
    rank = adapters.rank if adapters.ranks is None else int(adapters.ranks[slot])
    a, b = adapters.a[index][slot, expert, :rank].double(), adapters.b[index][slot, expert, :, :rank].double()
    inputs = x.double()
    vector = inputs @ a.t()
    error = unit * vector.abs() + tiny + _sum_error(x.shape[1]) * (inputs.abs() @ a.abs().t())
    return vector @ b.t(), (error + _sum_error(rank) * vector.abs()) @ b.abs().t()


def _sum_error(terms: int) -> float:
    return 4 * math.sqrt(terms) * 2.0**-24


def _rounded(value: Tensor, slack: Tensor, unit: float, tiny: float) -> Expected:
    """Return a result that is rounded once; without slack it is the base's own value, which has no error."""
    bound = torch.where(slack > 0, _WIDENED * (slack + unit * value.abs() + tiny), 0.0)
    return Expected(value, bound)


def _activated(gate_up: Expected, layer: Layer, unit: float, tiny: float) -> Expected:
    gating = layer.gating
    (gate, up), (gate_error, up_error) = (
        (wide[:, ::2], wide[:, 1::2]) if gating.is_interleaved else wide.chunk(2, dim=1)
        for wide in (gate_up.value, gate_up.bound)
    )
    match gating.gate:
        case Gate.SWIGLU_OAI:
            gate = gate.clamp(max=gating.limit)
            up = up.clamp(-gating.limit, gating.limit) + gating.beta
            factor = gate * torch.sigmoid(gate * gating.alpha)
        case Gate.SILU:
            factor = torch.nn.functional.silu(gate)
        case Gate.GELU:
            factor = torch.nn.functional.gelu(gate)
        case Gate.GELU_TANH:
            factor = torch.nn.functional.gelu(gate, approximate="tanh")
    value = factor * up
    passed_on = _STEEPEST * gate_error * (up.abs() + up_error) + factor.abs() * up_error
    own = (2 * unit + _EXPONENTIAL) * value.abs() + tiny * (1 + up.abs())
    return Expected(value, _WIDENED * (passed_on + own))


def _summed(w2: Expected, layer: Layer, unit: float, tiny: float) -> Expected:
    shape = (layer.case.tokens, layer.case.top_k, -1) if layer.case.tokens else (0, 1, w2.value.shape[1])
    is_routed = (layer.topk_ids >= 0).unsqueeze(-1)
    terms = torch.where(is_routed, w2.value.view(shape), 0.0)
    errors = torch.where(is_routed, w2.bound.view(shape), 0.0).sum(1)
    value = terms.sum(1)
    own = unit * value.abs() + tiny + _sum_error(layer.case.top_k) * terms.abs().sum(1)
    return Expected(value, _WIDENED * (errors + own))
