"""Over sockets: what is sent before it is a request takes bounded time and memory, and nobody else notices."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from support.gateway import make_house, on_loopback
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loractl.gateway import GatewaySettings
from loractl.gateway.bodies import BodyLimits
from loractl.serving.connections import BoundedProtocol, bound_connections
from loractl_registry import Stage

BODY = json.dumps({"model": "poet", "prompt": "hello"}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(BoundedProtocol, "head_timeout_s", 0.5)
    house = make_house(tmp_path, settings=GatewaySettings(body=BodyLimits(timeout_s=0.5)))
    house.registry.set("poet@1", Stage.LIVE)
    with on_loopback(house.gateway) as url:
        yield url


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 10)


def answer_of(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    found = b""
    try:
        while more := connection.recv(65536):
            found += more
    except ConnectionError:
        pass
    return found


def is_served(url: str) -> bool:
    answer = httpx.post(f"{url}/v1/completions", content=BODY, headers={"content-type": "application/json"}, timeout=5)
    return answer.status_code == 200 and httpx.get(f"{url}/health", timeout=5).json() == {"status": "ok"}


def push(connection: socket.socket, piece: bytes, size: int) -> int:
    """Send `piece` again and again until it is `size` bytes or the server has closed; return how much went out."""
    sent = 0
    try:
        while sent < size:
            sent += connection.send(piece)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        pytest.param(b"GET /", b"a" * 4096, id="path"),
        pytest.param(b"GET / HTTP/1.1\r\nx-endless: ", b"a" * 4096, id="one-header"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"x-more: " + b"a" * 4096 + b"\r\n", id="many-headers"),
        pytest.param(b"", b"\r\n" * 2048, id="empty-lines"),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"x: " + b"a" * 99 + b"\r\n", id="trailers"
        ),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n2;", b"x" * 4096, id="extension-of-a-chunk"),
    ],
)
def test_what_is_no_body_is_taken_up_to_a_bound(url: str, begin: bytes, piece: bytes) -> None:
    before = psutil.Process().memory_info().rss
    with closing(connected(url)) as connection:
        connection.sendall(begin)
        sent = push(connection, piece, 256 * 2**20)

    assert sent < 64 * 2**20
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
    assert is_served(url)


@pytest.mark.parametrize("is_later", [False, True])
def test_head_that_drips_is_cut_off_and_others_are_answered(url: str, is_later: bool) -> None:
    drippers = [connected(url) for _ in range(100)]
    if is_later:
        for dripper in drippers:
            dripper.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert dripper.recv(65536).startswith(b"HTTP/1.1 200")
    for dripper in drippers:
        dripper.sendall(b"GET /health HTTP/1.1\r\nx-slow: ")
    began, open_ones = time.monotonic(), drippers
    while open_ones and time.monotonic() - began < 20:
        open_ones = [dripper for dripper in open_ones if push(dripper, b"a", 1)]
        assert is_served(url)

    assert open_ones == []
    for dripper in drippers:
        dripper.close()


def test_connection_that_says_nothing_is_closed(url: str) -> None:
    with closing(connected(url)) as connection:
        assert answer_of(connection) == b""


def test_body_that_drips_is_a_408(url: str) -> None:
    with closing(connected(url)) as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
        assert answer_of(connection).startswith(b"HTTP/1.1 408")
    assert is_served(url)


@pytest.mark.parametrize("framing", [b"content-length: 104857600", b"transfer-encoding: chunked"])
def test_body_of_a_hundred_megabytes_is_a_413_and_is_not_kept(url: str, framing: bytes) -> None:
    piece = b"a" * 2**20
    if framing.startswith(b"transfer"):
        piece = b"100000\r\n" + piece + b"\r\n"
    before = psutil.Process().memory_info().rss
    with closing(connected(url)) as connection:
        connection.sendall(HEAD + framing + b"\r\n\r\n")
        sent = push(connection, piece, 100 * 2**20)
        answer = answer_of(connection)

    assert answer.startswith(b"HTTP/1.1 413") or sent < 100 * 2**20
    assert psutil.Process().memory_info().rss - before < 128 * 2**20
    assert is_served(url)


def test_body_in_chunks_of_one_byte_is_taken(url: str) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY + b" " * 100_000)
    with closing(connected(url)) as connection:
        connection.sendall(HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 200")


def test_large_head_and_many_requests_on_one_connection_are_taken(url: str) -> None:
    with httpx.Client() as client:
        for _ in range(20):
            assert client.get(f"{url}/health", headers={"x-large": "a" * 50_000}).status_code == 200


def test_only_the_faster_parser_is_bounded_since_the_other_has_bounds() -> None:
    fast, slow = (
        SimpleNamespace(config=SimpleNamespace(http_protocol_class=kind)) for kind in (HttpToolsProtocol, H11Protocol)
    )
    for server in (fast, slow, None):
        bound_connections(server)

    assert fast.config.http_protocol_class is BoundedProtocol
    assert slow.config.http_protocol_class is H11Protocol
