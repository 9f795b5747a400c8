"""Having the engine's own tokenizer count a prompt, where an estimate is not enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

from loractl.gateway.asgi import ASGIApp, Message, Receive, Scope
from loractl.gateway.forwarding import replay, rewritten
from loractl.gateway.routes import Route

_PATH = "/tokenize"
_CHAT_FIELDS = ("messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
_RESPONSES_FIELDS = ("instructions", "previous_input_messages", "input", "tools", "chat_template_kwargs")


async def longest_prompt(
    app: ASGIApp, scope: Scope, receive: Receive, *, route: Route, request: Mapping[str, object], model: str
) -> int | None:
    """Return how many tokens the longest prompt of `request` has; None if the engine cannot say, as of malformed ones.

    `app` is the engine's server, whose ``/tokenize`` no client reaches, and `model` a name that it knows; `scope` and
    `receive` are those of the client's request.
    """
    counts: list[int] = []
    for question in _questions(route, request):
        if isinstance(question, int):
            counts.append(question)
            continue
        body = json.dumps({"model": model, **question}).encode()
        answer = _Kept()
        asked: Scope = {**rewritten(scope, path=_PATH, request_id="count", body=body), "method": "POST"}
        await app(asked, replay(body, receive), answer)
        if (count := answer.count()) is None:
            return None
        counts.append(count)
    return max(counts, default=None)


def _questions(route: Route, request: Mapping[str, object]) -> list[int | dict[str, object]]:
    match route:
        case Route.CHAT_COMPLETIONS:
            asked = {name: request[name] for name in _CHAT_FIELDS if name in request}
            given = asked.get("chat_template_kwargs")
            if request.get("documents") is not None and (given is None or isinstance(given, dict)):
                # The tokenizer's route has no such field, and hands these to the template all the same.
                known = cast("dict[str, object]", given or {})
                asked["chat_template_kwargs"] = {**known, "documents": request["documents"]}
            return [asked]
        case Route.RESPONSES:
            texts = [request[name] for name in _RESPONSES_FIELDS if name in request]
            return [{"prompt": json.dumps(texts, ensure_ascii=False)}]
        case _:
            prompt = request.get("prompt")
            prompts = cast("list[object]", prompt) if isinstance(prompt, list) else [prompt]
            if prompts and all(isinstance(one, int) for one in prompts):
                return [len(prompts)]
            return [len(cast("list[object]", one)) if isinstance(one, list) else {"prompt": one} for one in prompts]


class _Kept:
    """Keeps the answer to a question."""

    def __init__(self) -> None:
        self._status, self._body = 0, b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = cast("int", message["status"])
        else:
            self._body += cast("bytes", message.get("body", b""))

    def count(self) -> int | None:
        if self._status != HTTPStatus.OK:
            return None
        count = json.loads(self._body).get("count")
        return count if type(count) is int else None
