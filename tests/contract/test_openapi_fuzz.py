"""What vLLM's own OpenAPI schema allows, and what it forbids, asked of the gateway over the fake engine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core import NOT_SET
from schemathesis.generation import GenerationMode
from support.gateway import Answer, House, make_house, running

from loractl.observability.definitions import IN_FLIGHT, REQUESTS, WAITING
from loractl_registry import Stage
from loractl_registry.tenancy import Limits

ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
STATUSES = {200, 400, 404}
EXAMPLES = 40

# vLLM builds its application without an engine; importing it takes half a minute, and warns, so it has its own process.
_PRINT_SCHEMA = """
import json, sys
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args([]), ("generate",))
with open(sys.argv[1], "w") as file:
    json.dump(app.openapi(), file)
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("schema") / "openapi.json"
    done = subprocess.run([sys.executable, "-c", _PRINT_SCHEMA, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(path.read_text())
    assert set(ROUTES) <= set(found["paths"])
    return {**found, "paths": {route: {"post": found["paths"][route]["post"]} for route in ROUTES}}


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    return house


def written(body: object, number: int) -> bytes:
    if body is NOT_SET:
        return b""
    if isinstance(body, bytes):
        return body
    # Half of them name a model that is served, which no schema knows.
    asked = {**body, "model": "poet"} if isinstance(body, dict) and number % 2 else body
    return json.dumps(asked).encode()


async def ask(house: House, route: str, bodies: list[object]) -> list[Answer]:
    limits = Limits(max_output=8, max_context=10**6)
    acme = house.client.with_key(house.registry.tenancy.add("acme", limits=limits))
    async with running(house):
        return [await acme.post(route, written(body, number)) for number, body in enumerate(bodies)]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("route", ROUTES)
def test_whatever_the_schema_allows_or_forbids_has_an_answer_of_a_closed_set(
    house: House, schema: dict[str, Any], route: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(schema)[route]["POST"]
    bodies: list[object] = []

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        bodies.append(case.body)

    collect()
    answers = asyncio.run(ask(house, route, bodies))

    assert {answer.status for answer in answers} <= STATUSES, Counter(answer.status for answer in answers)
    for answer in answers:
        assert len(answer.headers["x-loractl-request-id"]) == 32
        if answer.status != 200:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}  # type: ignore[index,call-overload]
    assert house.numbers.total(REQUESTS) == len(house.records.kept) == len(answers) >= EXAMPLES
    assert (house.numbers.total(WAITING), house.numbers.total(IN_FLIGHT)) == (0, 0)
    assert (house.controls.admission.in_flight, house.engine.running()) == (0, 0)
    assert sum(answer.status == 200 for answer in answers) == len(house.server.bodies)
