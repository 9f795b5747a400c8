"""The allow-list against every route that the installed vLLM has, and against tricks with paths."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateway import House, make_house, running
from support.vllm_source import METHODS, vllm_routes

from loractl.gateway.errors import RouteNotFoundError
from loractl.gateway.routes import Route, match_route
from loractl_registry import Stage

_ALLOWED = {route.value for route in Route if route is not Route.MODEL}


@pytest.fixture(scope="module")
def routes() -> dict[str, set[str]]:
    return vllm_routes()


def test_source_of_vllm_yields_the_routes_that_matter(routes: dict[str, set[str]]) -> None:
    assert {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/models",
        "/health",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/invocations",
        "/pause",
        "/sleep",
        "/collective_rpc",
        "/start_profile",
        "/tokenize",
        "/v1/realtime",
    } <= set(routes)
    assert len(routes) > 50


def test_no_route_of_vllm_passes_but_the_allowed_ones(tmp_path: Path, routes: dict[str, set[str]]) -> None:
    async def probe(house: House) -> set[tuple[str, str]]:
        paths = {*routes, "/docs", "/redoc", "/openapi.json", "/metrics", "/metrics/", "/server_info", "/"}
        answers = {}
        async with running(house):
            for path in sorted(paths):
                for method in METHODS:
                    spelled = path.replace("{", "").replace("}", "")
                    answer = await house.client.begin(method, spelled, b"{}").answer()
                    answers[method, spelled] = answer
        refused = {key: answer for key, answer in answers.items() if key not in _ALLOWED}
        assert {answer.status for answer in refused.values()} == {404}
        assert len({answer.body for answer in refused.values()}) == 1
        return set(house.server.reached)

    assert asyncio.run(probe(make_house(tmp_path))) == {("GET", "/metrics")}


@pytest.mark.parametrize(
    ("path", "raw_path"),
    [
        ("//v1/models", None),
        ("/v1/models/", None),
        ("/v1//models", None),
        ("/v1/./models", None),
        ("/v1/completions/../load_lora_adapter", None),
        ("/v1/completions/../completions", None),
        ("/v1/completions/", None),
        ("/v1/completions;x", None),
        ("/v1/completions\x00", None),
        ("/V1/completions", None),
        ("/v1/completions", b"/v1%2Fcompletions"),
        ("/v1/completions", b"/v1/%63ompletions"),
        ("/v1/completions", b"/v1/completions%20"),
        ("/v1/models/a/b", None),
        ("/v1/models/../load_lora_adapter", None),
        ("/v1/models/poet", b"/v1/models/%70oet"),
        ("/v1/models/a/b", b"/v1/models/a%2Fb"),
        ("/v1/models/é", b"/v1/models/%C3%A9"),
        ("/v1/models/..", None),
        ("/health/", None),
        ("", None),
        ("*", None),
    ],
)
def test_path_that_is_spelled_otherwise_does_not_exist(tmp_path: Path, path: str, raw_path: bytes | None) -> None:
    async def probe(house: House) -> None:
        house.registry.set("poet@1", Stage.LIVE)
        async with running(house):
            for method in ("GET", "POST"):
                answer = await house.client.begin(method, path, b'{"model":"base"}', raw_path=raw_path).answer()
                assert answer.status == 404
            assert house.server.reached == []

    asyncio.run(probe(make_house(tmp_path)))


@pytest.mark.parametrize("root_path", ["/v1", "/x", "/v1/completions"])
def test_root_path_cannot_make_the_engine_see_another_path(tmp_path: Path, root_path: str) -> None:
    async def probe(house: House) -> None:
        seen: list[object] = []
        inner = house.gateway._app

        async def spy(scope, receive, send):
            seen.append((scope.get("path"), scope.get("raw_path"), scope.get("root_path"), scope.get("query_string")))
            await inner(scope, receive, send)

        house.gateway._app = spy
        async with running(house):
            seen.clear()
            await house.client.post(
                "/v1/completions", {"model": "base"}, root_path=root_path, query_string=b"path=/v1/load_lora_adapter"
            )
        assert seen[0] == ("/v1/completions", b"/v1/completions", "", b"")

    asyncio.run(probe(make_house(tmp_path)))


@given(
    st.sampled_from(METHODS),
    st.one_of(
        st.text(alphabet=st.characters(codec="utf-8"), max_size=40),
        st.lists(st.sampled_from(["v1", "models", "completions", "chat", "..", ".", "", "%2e", "health", "a@1"])).map(
            "/".join
        ),
    ),
    st.none() | st.binary(max_size=40),
)
def test_only_the_listed_pairs_match(method: str, path: str, raw_path: bytes | None) -> None:
    scope: dict[str, object] = {"method": method, "path": path, "raw_path": raw_path}
    try:
        route, name = match_route(scope)
    except RouteNotFoundError:
        return
    assert method == route.value[0]
    if route is Route.MODEL:
        assert name is not None
        assert path == f"/v1/models/{name}"
        assert "/" not in name
    else:
        assert (method, path) in _ALLOWED


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_websocket_is_turned_away(tmp_path: Path, extensions: dict[str, object]) -> None:
    async def probe(house: House) -> list[dict[str, object]]:
        sent: list[dict[str, object]] = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.connect"}

        async with running(house):
            for path in ("/v1/realtime", "/v1/completions"):
                scope = {"type": "websocket", "path": path, "headers": [], "extensions": extensions}
                await house.gateway(scope, receive, send)
        assert house.server.reached == []
        return sent

    sent = asyncio.run(probe(make_house(tmp_path)))

    if extensions:
        assert [message.get("status") for message in sent] == [404, None, 404, None]
        assert sent[1]["body"] == RouteNotFoundError().body()
    else:
        assert sent == [{"type": "websocket.close", "code": 1008}] * 2
