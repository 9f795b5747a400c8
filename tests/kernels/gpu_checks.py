"""The checks of an installation on real models' shapes and on every oddity, on a GPU: ``python gpu_checks.py``.

Needs no pytest, so that it runs where only loractl's kernels and torch are. Every function takes a device and returns
findings; the program prints those that failed, and the largest error beside its bound for each check.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from loractl_kernels.cases import Case
from loractl_kernels.ops import Backend
from loractl_kernels.reference import Gate
from loractl_kernels.selfcheck import MODEL_CASES, ODD_CASE, Finding, check_case

TOKENS = (0, 1, 2, 7, 16, 17, 33, 64, 65, 128, 257, 1024, 4096)
RANKS = (1, 4, 8, 16, 64, 128)
DTYPES = (torch.bfloat16, torch.float16)
GPT_OSS, QWEN, _ = MODEL_CASES


def _checked(cases: Iterable[Case], device: torch.device | str) -> Iterator[Finding]:
    backend = Backend.TRITON if torch.device(device).type == "cuda" else Backend.REFERENCE
    for case in cases:
        yield from check_case(case, device, backend)


def check_models(device: torch.device | str) -> Iterator[Finding]:
    """Check real shapes over batch sizes."""
    cases = itertools.product(MODEL_CASES, TOKENS)
    return _checked((replace(case, tokens=tokens, seed=tokens) for case, tokens in cases), device)


def check_float16(device: torch.device | str) -> Iterator[Finding]:
    """Check real shapes in float16."""
    cases = itertools.product(MODEL_CASES, (1, 33, 300, 1025))
    return _checked((replace(case, tokens=tokens, dtype=torch.float16) for case, tokens in cases), device)


def check_ranks(device: torch.device | str) -> Iterator[Finding]:
    """Check every rank, small and planned."""
    cases = itertools.product((replace(GPT_OSS, slots=4), replace(QWEN, slots=4)), RANKS, (5, 100))
    return _checked((replace(case, rank=rank, tokens=tokens) for case, rank, tokens in cases), device)


def check_oddities(device: torch.device | str) -> Iterator[Finding]:
    """Check, on narrow layers, each oddity in each dtype, layout and regime."""
    layouts = ({"slices": 1}, {"slices": 2, "gate": Gate.SILU}, {"slices": 2}, {"slices": 1, "gate": Gate.SILU})
    cheap = (
        {}, {"expert": 4}, {"is_sparse": True}, {"base_share": 1.0}, {"base_share": 0.0, "stale_share": 0.0},
        {"is_skewed": True, "ids_dtype": torch.int64},
    )  # fmt: skip
    compiled_anew = (
        {"is_integer": True, "rank": 16}, {"top_k": 1}, {"has_shared_a": True},
        {"hidden": 2056, "intermediate": 1000, "rank": 40},
    )  # fmt: skip
    mixed = [
        *itertools.product(DTYPES, layouts, cheap),
        *itertools.product(DTYPES[:1], layouts[:2], compiled_anew),
    ]
    cases = (
        replace(ODD_CASE, **{"dtype": dtype, "tokens": tokens} | layout | oddity)
        for (dtype, layout, oddity), tokens in itertools.product(mixed, (3, 31, 85, 86, 342))
    )
    return _checked(cases, device)


def check_skew(device: torch.device | str) -> Iterator[Finding]:
    """Check real shapes with half the rows of the base, Zipf's adapters, stale slots, and one expert for all."""
    changes = (
        {"base_share": 0.5, "has_mixed_ranks": True, "off_slots": (1, 3), "stale_share": 0.1, "missing_share": 0.05},
        {"is_skewed": True, "slots": 16, "ids_dtype": torch.int64}, {"expert": 7}, {"is_sparse": True},
        {"has_shared_a": True}, {"padding": 64},
    )  # fmt: skip
    cases = itertools.product((GPT_OSS, QWEN), changes, (20, 333))
    return _checked((replace(case, tokens=tokens, **change) for case, change, tokens in cases), device)


GROUPS = {
    "oddities": check_oddities, "models": check_models, "float16": check_float16, "ranks": check_ranks,
    "skew": check_skew,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the groups that are named, or all, and return 1 where a finding failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help="which; all if none is named")
    parser.add_argument("--device", default="cuda")
    chosen = parser.parse_args(arguments)
    has_failed = False
    for group in chosen.groups or GROUPS:
        nearest: dict[str, Finding] = {}
        counts: dict[str, int] = defaultdict(int)
        for finding in GROUPS[group](chosen.device):
            counts[finding.name] += 1
            if not finding.passed:
                has_failed = True
                print(f"FAILED {finding.name}: {finding.case}: {finding.worst:.3g} > {finding.bound:.3g}", flush=True)
            if finding.name not in nearest or _share(finding) > _share(nearest[finding.name]):
                nearest[finding.name] = finding
        for name, finding in nearest.items():
            measure = f"{finding.worst:.3g} of {finding.bound:.3g} allowed, {finding.case}" if finding.bound else ""
            print(f"{group}: {name}: {counts[name]} cases, {_share(finding):.2f} {measure}", flush=True)
    return int(has_failed)


def _share(finding: Finding) -> float:
    return finding.worst / finding.bound if finding.bound else finding.worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
