"""Hostile adapter folders, safetensors headers by hand, and a small Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


def packed(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, right or wrong; bytes are taken as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    """Return one tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@dataclass
class FakeRepository:
    """A model repository with one commit."""

    files: Mapping[str, bytes]
    commit: str = COMMIT
    token: str | None = None
    is_gated: bool = False


@dataclass
class FakeHub:
    """What a Hub answers, and what it was asked.

    Attributes:
        repositories: By ``OWNER/REPO``.
        failing_with: Status that every request gets, if set.
        requests: Method and path of each request.
        tokens: Every authorization header that came.
    """

    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    failing_with: int | None = None
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve a `FakeHub` on a free port of 127.0.0.1."""
    hub = FakeHub()

    class Handler(_Handler):
        answers = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    answers: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.answers
        path = unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append(f"{self.command} /{path}")
        if authorization := self.headers.get("authorization"):
            hub.tokens.add(authorization)
        if hub.failing_with is not None:
            self._send(hub.failing_with, {}, b"")
        elif path.startswith("api/models/"):
            self._describe(path.removeprefix("api/models/").split("/"))
        else:
            self._resolve(path.split("/"))

    def _find(self, owner: str, name: str, revision: str) -> FakeRepository | None:
        repository = self.answers.repositories.get(f"{owner}/{name}")
        has_token = repository is not None and self.headers.get("authorization") == f"Bearer {repository.token}"
        if repository is None or (repository.token and not has_token):
            self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"")
            return None
        if revision not in ("main", repository.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
            return None
        return repository

    def _describe(self, parts: list[str]) -> None:
        repository = self._find(parts[0], parts[1], parts[3] if len(parts) > 3 else "main")
        if repository is None:
            return
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for name, data in repository.files.items()
        ]
        body = {"id": "/".join(parts[:2]), "sha": repository.commit, "siblings": siblings, "gated": False}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _resolve(self, parts: list[str]) -> None:
        owner, name, _, revision, *file = parts
        repository = self._find(owner, name, revision)
        if repository is None:
            return
        if repository.is_gated:
            self._send(403, {"X-Error-Code": "GatedRepo"}, b"")
        elif "/".join(file) not in repository.files:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit}, b"")
        else:
            data = repository.files["/".join(file)]
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            self._send(200, headers, data)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the regular files at the top of `folder`."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
