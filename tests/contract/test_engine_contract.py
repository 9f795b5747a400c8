"""What every engine behind `EnginePort` does; one suite for the fake and for vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from support.engine_rig import LONG, Rig


def ask(rig: Rig, model: str, *, max_tokens: int = 2) -> httpx.Response:
    body = {"model": model, "prompt": "hello world", "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
    return httpx.post(f"{rig.engine.url}/v1/completions", json=body, timeout=60)


@contextmanager
def streaming(rig: Rig, model: str) -> Iterator[Iterator[dict]]:
    body = {"model": model, "prompt": "hello world", "max_tokens": LONG, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{rig.engine.url}/v1/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
        yield (json.loads(line) for line in lines if line != "[DONE]")


def finish_reason(event: dict) -> str | None:
    return event["choices"][0]["finish_reason"]


def test_admitted_adapter_answers_under_its_exact_ref(rig: Rig) -> None:
    assert rig.admit("poet@1") == 200
    answer = ask(rig, "poet@1")

    assert rig.admitted() == ["poet@1"]
    assert (answer.status_code, answer.json()["model"]) == (200, "poet@1")


def test_what_was_not_admitted_does_not_answer(rig: Rig) -> None:
    rig.admit("poet@1")

    assert [ask(rig, model).status_code for model in ("poet@2", "poet", "nobody@1")] == [404] * 3


def test_admitting_twice_is_admitting_once(rig: Rig) -> None:
    assert [rig.admit("poet@1"), rig.admit("poet@1")] == [200, 200]

    assert rig.admitted() == ["poet@1"]
    assert rig.loaded() == 1


def test_adapter_that_cannot_be_loaded_is_refused_and_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    assert rig.admit("poet@1", tmp_path / "missing") == 409

    assert rig.admitted() == []
    assert rig.loaded() == 0
    assert ask(rig, "poet@1").status_code == 404


def test_refused_adapter_does_not_disturb_the_others(rig: Rig, tmp_path: Path) -> None:
    rig.admit("clerk@1")
    rig.admit("poet@1", tmp_path / "missing")

    assert ask(rig, "clerk@1").status_code == 200


def test_evicted_adapter_neither_answers_nor_stays_in_memory(rig: Rig) -> None:
    rig.admit("poet@1")
    rig.admit("clerk@1")
    assert rig.evict("poet@1") == 200

    assert rig.admitted() == ["clerk@1"]
    assert rig.loaded() == 1
    assert [ask(rig, model).status_code for model in ("poet@1", "clerk@1")] == [404, 200]


def test_evicting_what_is_not_there_is_no_error(rig: Rig) -> None:
    rig.admit("poet@1")

    assert [rig.evict("nobody@1"), rig.evict("poet@1"), rig.evict("poet@1")] == [200] * 3


def test_evicting_aborts_running_requests_of_that_adapter_only(rig: Rig) -> None:
    rig.admit("poet@1")
    rig.admit("clerk@1")
    with streaming(rig, "poet@1") as revoked, streaming(rig, "clerk@1") as untouched:
        next(revoked)
        next(untouched)
        assert rig.evict("poet@1") == 200
        last_revoked, last_untouched = [*revoked][-1], [*untouched][-1]

    assert (finish_reason(last_revoked), finish_reason(last_untouched)) == ("abort", "length")
    assert rig.loaded() == 1


def test_evicted_adapter_may_come_back(rig: Rig) -> None:
    rig.admit("poet@1")
    rig.evict("poet@1")
    assert rig.admit("poet@1") == 200

    assert ask(rig, "poet@1").status_code == 200


def test_evicting_again_removes_what_late_requests_brought_back(rig: Rig) -> None:
    for _ in range(5):
        rig.admit("poet@1")
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask, rig, "poet@1", max_tokens=20) for _ in range(8)]
            rig.evict("poet@1")
            assert {answer.result().status_code for answer in answers} <= {200, 404}
        assert rig.evict("poet@1") == 200

        assert rig.loaded() == 0


def test_base_answers_whatever_is_admitted(rig: Rig) -> None:
    rig.admit("poet@1")

    assert ask(rig, "base").json()["model"] == "base"
