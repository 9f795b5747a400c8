import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loractl.demo.server import HOST, Server, pick_port

POLITE = "import signal, time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('up')"


class _Other(BaseHTTPRequestHandler):
    """Answers everything with 200."""

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _start(tmp_path: Path, program: str) -> Server:
    port = pick_port(0)
    server = Server([sys.executable, "-c", program], cwd=tmp_path, environment={}, port=port, log=tmp_path / "log")
    while not server.last_lines(1):
        time.sleep(0.02)
    return server


def test_port_that_is_taken_is_replaced() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]

        assert pick_port(port) != port


def test_port_that_is_bound_but_not_listened_on_is_replaced() -> None:
    with socket.socket() as loading:
        loading.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        loading.bind((HOST, 0))
        port = loading.getsockname()[1]

        assert pick_port(port) != port


def test_server_is_not_ready_because_another_answers_on_its_port(tmp_path: Path) -> None:
    other = ThreadingHTTPServer((HOST, 0), _Other)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    program = "import time; print('up', flush=True); time.sleep(1)"
    server = Server(
        [sys.executable, "-c", program], cwd=tmp_path, environment={}, port=other.server_port, log=tmp_path / "log"
    )

    is_ready = server.wait_ready()

    other.shutdown()
    other.server_close()
    thread.join()
    assert not is_ready


def test_server_that_ends_when_asked_is_clean(tmp_path: Path) -> None:
    stopped = _start(tmp_path, POLITE).stop()

    assert stopped.is_clean
    assert stopped.signal_name == "SIGINT"


def test_server_that_leaves_a_child_is_not_clean_and_the_child_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loractl.demo.server._GROUP_PATIENCE_S", 0.3)
    server = _start(tmp_path, PARENT)

    stopped = server.stop()

    assert not stopped.is_clean
    assert "a child is still running" in str(stopped)


def test_server_that_ignores_the_first_signal_gets_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loractl.demo.server._PATIENCE_S", {"SIGINT": 0.3, "SIGTERM": 5.0, "SIGKILL": 5.0})

    stopped = _start(tmp_path, DEAF).stop()

    assert stopped.signal_name == "SIGTERM"


def test_server_that_dies_is_never_ready(tmp_path: Path) -> None:
    server = _start(tmp_path, "print('up')")

    assert not server.wait_ready()
    assert server.last_lines(1) == ["up"]
