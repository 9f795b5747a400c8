"""A script in an engine's place: answers /health as the gateway does, drains on SIGUSR1, or crashes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        config = json.loads(Path(os.environ["LORACTL_ENGINE_CONFIG"]).read_text())
        self.send_response(200)
        self.send_header("x-loractl-instance", config["instance"])
        self.send_header("content-length", "0")
        self.end_headers()
        if mode == "crash":
            threading.Timer(0.3, os._exit, [9]).start()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


mode, host, port = sys.argv[1:4]
print("up", *sorted(os.environ), flush=True)
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
HTTPServer((host, int(port)), Health).serve_forever()
