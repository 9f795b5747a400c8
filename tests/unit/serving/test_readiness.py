"""Addresses that can be had, and servers that answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loractl.serving.errors import PortTakenError
from loractl.serving.readiness import INSTANCE_HEADER, Endpoint, answers, claim_endpoint


def test_port_zero_becomes_a_free_one() -> None:
    endpoint = claim_endpoint("127.0.0.1", 0)

    assert endpoint.port > 0
    assert claim_endpoint("127.0.0.1", endpoint.port) == endpoint


def test_taken_port_is_refused_with_the_address_and_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as refused:
            claim_endpoint("127.0.0.1", port)

    assert f"127.0.0.1:{port}" in str(refused.value)
    assert "--port" in (refused.value.hint or "")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(PortTakenError):
        claim_endpoint(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_url_is_one_that_a_client_here_can_use(host: str, url: str) -> None:
    assert Endpoint(host, 80).url == url


class _Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header(INSTANCE_HEADER, "mine")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Sick(_Health):
    status = 503


@pytest.fixture
def serve_health() -> Iterator[object]:
    servers: list[ThreadingHTTPServer] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> Endpoint:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return Endpoint("127.0.0.1", server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_healthy_server_of_ours_answers(serve_health) -> None:
    assert answers(serve_health(_Health), "mine")


def test_healthy_server_of_another_does_not_count(serve_health) -> None:
    assert not answers(serve_health(_Health), "other")


def test_unhealthy_server_does_not_count(serve_health) -> None:
    assert not answers(serve_health(_Sick), "mine")


def test_closed_port_does_not_answer() -> None:
    assert not answers(claim_endpoint("127.0.0.1", 0), "mine")
