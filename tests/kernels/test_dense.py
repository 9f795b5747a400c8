"""LoRA on linear layers: the reference form against fp64, and what the contract refuses."""

import sys

import pytest
import torch

from loractl_kernels.dense import DenseScratch, add_lora_linear, padded_columns, plan_tokens
from loractl_kernels.errors import BackendError, DtypeError, ShapeError
from loractl_kernels.ops import Backend

OUTS = (24, 8, 8)
TOKENS, IN, RANK, SLOTS = 13, 40, 6, 3


def operands(outs=OUTS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    a = tuple(normal(SLOTS, 1, RANK, IN) for _ in outs)
    b = tuple(normal(SLOTS, 1, out, RANK) for out in outs)
    slots = torch.randint(-1, SLOTS + 1, (TOKENS,), generator=generator)
    return normal(TOKENS, sum(outs)), normal(TOKENS, IN), a, b, slots


def scratch(tokens=TOKENS, slots=SLOTS, columns=48):
    return DenseScratch.allocate(max_tokens=tokens, slots=slots, max_columns=columns, device="cpu")


def test_reference_matches_a_loop_over_tokens_in_fp64():
    y, x, a, b, slots = operands()
    expected = y.double()
    for token, slot in enumerate(slots.tolist()):
        if 0 <= slot < SLOTS:
            parts = [b[i][slot, 0].double() @ (a[i][slot, 0].double() @ x[token].double()) for i in range(len(a))]
            expected[token] += 0.5 * torch.cat(parts)

    add_lora_linear(y, x, a, b, slots, scale=0.5, backend=Backend.REFERENCE)

    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)


def test_reference_leaves_rows_without_an_adapter_as_they_are():
    y, x, a, b, slots = operands(dtype=torch.bfloat16)
    before = y.clone()

    add_lora_linear(y, x, a, b, slots, backend=Backend.REFERENCE)

    is_base = (slots < 0) | (slots >= SLOTS)
    assert torch.equal(y[is_base], before[is_base])
    assert not torch.equal(y[~is_base], before[~is_base])


def test_reference_never_uses_what_lies_beyond_the_true_rank():
    y, x, a, b, slots = operands()
    ranks = torch.tensor([6, 1, 4], dtype=torch.int32)
    for slot, rank in enumerate(ranks.tolist()):
        for one_a, one_b in zip(a, b, strict=True):
            one_a[slot, :, rank:] = float("nan")
            one_b[slot, :, :, rank:] = float("nan")

    add_lora_linear(y, x, a, b, slots, ranks=ranks, backend=Backend.REFERENCE)

    assert y.isfinite().all()


def test_reference_takes_no_tokens():
    y, x, a, b, slots = operands()

    add_lora_linear(y[:0], x[:0], a, b, slots[:0], backend=Backend.REFERENCE)


@pytest.mark.parametrize(("slices", "rank", "columns"), [(1, 1, 16), (3, 16, 48), (2, 17, 64), (4, 128, 512)], ids=str)
def test_padded_columns_are_powers_of_two_of_at_least_sixteen(slices, rank, columns):
    assert padded_columns(slices, rank) == columns


@pytest.mark.parametrize(
    ("change", "names"),
    [
        pytest.param(lambda o: o | {"x": o["x"][:, 1:]}, ("x", "13, 40", "13, 39"), id="in-features"),
        pytest.param(lambda o: o | {"y": o["y"][:, 1:]}, ("y", "13, 40", "13, 39"), id="out-features"),
        pytest.param(lambda o: o | {"y": o["y"].t().contiguous().t()}, ("y", "contiguous rows"), id="columns-first"),
        pytest.param(lambda o: o | {"y": o["y"][1:]}, ("y", "13, 40", "12, 40"), id="tokens"),
        pytest.param(lambda o: o | {"token_slot": o["token_slot"][1:]}, ("token_slot", "13", "12"), id="slots"),
        pytest.param(lambda o: o | {"a": o["a"][:2]}, ("a and b", "2, 3"), id="slices"),
        pytest.param(lambda o: o | {"a": (), "b": ()}, ("a and b", "0, 0"), id="no-slices"),
        pytest.param(lambda o: o | {"a": (o["a"][0][0], *o["a"][1:])}, ("a[0]", "1, 6, 40"), id="a-axes"),
        pytest.param(lambda o: o | {"a": (*o["a"][:2], o["a"][2][:2])}, ("a[2]", "3, 1, 6, 40", "2, 1"), id="a-like-a"),
        pytest.param(lambda o: o | {"b": (*o["b"][:2], o["b"][2][:2])}, ("b[2]", "3, 1", "2, 1, 8, 6"), id="b-like-a"),
        pytest.param(lambda o: o | {"ranks": torch.ones(2, dtype=torch.int32)}, ("ranks", "3", "2"), id="ranks"),
    ],
)
def test_operands_that_disagree_are_refused_by_name(change, names):
    names_of = dict(zip(("y", "x", "a", "b", "token_slot"), operands(), strict=True))

    with pytest.raises(ShapeError) as refused:
        add_lora_linear(**change(names_of), backend=Backend.REFERENCE)

    assert all(name in str(refused.value) for name in names)


def test_stacks_of_two_dtypes_are_refused():
    y, x, a, b, slots = operands()

    with pytest.raises(DtypeError, match=r"a\[1\], b\[1\]"):
        add_lora_linear(y, x, a, (b[0], b[1].half(), b[2]), slots, backend=Backend.REFERENCE)


def test_slots_that_are_no_integers_are_refused():
    y, x, a, b, slots = operands()

    with pytest.raises(DtypeError, match="token_slot must be int32 or int64"):
        add_lora_linear(y, x, a, b, slots.float(), backend=Backend.REFERENCE)


def test_triton_refuses_fp32():
    y, x, a, b, slots = operands()

    with pytest.raises(DtypeError, match="x must be bfloat16 or float16"):
        add_lora_linear(y, x, a, b, slots, scratch=scratch())


@pytest.mark.parametrize("name", ["y", "a and b"])
def test_triton_refuses_operands_of_two_dtypes(name):
    y, x, a, b, slots = operands(dtype=torch.float16)
    if name == "y":
        y = y.bfloat16()
    else:
        a, b = tuple(one.bfloat16() for one in a), tuple(one.bfloat16() for one in b)

    with pytest.raises(DtypeError, match=f"{name} must be torch.float16 like x"):
        add_lora_linear(y, x, a, b, slots, scratch=scratch())


def test_triton_refuses_a_rank_that_its_registers_do_not_hold():
    y, x, _, _, slots = operands(outs=(24,), dtype=torch.float16)
    a, b = torch.zeros(SLOTS, 1, 129, IN, dtype=x.dtype), torch.zeros(SLOTS, 1, 24, 129, dtype=x.dtype)

    with pytest.raises(BackendError, match="up to 128, and this stack has 129"):
        add_lora_linear(y, x, (a,), (b,), slots, scratch=scratch())


def test_triton_refuses_five_slices():
    y, x, a, b, slots = operands(outs=(8,) * 5, dtype=torch.float16)

    with pytest.raises(BackendError, match="up to 4 slices, and this layer has 5"):
        add_lora_linear(y, x, a, b, slots, scratch=scratch())


def test_triton_refuses_stacks_that_are_not_contiguous():
    y, x, a, b, slots = operands(dtype=torch.float16)
    strided = b[1].transpose(2, 3).contiguous().transpose(2, 3)

    with pytest.raises(ShapeError, match=r"b\[1\] must be contiguous"):
        add_lora_linear(y, x, a, (b[0], strided, b[2]), slots, scratch=scratch())


def test_triton_needs_a_scratch():
    y, x, a, b, slots = operands(dtype=torch.float16)

    with pytest.raises(BackendError, match="needs a scratch"):
        add_lora_linear(y, x, a, b, slots)


@pytest.mark.parametrize("small", [{"tokens": 12}, {"slots": 2}, {"columns": 47}], ids=str)
def test_triton_refuses_what_is_larger_than_its_scratch(small):
    y, x, a, b, slots = operands(dtype=torch.float16)

    with pytest.raises(ShapeError, match=r"scratch must be at most .*, and it is \[13, 3, 48\]"):
        add_lora_linear(y, x, a, b, slots, scratch=scratch(**small))


def test_a_plan_larger_than_the_scratch_is_refused():
    with pytest.raises(ShapeError, match=r"at most 13 tokens"):
        plan_tokens(torch.zeros(14, dtype=torch.int32), slots=SLOTS, scratch=scratch())


def test_without_triton_nothing_stands_in_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "loractl_kernels._triton.dense", None)
    y, x, a, b, slots = operands(dtype=torch.float16)
    before = y.clone()

    with pytest.raises(BackendError, match="needs the package triton"):
        add_lora_linear(y, x, a, b, slots, scratch=scratch())

    assert torch.equal(y, before)
