"""What names mean: nothing that is not servable, intact, ready and fitting ever answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.gateway import make_snapshot, make_version, no_refusal, rank_limit, ref_of

from loractl.gateway.table import ServingTable
from loractl_registry import AdapterVersion, ServingSnapshot, Stage

_NAMES = ("poet", "clerk", "a.b-c_d")
_ASKED = st.one_of(
    st.text(max_size=12),
    st.builds(
        "{}{}".format, st.sampled_from(_NAMES), st.sampled_from(["", "@live", "@", "@0", "@01", "@1", "@2", "@9"])
    ),
)


@st.composite
def snapshots(draw: st.DrawFn) -> ServingSnapshot:
    versions: list[AdapterVersion] = []
    previously: dict[str, tuple[int, ...]] = {}
    for name in _NAMES:
        numbers = draw(st.lists(st.integers(1, 6), unique=True, max_size=4))
        live = draw(st.sampled_from([None, *numbers]))
        for number in numbers:
            stage = Stage.LIVE if number == live else draw(st.sampled_from([s for s in Stage if s is not Stage.LIVE]))
            versions.append(make_version(f"{name}@{number}", stage, rank=draw(st.sampled_from([8, 64]))))
        previously[name] = tuple(draw(st.lists(st.integers(1, 6), unique=True, max_size=3)))
    # A registry hands out servable ones only; the table must not depend on that.
    snapshot = make_snapshot(previously=previously)
    return ServingSnapshot(snapshot.sequence, snapshot.base, tuple(versions), previously)


@given(snapshots(), st.data(), st.lists(_ASKED, max_size=8))
def test_only_servable_intact_ready_fitting_versions_answer(
    snapshot: ServingSnapshot, data: st.DataObject, asked: list[str]
) -> None:
    refs = [version.ref for version in snapshot.versions]
    damaged = set(data.draw(st.lists(st.sampled_from(refs), max_size=3))) if refs else set()
    ready = set(data.draw(st.lists(st.sampled_from(refs)))) if refs else set()
    fits = rank_limit(16)
    table = ServingTable.of(snapshot, refusal_of=fits, damaged=damaged, is_ready=lambda version: version.ref in ready)

    for name in {*asked, *table.targets}:
        target = table.resolve(name)
        if target is None or target.version is None:
            assert target is None or name == "base"
            continue
        version = target.version
        assert version.stage.is_servable
        assert version.ref in ready
        assert version.ref not in damaged
        assert fits(version) is None
        assert target.model == str(version.ref)
        assert name in (version.ref.name, f"{version.ref.name}@live", str(version.ref))


@given(snapshots())
def test_bare_name_answers_only_while_a_version_is_live(snapshot: ServingSnapshot) -> None:
    table = ServingTable.of(snapshot, refusal_of=no_refusal)
    live = {version.ref.name: version for version in snapshot.versions if version.stage is Stage.LIVE}

    for name in _NAMES:
        target = table.resolve(name)
        assert (target is not None) == (name in live)
        if target is not None:
            assert target.version == live[name]
        assert table.resolve(f"{name}@live") == target


@given(snapshots())
def test_listed_models_are_exactly_what_answers(snapshot: ServingSnapshot) -> None:
    table = ServingTable.of(snapshot, refusal_of=no_refusal)
    listed = [entry["id"] for entry in table.models(table.targets)]

    assert listed[0] == "base"
    assert len(set(listed)) == len(listed)
    assert {*listed} == {name for name in table.targets if not name.endswith("@live")}
    assert {str(v.ref) for v in snapshot.versions if v.stage.is_servable} <= {*listed}


def test_live_version_that_does_not_fit_leaves_the_name_to_the_first_that_fits() -> None:
    versions = [
        make_version("poet@4", Stage.LIVE, rank=64),
        make_version("poet@3", Stage.APPROVED, rank=64),
        make_version("poet@2", Stage.APPROVED),
        make_version("poet@1", Stage.APPROVED),
    ]
    table = ServingTable.of(make_snapshot(*versions, previously={"poet": (3, 2, 1)}), refusal_of=rank_limit(16))

    assert table.targets["poet"].model == "poet@2"
    assert table.resolve("poet@4") is None


def test_version_that_was_never_live_is_no_stand_in() -> None:
    versions = [make_version("poet@2", Stage.LIVE, rank=64), make_version("poet@1", Stage.APPROVED)]
    table = ServingTable.of(make_snapshot(*versions), refusal_of=rank_limit(16))

    assert table.resolve("poet") is None
    assert table.targets["poet@1"].model == "poet@1"


def test_damaged_live_version_has_no_stand_in() -> None:
    versions = [make_version("poet@2", Stage.LIVE), make_version("poet@1", Stage.APPROVED)]
    snapshot = make_snapshot(*versions, previously={"poet": (1,)})
    table = ServingTable.of(snapshot, refusal_of=no_refusal, damaged={ref_of("poet@2")})

    assert table.resolve("poet") is None
    assert table.targets["poet@1"].model == "poet@1"


def test_base_only_table_answers_for_the_base_alone() -> None:
    table = ServingTable.base_only(make_snapshot().base)

    assert set(table.targets) == {"base"}
