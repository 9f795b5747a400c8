"""Every attack of the table is tried on a real home and stopped by what it says; without it, the same succeeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks.acting import Run
from attacks.declaring import DONE, Attack, Threat
from attacks.page import PAGE, page
from attacks.scene import Scene, build_world, copy_of
from attacks.table import ATTACKS

CONTROLS = {attack.control: attack.id for attack in reversed(ATTACKS)}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("attacks") / "world")


@pytest.fixture
def scene(world: Path, tmp_path: Path) -> Scene:
    return copy_of(world, tmp_path / "scene")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_attack_is_stopped_and_the_reason_is_said(scene: Scene, attack: Attack) -> None:
    if attack.given is not None:
        attack.given(scene)
    attack.spoil(scene)
    before = scene.contents()

    outcome = attack.act(scene)

    assert outcome.code == attack.code, outcome.said
    assert attack.says in outcome.said
    if isinstance(attack.act, Run) and len(attack.act.lines) == 1:
        assert scene.contents() == before, "something was half done"


@pytest.mark.parametrize("control", CONTROLS, ids=CONTROLS.values())
def test_same_without_the_attack_succeeds(scene: Scene, control: tuple) -> None:
    given, honest, act = control
    for prepare in (given, honest):
        if prepare is not None:
            prepare(scene)

    outcome = act(scene)

    assert outcome.code == DONE, outcome.said


def test_page_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make generate"


def test_every_threat_is_tried_and_every_attack_has_a_name_of_its_own() -> None:
    assert {attack.threat for attack in ATTACKS} == set(Threat)
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS)
