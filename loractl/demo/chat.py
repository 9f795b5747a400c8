"""Ask the server, one question or many at once, and keep what came back and when."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import httpx

MAX_TOKENS = 48
_OK, _NOT_FOUND = 200, 404
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Question:
    """One question to one model."""

    model: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a question.

    Attributes:
        status: HTTP status; 0 if nothing came back.
        model: The `model` field of the answer: which version spoke.
        text: The whole answer; empty if it was refused.
        body: The body of a refusal.
        first_s: When its first piece of text arrived, on the monotonic clock.
        last_s: When its last piece arrived.
    """

    question: Question
    status: int
    model: str
    text: str
    body: str
    first_s: float
    last_s: float

    @property
    def is_refused(self) -> bool:
        """Whether the server denied that there is such a model."""
        return self.status == _NOT_FOUND


def ask(url: str, question: Question, on_text: Callable[[str], None] = lambda _: None) -> Answer:
    """Stream one greedy chat answer; `on_text` gets the text so far with every piece."""
    with httpx.Client(timeout=_TIMEOUT_S) as client:
        return _stream(client, url, question, on_text)


def _stream(client: httpx.Client, url: str, question: Question, on_text: Callable[[str], None]) -> Answer:
    request = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    model, text, arrivals = "", "", list[float]()
    try:
        with client.stream("POST", f"{url}/v1/chat/completions", json=request) as response:
            if response.status_code != _OK:
                body = response.read().decode(errors="replace")
                return Answer(question, response.status_code, "", "", body, 0.0, 0.0)
            for model_named, piece in _pieces(response.iter_lines()):
                model, text = model_named, text + piece
                if piece:
                    arrivals.append(time.monotonic())
                    on_text(text)
    except httpx.HTTPError as error:
        return Answer(question, 0, "", "", f"{type(error).__name__}: {error}", 0.0, 0.0)
    first, last = (arrivals[0], arrivals[-1]) if arrivals else (0.0, 0.0)
    return Answer(question, _OK, model, text, "", first, last)


def ask_together(url: str, questions: Sequence[Question], on_text: Callable[[Question, str], None]) -> list[Answer]:
    """Ask all `questions` in the same moment and return their answers in the same order."""
    start = threading.Barrier(len(questions))
    # Made before the start: making a client takes about as long as a short answer, and then none would meet another.
    client = httpx.Client(timeout=_TIMEOUT_S)

    def ask_one(question: Question) -> Answer:
        start.wait()
        return _stream(client, url, question, lambda text: on_text(question, text))

    with client, ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask_one, questions))


def is_overlapping(answers: Sequence[Answer]) -> bool:
    """Whether there was a moment between the first and last piece of every one of `answers`."""
    return all(answer.text for answer in answers) and max(a.first_s for a in answers) < min(a.last_s for a in answers)


def list_models(url: str) -> list[str]:
    """Return the ids that the server lists; empty if it does not answer."""
    try:
        response = httpx.get(f"{url}/v1/models", timeout=_TIMEOUT_S)
        rows = response.json()["data"]
    except (httpx.HTTPError, ValueError, KeyError):
        return []
    return sorted(str(row["id"]) for row in rows)


def _pieces(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        payload = line.removeprefix("data: ")
        if payload == line or payload == "[DONE]":
            continue
        chunk = cast("dict[str, object]", json.loads(payload))
        choices = cast("list[dict[str, dict[str, str | None]]]", chunk.get("choices") or [])
        yield str(chunk.get("model", "")), "".join(choice["delta"].get("content") or "" for choice in choices)
