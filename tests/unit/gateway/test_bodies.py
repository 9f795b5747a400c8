"""Whatever bytes arrive: never a 500, and never forwarded unless they name something that is served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateway import Answer, House, make_house, running

from loractl_registry import Stage

_SERVED = ("base", "poet", "poet@1", "poet@live")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_MODELS = st.sampled_from([*_SERVED, "draft", "draft@1", "nobody", ""]) | _JSON
_REQUESTS = st.builds(
    lambda model, rest: {**rest, "model": model},
    _MODELS,
    st.dictionaries(st.sampled_from(["prompt", "messages", "tools", "input", "chat_template", "priority", "x"]), _JSON),
)
_BODIES = st.binary(max_size=64) | _REQUESTS.map(lambda request: json.dumps(request).encode())


async def _post(house: House, path: str, bodies: list[bytes]) -> list[Answer]:
    async with running(house):
        return [await house.client.post(path, body) for body in bodies]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/responses"]),
    st.lists(_BODIES, min_size=1, max_size=10),
)
def test_no_body_breaks_the_gateway_or_slips_through(path: str, bodies: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        house = make_house(Path(folder))
        house.registry.set("poet@1", Stage.LIVE)
        house.registry.set("draft@1", Stage.DRAFT)

        answers = asyncio.run(_post(house, path, bodies))

    assert {answer.status for answer in answers} <= {200, 400, 404}
    assert sum(answer.status == 200 for answer in answers) == len(house.server.bodies)
    assert {body["model"] for body in house.server.bodies} <= {"base", "poet@1"}
    for body, answer in zip(bodies, answers, strict=True):
        if answer.status == 200:
            assert json.loads(body)["model"] in _SERVED
