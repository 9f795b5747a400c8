"""The Triton kernels for linear layers, run from their source by Triton's interpreter on CPU tensors.

The interpreter must be chosen before triton is imported, and triton must not become visible to what else runs in this
process. So one child process runs every function named ``check_*`` of this file, and each is a test here. The same file
started by hand checks the compiled kernels: ``python test_dense_interpreted.py outcomes.json cuda bfloat16``.
"""

import json
import os
import subprocess
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from loractl_kernels.dense import DenseScratch, add_lora_linear, plan_tokens, warmup_tokens

ROOT = Path(__file__).parents[2]
DEVICE, DTYPE = "cpu", torch.float16  # the interpreter has no product of bf16
HALF_ULP = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass
class Layer:
    y: torch.Tensor
    x: torch.Tensor
    a: tuple[torch.Tensor, ...]
    b: tuple[torch.Tensor, ...]
    token_slot: torch.Tensor
    ranks: torch.Tensor | None = None
    scale: float = 1.0

    @property
    def is_base(self):
        return (self.token_slot < 0) | (self.token_slot >= self.a[0].shape[0])


def layer(tokens, in_features, outs, rank, slots, *, seed=0, is_integer=False, scale=1.0):
    """Return signed, zero-mean operands; a tenth of the slots and more are the base model's, some of them stale."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, size=1.0):
        if is_integer:
            return torch.randint(-2, 3, shape, generator=generator).to(DEVICE, DTYPE)
        return (torch.randn(shape, generator=generator) * size).to(DEVICE, DTYPE)

    a = tuple(draw(slots, 1, rank, in_features, size=in_features**-0.5) for _ in outs)
    b = tuple(draw(slots, 1, out, rank, size=rank**-0.5) for out in outs)
    token_slot = torch.randint(-1, slots + 1, (tokens,), generator=generator).to(DEVICE)
    return Layer(draw(tokens, sum(outs)), draw(tokens, in_features), a, b, token_slot, None, scale)


@cache
def scratch_of_all():
    return DenseScratch.allocate(max_tokens=1100, slots=255, max_columns=512, device=DEVICE)


def poisoned():
    scratch = scratch_of_all()
    scratch.shrunk.fill_(float("nan"))
    scratch.ints.fill_(-1 << 30)
    return scratch


def run(case, *, scratch=None, rows=None, token_slot=None, **options):
    """Return `y` after the kernels, for all rows or for `rows` as a batch of their own."""
    rows = torch.arange(case.x.shape[0], device=DEVICE) if rows is None else rows
    y, slots = case.y[rows].clone(), (case.token_slot if token_slot is None else token_slot)[rows]
    scratch = poisoned() if scratch is None else scratch
    add_lora_linear(
        y, case.x[rows], case.a, case.b, slots, scale=case.scale, ranks=case.ranks, scratch=scratch, **options
    )
    return y


def assert_close(case, found):
    """Hold `found` against fp64: output and rank vector are rounded once each, and sums in fp32 are a little off."""
    slots, rank = case.a[0].shape[0], case.a[0].shape[2]
    expected, bound = case.y.double(), torch.zeros_like(case.y, dtype=torch.float64)
    for slot in range(slots):
        rows = torch.where(case.token_slot == slot)[0]
        true = rank if case.ranks is None else int(case.ranks[slot])
        x = case.x[rows].double()
        a = [one[slot, 0, :true].double().t() for one in case.a]
        b = [one[slot, 0, :, :true].double().t() for one in case.b]
        expected[rows] += case.scale * torch.cat([x @ left @ right for left, right in zip(a, b, strict=True)], dim=1)
        rounded = [(x @ left).abs() @ right.abs() for left, right in zip(a, b, strict=True)]
        summed = [x.abs() @ left.abs() @ right.abs() for left, right in zip(a, b, strict=True)]
        bound[rows] = abs(case.scale) * (
            HALF_ULP[DTYPE] * torch.cat(rounded, dim=1) + 2.0**-18 * torch.cat(summed, dim=1)
        )
    bound += HALF_ULP[DTYPE] * (expected.abs() + bound) * (~case.is_base)[:, None] + 2.0**-24
    excess = (found.double() - expected).abs() - bound
    assert excess.numel() == 0 or excess.max() <= 0, f"{excess.max()} over the bound"
    assert torch.equal(found[case.is_base], case.y[case.is_base])


@contextmanager
def ordered_products():
    """Have the interpreter sum a product in order of k, as tensor cores do; numpy's order depends on the shape."""
    if DEVICE != "cpu":
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(_, a, b, d, *__):
        products = a.data.astype("float32")[:, :, None] * b.data.astype("float32")[None]
        return TensorHandle(d.data + products.sum(axis=1), d.dtype.scalar)

    before = InterpreterBuilder.create_dot
    InterpreterBuilder.create_dot = create_dot
    try:
        yield
    finally:
        InterpreterBuilder.create_dot = before


def check_every_size_matches_fp64():
    for tokens in (0, 1, 2, 15, 16, 17, 31, 64, 65, 97, 256, 257, 289, 1024, 1025):
        case = layer(tokens, 72, (40,), 8, 3, seed=tokens)

        assert_close(case, run(case))


def check_every_rank_matches_fp64():
    for rank in (1, 8, 17, 64, 128):
        for tokens in (19, 261):
            case = layer(tokens, 136, (48, 20, 20), rank, 2, seed=rank)

            assert_close(case, run(case))


def check_every_number_of_slices_matches_fp64():
    for outs in ((33,), (136, 7), (130, 16, 40), (8, 140, 24, 1)):
        for tokens in (21, 300):
            case = layer(tokens, 80, outs, 8, 2, seed=len(outs))

            assert_close(case, run(case))


def check_odd_and_long_inputs_match_fp64():
    for in_features in (1, 67, 128, 1100, 2880):
        for tokens in (9, 270):
            case = layer(tokens, in_features, (24,), 4, 2, seed=in_features)

            assert_close(case, run(case))


def check_the_scale_is_applied_once():
    for tokens in (5, 300):
        case = layer(tokens, 64, (32, 16), 8, 2, scale=-0.375)

        assert_close(case, run(case))


def check_many_slots_match_fp64():
    for slots, tokens in ((1, 40), (63, 100), (130, 40), (130, 65), (255, 70)):
        case = layer(tokens, 40, (24,), 2, slots, seed=slots)

        assert_close(case, run(case))


def check_one_adapter_for_all_tokens_matches_fp64():
    for slot in (0, 2, 7):
        for tokens in (100, 400):
            case = layer(tokens, 64, (32,), 8, 8)
            case.token_slot.fill_(slot)

            assert_close(case, run(case))


def check_a_batch_without_adapters_is_not_touched():
    for value in (-1, -7, 3, 4, 1 << 20):
        for tokens in (1, 100, 400):
            case = layer(tokens, 64, (32,), 8, 3)
            case.token_slot.fill_(value)

            assert torch.equal(run(case), case.y)


def check_slots_of_32_bits_do_as_well():
    for tokens in (30, 300):
        case = layer(tokens, 64, (32,), 8, 3)

        assert torch.equal(run(case, token_slot=case.token_slot.int()), run(case))


def check_nothing_beyond_the_true_rank_is_used():
    for rank in (8, 32):
        for tokens in (40, 300):
            case = layer(tokens, 64, (32, 16), rank, 4)
            case.ranks = torch.tensor([rank, 1, rank - 3, 5], dtype=torch.int32, device=DEVICE)
            for slot, true in enumerate(case.ranks.tolist()):
                for a, b in zip(case.a, case.b, strict=True):
                    a[slot, :, true:] = float("nan")
                    b[slot, :, :, true:] = float("nan")

            assert_close(case, run(case))


def check_small_integers_are_exact():
    for tokens in (1, 50, 270, 1030):
        case = layer(tokens, 8, (24, 40), 4, 3, is_integer=True)
        expected = case.y.clone()
        for slot in range(3):
            rows = torch.where(case.token_slot == slot)[0]
            parts = [case.x[rows].double() @ a[slot, 0].double().t() for a in case.a]
            deltas = [part @ b[slot, 0].double().t() for part, b in zip(parts, case.b, strict=True)]
            expected[rows] = (expected[rows].double() + torch.cat(deltas, dim=-1)).to(DTYPE)

        assert torch.equal(run(case), expected)


def check_a_row_does_not_depend_on_its_batch():
    case = layer(1030, 1100, (72, 40), 16, 2, seed=11)
    with ordered_products():
        whole = run(case)
        for count in (1, 16, 40, 200, 257, 1024):
            rows = torch.randperm(1030, generator=torch.Generator().manual_seed(count))[:count].to(DEVICE)
            assert torch.equal(run(case, rows=rows), whole[rows]), count


def check_a_changed_adapter_leaves_other_rows_alone():
    for tokens in (60, 400):
        case = layer(tokens, 200, (40, 24), 8, 3)
        before = run(case)
        for one in (*case.a, *case.b):
            one[1] = torch.randn_like(one[1].float()).to(DTYPE)
        after = run(case)

        is_changed = case.token_slot == 1
        assert torch.equal(after[~is_changed], before[~is_changed])
        assert not torch.equal(after[is_changed], before[is_changed])


def check_warm_up_names_a_batch_of_every_variant():
    from loractl_kernels._triton import dense as kernels

    assert warmup_tokens(8192, 8) == (16, 64, 256, 1024, 8192)
    assert warmup_tokens(48, 8) == (16, 48)
    assert warmup_tokens(900, 130) == (16, 64, 900)
    assert [kernels.is_small(tokens, 8) for tokens in (1, 256, 257)] == [True, True, False]
    assert [kernels.is_small(tokens, 130) for tokens in (64, 65)] == [True, False]


def check_a_scratch_serves_one_batch_after_another():
    scratch = poisoned()
    for tokens in (400, 30, 700, 260, 1):
        case = layer(tokens, 200, (40, 24), 8, 5, seed=tokens)

        assert_close(case, run(case, scratch=scratch))


def check_a_plan_serves_all_layers_of_a_batch():
    first, second = layer(400, 200, (40, 24), 8, 5), layer(400, 64, (56,), 16, 5, seed=1)
    second.token_slot = first.token_slot
    scratch = poisoned()
    plan_tokens(first.token_slot, slots=5, scratch=scratch)

    for case in (first, second):
        assert_close(case, run(case, scratch=scratch, is_planned=True))


def check_rows_may_lie_apart_in_memory():
    for tokens in (1, 20, 300):
        case = layer(tokens, 64, (40,), 8, 2)
        wide_y = torch.full((tokens, 99), 7.0, dtype=DTYPE, device=DEVICE)
        wide_x = torch.full((tokens, 80), 7.0, dtype=DTYPE, device=DEVICE)
        y, x = wide_y[:, 30:70], wide_x[:, 3:67]
        y.copy_(case.y)
        x.copy_(case.x)

        add_lora_linear(y, x, case.a, case.b, case.token_slot, scratch=poisoned())

        assert torch.equal(y, run(case))
        assert (wide_y[:, :30] == 7).all()
        assert (wide_y[:, 70:] == 7).all()


def gpu_check_a_graph_follows_its_mapping():
    for tokens in (1, 32, 200, 400, 1050):
        case = layer(tokens, 200, (40, 24), 8, 5)
        y, slots = case.y.clone(), case.token_slot.clone()
        add_lora_linear(y, case.x, case.a, case.b, slots, scratch=poisoned())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            add_lora_linear(y, case.x, case.a, case.b, slots, scratch=scratch_of_all())
        for seed in range(3):
            case.token_slot = layer(tokens, 200, (40, 24), 8, 5, seed=seed).token_slot
            y.copy_(case.y)
            slots.copy_(case.token_slot)
            poisoned()
            graph.replay()
            assert torch.equal(y, run(case))
            assert_close(case, y)


def gpu_check_warm_up_covers_every_batch():
    from loractl_kernels._triton import dense as kernels

    compiled = [getattr(kernels, name) for name in vars(kernels) if name.endswith("_kernel")]
    case = layer(1100, 208, (48, 32), 8, 5)
    for tokens in warmup_tokens(1100, 5):
        run(case, rows=torch.arange(tokens, device=DEVICE))
    before = [len(cache[0]) for kernel in compiled for cache in kernel.device_caches.values()]
    for tokens in (1, 2, 3, 16, 17, 48, 65, 255, 256, 257, 512, 1023, 1024, 1025, 1100):
        run(case, rows=torch.arange(tokens, device=DEVICE))
        add_lora_linear(
            case.y[-tokens:], case.x[-tokens:], case.a, case.b, case.token_slot[-tokens:], scratch=scratch_of_all()
        )
    assert before == [len(cache[0]) for kernel in compiled for cache in kernel.device_caches.values()]


CHECKS = sorted(name.removeprefix("check_") for name in globals() if name.startswith("check_"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    found = tmp_path_factory.mktemp("dense") / "outcomes.json"
    path = os.pathsep.join(map(str, (Path(sys.prefix) / "triton", ROOT / "kernels")))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    finished = subprocess.run([sys.executable, __file__, found], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(found.read_text())


@pytest.mark.parametrize("check", CHECKS)
def test_dense_kernels(outcomes, check):
    assert not outcomes[f"check_{check}"], outcomes[f"check_{check}"]


def outcome(name):
    try:
        globals()[name]()
    except Exception:  # noqa: BLE001  (every failure is a test's outcome)
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        DEVICE, DTYPE = sys.argv[2], getattr(torch, sys.argv[3])
    names = [
        name for name in dict(globals()) if name.startswith("check_") or (DEVICE != "cpu" and "gpu_check_" in name)
    ]
    found = {name: outcome(name) for name in names}
    Path(sys.argv[1]).write_text(json.dumps(found))
    if DEVICE != "cpu":
        print("\n".join(f"{'red  ' if wrong else 'green'} {name} {wrong}" for name, wrong in found.items()))
        sys.exit(any(found.values()))
