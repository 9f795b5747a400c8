import hashlib
import json
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo"
MANIFEST = json.loads((DEMO / "manifest.json").read_text(encoding="utf-8"))
ADAPTERS = ("pirate", "pirate-v2", "shakespeare", "lawyer")


def _digests(*folders: Path) -> dict[str, str]:
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(DEMO).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_shipped_models_are_those_that_the_training_wrote() -> None:
    assert _digests(DEMO / "base", DEMO / "adapters") == MANIFEST["files"]


def test_shipped_data_is_what_the_models_were_trained_on() -> None:
    assert _digests(DEMO / "data") == MANIFEST["data"]


def test_shipped_models_stay_small() -> None:
    size_bytes = sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file())

    assert size_bytes < 4_000_000


@pytest.mark.parametrize("style", ["neutral", "pirate-1", "pirate-2", "shakespeare", "lawyer"])
def test_every_question_has_an_answer_in_every_voice(style: str) -> None:
    def topics(name: str) -> list[str]:
        lines = (DEMO / "data" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        return [line.partition(": ")[0] for line in lines if not line.startswith("#")]

    assert topics(style) == topics("questions")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_model_card_says_licence_base_and_data(adapter: str) -> None:
    front = (DEMO / "adapters" / adapter / "README.md").read_text(encoding="utf-8").split("---")[1]

    assert "license: apache-2.0" in front
    assert "base_model: demo-base" in front
    assert "datasets:\n- loractl/examples/demo/data/" in front
