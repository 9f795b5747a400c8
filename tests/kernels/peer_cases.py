"""The matrices of tests/lora/test_fused_moe_lora_kernel.py, vLLM 0.32's own MoE-LoRA kernel test, at its tolerances.

Operands and reference are of our own making. Left out is what our operations do not have: ranks of 256, which they
refuse; outputs that are overwritten instead of added to; shards over two GPUs; and the peer's block sizes.

``python -m kernels.peer_cases SHARE SHARES`` runs every SHARES-th group of cases from SHARE on and prints one JSON
object a case. A group is what one set of compiled kernels serves, so no two shares compile the same. On CUDA it runs
all cases, under Triton's interpreter a few of them cut down.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loractl_kernels import ops
from loractl_kernels.operands import Adapters, Scratch
from loractl_kernels.ops import Backend

_DTYPES = (torch.float16, torch.bfloat16)
_MOST_GATHERED = 256  # pairs whose weights the reference copies at once


@dataclass(frozen=True, slots=True)
class PeerCase:
    """One call of the peer's test.

    Attributes:
        n: Columns of the output, of all slices together.
        k: Columns of the input.
        tolerance: Absolute and relative.
        sequences: Runs of tokens, each wholly on one adapter.
        has_residual: Whether the deltas are added to random values instead of zeros.
        is_mapped: Whether the tokens have adapters.
        is_on: Whether the adapters do.
    """

    matrix: str
    tokens: int
    top_k: int
    experts: int
    adapters: int
    rank: int
    slices: int
    dtype: torch.dtype
    n: int = 1408
    k: int = 2048
    tolerance: float = 1e-2
    sequences: int = 4
    has_residual: bool = False
    is_mapped: bool = True
    is_on: bool = True

    @property
    def label(self) -> str:
        """Sizes that tell the cases apart."""
        dtype = str(self.dtype).removeprefix("torch.")
        sizes = f"M{self.tokens}-k{self.top_k}-E{self.experts}-L{self.adapters}-r{self.rank}x{self.slices}"
        return f"{self.matrix}-{sizes}-{dtype}"

    @property
    def compiled_for(self) -> tuple[object, ...]:
        """What the kernels are compiled for, the batch aside."""
        return (self.top_k, self.experts, self.adapters, self.rank, self.slices, str(self.dtype), self.n, self.k)


def _matrix(
    name: str, *sizes: Sequence[int], dtypes: Sequence[torch.dtype] = _DTYPES, **rest: object
) -> Iterator[PeerCase]:
    """Yield a case for each choice of tokens, top_k, experts, adapters, rank, slices and dtype."""
    for values in itertools.product(*sizes, dtypes):
        yield PeerCase(name, *values, **rest)


_NPID = {"n": 2048, "k": 4096, "tolerance": 2e-2, "dtypes": _DTYPES[1:]}
_IDLE = {"n": 1024, "k": 1024, "tolerance": 0.0, "dtypes": _DTYPES[1:], "has_residual": True}
MATRIX = (
    *_matrix("main", (100,), (6, 12), (64,), (4, 6, 16), (16, 32, 64), (1, 2), sequences=10),
    *_matrix("naive", (1, 2, 4, 8), (1, 2), (64, 128), (4, 8), (16, 32), (1, 2)),
    *_matrix("large-rank", (8,), (2,), (4,), (2,), (128,), (1, 2), n=256, k=256, tolerance=2e-2, has_residual=True),
    *_matrix("small-rank", (16, 100), (2,), (8, 64), (4,), (4, 8), (1, 2), sequences=8),
    *_matrix("npid", (16, 64), (2,), (8,), (4,), (8, 16, 32, 64), (2,), **_NPID),
    *_matrix("unmapped", (32,), (2,), (8,), (4,), (16,), (2,), is_mapped=False, **_IDLE),
    *_matrix("unmapped", (8,), (2,), (64,), (8,), (16,), (2,), is_mapped=False, **_IDLE),
    *_matrix("disabled", (32,), (2,), (8,), (4,), (32,), (2,), is_on=False, **_IDLE),
)

# Under the interpreter: of each matrix every so manyth case, its sizes no larger than these.
_THINNED = {"main": 11, "naive": 37, "large-rank": 3, "small-rank": 7, "npid": 3, "unmapped": 1, "disabled": 1}
_CUT = {"n": 96, "k": 256, "tokens": 10, "experts": 12}


def cases_on(device: str) -> tuple[PeerCase, ...]:
    """Return all cases on CUDA, and elsewhere some of them with fewer rows and columns."""
    if device == "cuda":
        return MATRIX
    found: dict[str, PeerCase] = {}
    for matrix, step in _THINNED.items():
        for case in [case for case in MATRIX if case.matrix == matrix][::step]:
            small = replace(case, **{name: min(size, getattr(case, name)) for name, size in _CUT.items()})
            found[small.label] = small
    return tuple(found.values())


def share_of(cases: tuple[PeerCase, ...], share: int, shares: int) -> list[PeerCase]:
    """Return the cases of one share; those that share compiled kernels are in one."""
    groups = list(dict.fromkeys(case.compiled_for for case in cases))
    own = set(groups[share::shares])
    return [case for case in cases if case.compiled_for in own]


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """Operands of a case.

    Attributes:
        x: [tokens, k].
        adapters: A stack a slice.
        topk_ids: [tokens, top_k] int32, distinct experts.
        token_slot: [tokens] int32.
        before: [pairs, n], what the deltas are added to.
    """

    x: Tensor
    adapters: Adapters
    topk_ids: Tensor
    token_slot: Tensor
    before: Tensor


def operands_of(case: PeerCase, device: str) -> Operands:
    """Return values between 0 and 1, as the peer's test has them, from a seed of the case's label."""
    random = torch.Generator(device).manual_seed(sum(case.label.encode()))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device=device, dtype=case.dtype)

    slots, experts = case.adapters, case.experts
    a = tuple(uniform(slots, experts, case.rank, case.k) for _ in range(case.slices))
    b = tuple(uniform(slots, experts, case.n // case.slices, case.rank) for _ in range(case.slices))
    sequences = min(case.tokens, case.sequences)
    sequence_slot = torch.randint(0, slots, (sequences,), generator=random, device=device)
    token_slot = sequence_slot[torch.arange(case.tokens, device=device) * sequences // case.tokens]
    if not case.is_mapped:
        token_slot.fill_(-1)
    order = torch.rand(case.tokens, experts, generator=random, device=device).argsort(dim=1)
    before = torch.zeros(case.tokens * case.top_k, case.n, dtype=case.dtype, device=device)
    if case.has_residual:
        before.normal_(generator=random)
    ids = order[:, : case.top_k].contiguous().int()
    return Operands(uniform(case.tokens, case.k), Adapters(a, b), ids, token_slot.int(), before)


def expected(case: PeerCase, operands: Operands) -> Tensor:
    """Return [pairs, n] ``x @ A.T @ B.T`` a pair, each product rounded to the case's dtype, added to what was there."""
    if not (case.is_mapped and case.is_on):
        return operands.before
    pairs = torch.arange(case.tokens * case.top_k, device=operands.x.device)
    parts: list[Tensor] = []
    for some in pairs.split(_MOST_GATHERED):
        token = some // case.top_k
        slot, expert = operands.token_slot[token].long(), operands.topk_ids.flatten()[some].long()
        row = operands.x[token].unsqueeze(1)
        stacks = zip(operands.adapters.a, operands.adapters.b, strict=True)
        deltas = [(row @ a[slot, expert].mT @ b[slot, expert].mT).squeeze(1) for a, b in stacks]
        parts.append(torch.cat(deltas, dim=-1))
    return operands.before + torch.cat(parts)


def found(case: PeerCase, operands: Operands) -> Tensor:
    """Return what the Triton kernels make of it."""
    scratch = Scratch.allocate(
        max_tokens=case.tokens, top_k=case.top_k, experts=case.experts, slots=case.adapters,
        max_columns=operands.adapters.columns, device=operands.x.device,
    )  # fmt: skip
    is_on = torch.full((case.adapters,), int(case.is_on), dtype=torch.int32, device=operands.x.device)
    routing = ops.route(
        operands.topk_ids, operands.token_slot, is_on,
        experts=case.experts, slots=case.adapters, scratch=scratch, backend=Backend.TRITON,
    )  # fmt: skip
    y = operands.before.clone()
    ops.expand_add(y, ops.shrink(operands.x, operands.adapters, routing), operands.adapters, routing)
    return y


def difference(case: PeerCase, device: str) -> str:
    """Return where the kernels are further from the reference than the peer allows, or nothing."""
    operands = operands_of(case, device)
    try:
        torch.testing.assert_close(
            found(case, operands), expected(case, operands), atol=case.tolerance, rtol=case.tolerance
        )
    except AssertionError as error:
        return str(error)
    return ""


def main(arguments: list[str]) -> None:
    """Run one share of the cases."""
    share, shares = map(int, arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        from kernels.interpreting import mend_bfloat16, spare_searches  # it imports triton

        torch.set_num_threads(1)
        mend_bfloat16()
        spare_searches()
    for case in share_of(cases_on(device), share, shares):
        print(json.dumps({"case": case.label, "difference": difference(case, device)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
