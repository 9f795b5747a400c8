"""A server that tells the live state of metrics that a test moves: what `loractl top` and the page ask."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from loractl.observability.live_state import (
    AdapterFacts,
    BaseFacts,
    EngineFacts,
    HealthFacts,
    LimitStanding,
    TenantFacts,
    live_state,
)
from loractl.observability.metrics import Metrics
from loractl.observability.outcomes import Outcome
from loractl.observability.series import LabelSet
from loractl.web.assets import asset

STATE_PATH = "/loractl/v1/state"
BOT = LabelSet("support-bot", "3", "acme")
POET = LabelSet("poet", "1", "zeta")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class LiveState:
    """The numbers of a pretended server, and the facts beside them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics(now=self.clock)
        self.metrics.resident([("support-bot", "3")])
        self.health = HealthFacts("ok")
        self.adapters: Sequence[AdapterFacts] = (
            AdapterFacts("support-bot", 3, "live"),
            AdapterFacts("poet", 1, "approved"),
        )
        self.tenants: Sequence[TenantFacts] = (
            TenantFacts(
                "acme", 2.0, {"tokens_per_minute": 1000}, [LimitStanding("tokens_per_minute", 1000, 400, 12.0)]
            ),
            TenantFacts("zeta"),
        )

    def serve(self, labels: LabelSet = BOT, *, times: int = 1, first_s: float = 0.125, tokens: int = 40) -> None:
        """Answer `times` requests at once, each with `tokens` tokens, in `first_s` seconds and no more."""
        running = [self.metrics.begin(labels) for _ in range(times)]
        for each in running:
            each.admitted()
        self.clock.seconds += first_s
        for each in running:
            each.tokens([self.clock()])
            each.end(Outcome.OK, input_tokens=100, output_tokens=tokens)

    def document(self) -> dict[str, object]:
        """Return what the server would answer now."""
        return live_state(
            self.metrics.snapshot(),
            now=datetime(2026, 1, 31, 9, tzinfo=UTC),
            base=BaseFacts("tiny-moe", "sha256:" + "0" * 64),
            health=self.health,
            fairness="vtc",
            capacity=EngineFacts(max_num_seqs=16, slots=4, kv_use=0.25),
            adapters=self.adapters,
            tenants=self.tenants,
            uptime_s=self.clock(),
        )


@dataclass(frozen=True)
class Request:
    """What arrived."""

    path: str
    authorization: str | None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        # A reader that leaves in the middle is no failure of the test.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class LiveServer:
    """Answers the state and the page on a free port of loopback, until `close`.

    Attributes:
        key: What the state wants as bearer key; None opens it to everybody.
        body: What the state answers instead of the document, if that is set.
        step_s: How many seconds pass on the pretended server before each answer.
    """

    def __init__(self, state: LiveState | None = None, *, key: str | None = None, step_s: float = 1.0) -> None:
        self.state = state or LiveState()
        self.key = key
        self.body: bytes | None = None
        self.status = 200
        self.step_s = step_s
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[Request]:
        """Return the requests for `path` so far."""
        return [each for each in list(self.requests) if each.path == path]

    def wait_asked(self, path: str, times: int, *, within_s: float = 20.0) -> None:
        """Wait until `path` was asked for that often."""
        deadline = time.monotonic() + within_s
        while len(self.asked(path)) < times:
            assert time.monotonic() < deadline, f"{path} was asked {len(self.asked(path))} times"
            time.sleep(0.01)

    def close(self) -> None:
        """Stop answering: the port is closed."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _answer(self, path: str, authorization: str | None) -> tuple[int, str, bytes, Sequence[tuple[str, str]]]:
        if path != STATE_PATH:
            found = asset(path)
            if found is None:
                return 404, "application/json", b"{}", ()
            headers = [(name.decode(), value.decode()) for name, value in found.headers]
            return 200, found.content_type.decode(), found.body, headers
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, "application/json", b'{"error": {"message": "no"}}', ()
        with self.lock:
            self.state.clock.seconds += self.step_s
            body = self.body if self.body is not None else json.dumps(self.state.document()).encode()
        return self.status, "application/json", body, ()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(Request(self.path, self.headers.get("authorization")))
                status, content_type, body, headers = server._answer(self.path, self.headers.get("authorization"))
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                return

        return Handler
