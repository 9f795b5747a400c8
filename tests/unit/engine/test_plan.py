from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.preflight import CONFIGS

from loractl.engine.plan import DEFAULT_SLOTS, Device, EnginePlan, PlanError, plan_engine
from loractl_registry import (
    AdapterFacts,
    AdapterVersion,
    Base,
    ExpertLayout,
    Provenance,
    ServingSnapshot,
    Stage,
    VersionRef,
)
from loractl_registry.preflight import RANK_LADDER, read_base_shape, slot_bytes

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30


BOTH = (ExpertLayout.PER_EXPERT, ExpertLayout.FUSED)


def a_version(number=1, *, rank=8, modules=("q_proj", "v_proj"), experts=ExpertLayout.NONE, size=10**6):
    facts = AdapterFacts(rank, 16.0, tuple(modules), experts, 4, "bfloat16", None)
    return AdapterVersion(
        ref=VersionRef("bot", number),
        stage=Stage.LIVE,
        digest="sha256:0",
        path=Path("/store"),
        size_bytes=size,
        base="base",
        base_digest="sha256:1",
        facts=facts,
        provenance=Provenance("/adapter"),
        added_at=NOW,
        added_by="me",
    )


def on_experts(number=1, layout=ExpertLayout.PER_EXPERT, **changes):
    return a_version(number, modules=("experts",), experts=layout, **changes)


def a_snapshot(*versions, config=CONFIGS["qwen3_moe"], base_size=10**6):
    base = Base("base", "sha256:1", Path("/base"), "/base", None, base_size, 3, NOW, "me", config)
    return ServingSnapshot(1, base, tuple(versions), {})


def plan_of(*versions, device=Device.CUDA, max_adapters=None, max_rank=None, **snapshot):
    return plan_engine(a_snapshot(*versions, **snapshot), device=device, max_adapters=max_adapters, max_rank=max_rank)


@pytest.mark.parametrize(("count", "slots"), [(0, 1), (1, 2), (6, 7), (7, 8), (8, 8), (500, 8)])
def test_slots_are_one_more_than_versions_up_to_eight(count, slots):
    assert plan_of(*(a_version(number) for number in range(1, count + 1))).slots == slots


@pytest.mark.parametrize("asked", [1, 3, 64])
def test_slots_are_as_asked(asked):
    plan = plan_of(*(a_version(number) for number in range(1, 5)), max_adapters=asked)

    assert plan.slots == asked
    assert plan.host_slots >= plan.slots


@pytest.mark.parametrize("asked", [0, -1])
def test_no_slots_are_refused(asked):
    with pytest.raises(PlanError, match=str(asked)) as caught:
        plan_of(a_version(), max_adapters=asked)
    assert "--max-adapters" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("ranks", "rung"), [([1], 1), ([2], 8), ([8, 9], 16), ([64, 3], 64), ([257], 320), ([512], 512)]
)
def test_rank_is_the_lowest_rung_that_takes_all(ranks, rung):
    assert plan_of(*(a_version(number, rank=rank) for number, rank in enumerate(ranks, 1))).max_rank == rung


def test_rank_as_asked_is_taken_up_the_ladder():
    assert plan_of(a_version(rank=8), max_rank=100).max_rank == 128


def test_rank_below_a_servable_version_is_refused_naming_it():
    with pytest.raises(PlanError, match="bot@2 has rank 32") as caught:
        plan_of(a_version(1), a_version(2, rank=32), max_rank=16)
    assert "--max-rank 32" in (caught.value.hint or "")


@pytest.mark.parametrize("asked", [0, 513])
def test_rank_off_the_ladder_is_refused(asked):
    with pytest.raises(PlanError, match=str(asked)):
        plan_of(max_rank=asked)


def test_modules_are_those_that_versions_touch():
    assert plan_of(a_version(1), on_experts(2)).modules == ("experts", "q_proj", "v_proj")


@pytest.mark.parametrize(
    ("kind", "found", "layouts", "is_mixed"),
    [
        ("qwen3_moe", [ExpertLayout.PER_EXPERT], (ExpertLayout.PER_EXPERT,), False),
        ("qwen3_moe", [ExpertLayout.FUSED], BOTH, True),
        ("qwen3_moe", [*BOTH], BOTH, True),
        ("qwen3_moe", [ExpertLayout.NONE], (), False),
        ("qwen3_moe", [], BOTH, True),
        ("gpt_oss", [ExpertLayout.FUSED], (ExpertLayout.FUSED,), False),
        ("gpt_oss", [ExpertLayout.NONE], (), False),
        ("gpt_oss", [], (ExpertLayout.FUSED,), False),
        ("llama", [ExpertLayout.NONE], (), False),
        ("llama", [], (), False),
    ],
)
def test_layouts_are_those_of_the_versions(kind, found, layouts, is_mixed):
    versions = [
        a_version(number) if layout is ExpertLayout.NONE else on_experts(number, layout)
        for number, layout in enumerate(found, 1)
    ]

    plan = plan_of(*versions, config=CONFIGS[kind])

    assert (plan.layouts, plan.is_mixed) == (layouts, is_mixed)


def test_base_without_versions_is_planned_open():
    plan = plan_of()

    assert (plan.slots, plan.max_rank, plan.modules) == (1, 16, ())
    assert plan.refusal_of(on_experts(layout=ExpertLayout.FUSED, rank=16)) is None
    assert plan.refusal_of(a_version(modules=("lm_head",))) is None


def test_base_of_unknown_type_is_planned_without_predicting_memory():
    plan = plan_of(config={"model_type": "new"})

    assert plan.slot_bytes is None
    assert "adapter memory" not in [row.setting for row in plan.rows]


def test_host_keeps_every_version_and_some_more():
    assert plan_of(*(a_version(number) for number in range(1, 4))).host_slots == 7


def test_host_does_not_keep_more_than_its_share_of_memory():
    plan = plan_of(*(a_version(number, size=GIB) for number in range(1, 101)))

    assert plan.host_slots == 16
    assert "as many of 100 versions as 16.0 GiB" in str(plan.rows)


def test_host_keeps_at_least_as_many_as_there_are_slots():
    assert plan_of(*(a_version(number, size=100 * GIB) for number in range(1, 20))).host_slots == DEFAULT_SLOTS


def test_memory_of_a_slot_is_that_of_preflight():
    base = read_base_shape(CONFIGS["qwen3_moe"])

    assert plan_of(on_experts(rank=4)).slot_bytes == slot_bytes(base, ["experts"], 8)
    assert plan_of(on_experts(rank=4), device=Device.CPU).slot_bytes == slot_bytes(
        base, ["experts"], 8, element_bytes=4
    )


def test_cpu_fixes_context_cache_and_dtype():
    plan = plan_of(a_version(), device=Device.CPU)

    assert plan.max_context == 512
    assert plan.dtype == "float32"
    assert plan.cache_bytes is not None
    assert plan.cache_bytes >= 32 * 2**20


def test_cuda_leaves_context_cache_and_dtype_to_the_engine():
    plan = plan_of(a_version())

    assert (plan.max_context, plan.cache_bytes, plan.dtype) == (None, None, None)


def test_large_base_on_cpu_keeps_its_dtype():
    assert plan_of(a_version(), device=Device.CPU, base_size=60 * GIB).dtype is None


@pytest.mark.parametrize("device", Device)
def test_every_row_says_why(device):
    rows = plan_of(a_version(), on_experts(2), device=device).rows

    assert all(row.setting and row.value and row.why for row in rows)
    assert len({row.setting for row in rows}) == len(rows)


def test_refusal_of_rank_says_what_a_restart_plans():
    plan = plan_of(a_version(rank=8))

    assert plan.refusal_of(a_version(2, rank=24)) == "rank 24 is above the engine's 8; a restart plans rank 32"


def test_refusal_of_modules_names_them():
    refusal = plan_of(a_version()).refusal_of(a_version(2, modules=("q_proj", "experts", "o_proj")))

    assert refusal == "modules experts, o_proj are not among the engine's q_proj, v_proj; a restart wraps them too"


def test_refusal_of_layout_names_it():
    refusal = plan_of(on_experts()).refusal_of(on_experts(2, ExpertLayout.FUSED))

    assert refusal == "expert layout 3d is not among the engine's (2d); a restart takes it too"


def test_refusal_of_a_rank_that_no_engine_takes_promises_nothing():
    refusal = plan_of(a_version()).refusal_of(a_version(2, rank=513))

    assert refusal is not None
    assert "restart" not in refusal


@pytest.mark.parametrize("layout", ExpertLayout)
def test_layout_fits_where_it_is_listed_or_none(layout):
    plan = plan_of(on_experts())

    assert plan.fits_layout(layout) is (layout is not ExpertLayout.FUSED)


VERSIONS = st.lists(
    st.builds(
        lambda rank, modules, layout, size: a_version(
            rank=rank,
            modules=sorted({*modules, *(["experts"] if layout is not ExpertLayout.NONE else [])}) or ["q_proj"],
            experts=layout,
            size=size,
        ),
        st.integers(1, 512),
        st.sets(st.sampled_from(["q_proj", "o_proj", "down_proj", "lm_head"])),
        st.sampled_from(ExpertLayout),
        st.integers(1, 2**34),
    ),
    max_size=12,
)


@given(versions=VERSIONS, device=st.sampled_from(Device))
def test_plan_takes_every_version_that_it_was_made_for(versions, device):
    plan = plan_of(*versions, device=device)

    assert [plan.refusal_of(version) for version in versions] == [None] * len(versions)
    assert plan.max_rank in RANK_LADDER
    assert 1 <= plan.slots <= plan.host_slots


@given(versions=VERSIONS, device=st.sampled_from(Device))
def test_plan_survives_json(versions, device):
    plan = plan_of(*versions, device=device)

    assert EnginePlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, "plan", {"base": "x"}, {"device": "tpu"}], ids=lambda value: repr(value)[:20]
)
def test_what_is_no_plan_is_refused(value):
    with pytest.raises(PlanError, match="not an engine plan"):
        EnginePlan.from_json(value)


def test_ladder_climbs():
    assert all(low < high for low, high in pairwise(RANK_LADDER))
