"""The layers that the tests of the kernels run on; `loractl_kernels.cases` makes them."""

from __future__ import annotations

from dataclasses import replace

import torch

from loractl_kernels.cases import Case, Layer, make_layer
from loractl_kernels.reference import Gate
from loractl_kernels.selfcheck import ODD_CASE

__all__ = ["BOUNDS_HERE", "INTERPRETED", "NARROW", "REAL_BOUNDS", "UNPLANNED", "Case", "Layer", "make_layer"]

BOUNDS_HERE = {"BY_PAIR": 4, "RANKED_PAIRS": 8, "SMALL_PAIRS": 16, "HIST_PAIRS": 32}
"""Up to how many pairs a batch is in which regime under the interpreter, whose time grows with the pairs."""

_TINY = Case(tokens=3, top_k=2, experts=3, slots=3, hidden=72, intermediate=40, rank=4, gate=Gate.SWIGLU_OAI, padding=8)
_TWO = replace(_TINY, slices=2, gate=Gate.SILU, hidden=136, rank=12, dtype=torch.float16)
_ODD = replace(
    ODD_CASE, top_k=2, experts=3, slots=3, hidden=72, intermediate=40, rank=12, off_slots=(1,), stale_share=0.25
)

INTERPRETED: dict[str, Case] = {
    "nothing": replace(_TINY, tokens=0),
    "one-token": replace(_TINY, tokens=1, top_k=1, base_share=0.0),
    "few": replace(_TINY, has_mixed_ranks=True),
    "few-two-slices": replace(_TWO, tokens=4, has_mixed_ranks=True),
    "small": replace(_ODD, tokens=7),
    "small-two-slices": replace(_TWO, tokens=8, has_mixed_ranks=True, missing_share=0.2),
    "one-past-small": replace(_TINY, tokens=17, top_k=1),
    "large": replace(_ODD, tokens=23),
    "large-two-slices": replace(_TWO, tokens=9, ids_dtype=torch.int64, is_skewed=True),
    "large-interleaved-two-slices": replace(_TINY, tokens=9, slices=2),
    "large-of-wide-rank": replace(_TINY, tokens=9, rank=40, experts=2, slots=2),
    "one-past-a-tile": replace(_TINY, tokens=33, top_k=1, expert=1, slots=1, base_share=0.0),
    "integers-few": replace(_TINY, is_integer=True, base_share=0.0),
    "integers-small": replace(_TWO, tokens=5, is_integer=True),
    "integers-large": replace(_ODD, tokens=9, is_integer=True),
    "all-base": replace(_TINY, tokens=11, base_share=1.0),
    "shared-a-and-empty-experts": replace(_TWO, tokens=5, has_shared_a=True, is_sparse=True, top_k=1),
}

UNPLANNED: dict[str, Case] = {
    "by-pair": replace(_ODD, tokens=7),
    "by-pair-of-mixed-ranks": replace(_TINY, tokens=4, top_k=3, has_mixed_ranks=True),
    "by-pair-two-slices": replace(_TWO, tokens=8, has_mixed_ranks=True, missing_share=0.2),
    "by-pair-interleaved-two-slices": replace(_TINY, tokens=5, slices=2),
    "by-pair-with-repeated-experts": replace(_TINY, tokens=5, expert=1, base_share=0.0),
    "by-pair-shared-a": replace(_TWO, tokens=5, has_shared_a=True, ids_dtype=torch.int64),
    "integers-by-pair": replace(_ODD, tokens=5, top_k=3, is_integer=True),
}
"""With the bounds as they are: of so few pairs each is a tile."""

REAL_BOUNDS: dict[str, Case] = {
    "most-that-one-program-ranks": replace(_TINY, tokens=64, top_k=4, hidden=32, intermediate=16, experts=4),
    "one-past-that": replace(_TINY, tokens=257, top_k=1, hidden=32, intermediate=16, slots=2),
}
"""These only for accuracy, with the bounds as they are."""

NARROW: dict[str, Case] = {
    "nothing": replace(ODD_CASE, tokens=0),
    "one-token": replace(ODD_CASE, tokens=1, top_k=1, base_share=0.0, stale_share=0.0),
    "odd": ODD_CASE,
    "two-slices": replace(ODD_CASE, slices=2, gate=Gate.SILU, tokens=37),
    "interleaved-two-slices": replace(ODD_CASE, slices=2),
    "gelu": replace(ODD_CASE, gate=Gate.GELU),
    "gelu-tanh": replace(ODD_CASE, gate=Gate.GELU_TANH),
    "float16": replace(ODD_CASE, dtype=torch.float16),
    "float32": replace(ODD_CASE, dtype=torch.float32),
    "one-expert": replace(ODD_CASE, expert=3),
    "empty-experts": replace(ODD_CASE, is_sparse=True, top_k=2),
    "shared-a": replace(ODD_CASE, has_shared_a=True),
    "skewed-int64": replace(ODD_CASE, is_skewed=True, ids_dtype=torch.int64),
    "all-base": replace(ODD_CASE, base_share=1.0),
    "rank-1": replace(ODD_CASE, rank=1),
    "integer": replace(ODD_CASE, is_integer=True),
}
"""Small enough for a loop in Python over every pair."""
