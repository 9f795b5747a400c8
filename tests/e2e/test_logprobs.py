"""A real engine on CPU answers as the merged weights do, whatever else is in the batch."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from support.engine import logprobs_of

if TYPE_CHECKING:
    from e2e.conftest import World

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPTS = ("the quick brown fox", "hello world how", "low rank adapters change the weights of")
TOKENS = 12
# Everything is fp32. A dot product over the hidden size of 128 errs by at most 128 * 2^-24 of its operands, and logits
# here reach 20: 20 * 128 * 2^-24 = 1.5e-4. A dropped adapter or a wrong row moves logprobs by more than 0.1.
TOLERANCE = 1.5e-4


def _error(world: World, model: str, answer: tuple[list[int], list[int], list[float]]) -> float:
    """Return how far `answer` is from what the merged weights give, and from their likeliest tokens."""
    prompt, tokens, served = answer
    own, best = logprobs_of(world.references[model], prompt, tokens)
    return max(max(abs(a - b), c - b) for a, b, c in zip(served, own, best, strict=True))


def _ask_all_at_once(
    world: World, models: list[str]
) -> dict[tuple[str, str], tuple[list[int], list[int], list[float]]]:
    pairs = [(model, prompt) for prompt in PROMPTS for model in models]
    with ThreadPoolExecutor(len(pairs)) as pool:
        answers = pool.map(lambda pair: world.engine.complete(pair[0], pair[1], TOKENS), pairs)
        return dict(zip(pairs, answers, strict=True))


def test_references_differ_so_that_a_dropped_adapter_shows(world: World):
    base = world.engine.complete("base", PROMPTS[0], TOKENS)

    errors = {name: _error(world, name, base) for name in world.adapters}

    assert min(errors.values()) > 0.1, errors


def test_each_alone_matches_merged_weights(world: World):
    errors = {
        (model, prompt): _error(world, model, world.engine.complete(model, prompt, TOKENS))
        for model in world.references
        for prompt in PROMPTS
    }

    assert max(errors.values()) < TOLERANCE, errors


def test_mixed_batch_beyond_the_slots_matches_merged_weights(world: World):
    answers = _ask_all_at_once(world, list(world.references))

    errors = {pair: _error(world, pair[0], answer) for pair, answer in answers.items()}

    assert max(errors.values()) < TOLERANCE, errors


def test_base_rows_in_a_mixed_batch_answer_as_the_base_alone(world: World):
    alone = {prompt: world.engine.complete("base", prompt, TOKENS) for prompt in PROMPTS}

    mixed = _ask_all_at_once(world, list(world.references))

    for prompt, (_, tokens, logprobs) in alone.items():
        _, mixed_tokens, mixed_logprobs = mixed["base", prompt]
        assert mixed_tokens == tokens
        assert mixed_logprobs == pytest.approx(logprobs, abs=TOLERANCE)


def test_a_folder_that_cannot_be_loaded_is_refused_when_it_is_admitted(world: World, tmp_path):
    refused = world.engine.port("admit", ref="broken@1", path=str(tmp_path), is_fused=False)

    assert refused.status_code == 409, refused.text
    assert refused.json()["code"] == "engine.refused"
    assert "broken@1" not in world.engine.port("admitted").json()


def test_evicting_ends_running_answers_and_empties_the_engine(world: World):
    name = next(iter(world.adapters))
    began, lines = threading.Event(), []

    def stream() -> None:
        body = {"model": name, "prompt": PROMPTS[0], "max_tokens": 400, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{world.engine.url}/v1/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                lines.append(line)
                began.set()

    before = set(world.engine.port("loaded").json())
    running = threading.Thread(target=stream)
    running.start()
    assert began.wait(30)  # and nothing between this and the eviction: the answer may take less than a second

    evicted = world.engine.port("evict", ref=name)
    running.join(30)

    assert evicted.status_code == 200, evicted.text
    assert not running.is_alive()
    assert any('"finish_reason":"abort"' in line.replace(" ", "") for line in lines[-4:]), lines[-4:]
    assert len(before - set(world.engine.port("loaded").json())) == 1
    body = {"model": name, "prompt": PROMPTS[0], "max_tokens": 1}
    assert httpx.post(f"{world.engine.url}/v1/completions", json=body, timeout=30).status_code == 404

    adapter = world.adapters[name]
    again = world.engine.port("admit", ref=name, path=str(adapter.path), is_fused=adapter.is_fused)

    assert again.status_code == 200, again.text
    assert _error(world, name, world.engine.complete(name, PROMPTS[0], TOKENS)) < TOLERANCE
