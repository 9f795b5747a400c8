"""Running somebody's scanner on stored files: any command, bounded in time and output, in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from loractl_registry.clock import to_text
from loractl_registry.evidence.errors import ScannerError
from loractl_registry.records import AdapterVersion

FOLDER = "{folder}"
"""Stands for the folder of the files in a command; without it, the folder comes last."""

MAX_OUTPUT_BYTES = 256 * 2**10
DEFAULT_TIMEOUT_S = 300.0
_CHUNK = 1 << 16
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Scan:
    """How a scanner ended.

    Attributes:
        command: What ran, with the folder in it.
        exit_code: None if it was ended because it took too long; negative for a signal.
        output: The beginning of what it wrote, stdout and stderr together.
        is_cut: Whether it wrote more.
    """

    command: tuple[str, ...]
    exit_code: int | None
    output: bytes
    is_cut: bool

    @property
    def passed(self) -> bool:
        """Whether it found nothing: it ended by itself, with 0."""
        return self.exit_code == 0

    @property
    def kind(self) -> str:
        """Name of the program, as evidence calls it."""
        name = re.sub(r"[^A-Za-z0-9 ._+@-]+", "-", Path(self.command[0]).name, flags=re.ASCII)
        return name.lstrip(" ._+@-")[:100] or "scanner"

    def to_json(self, version: AdapterVersion, at: datetime) -> bytes:
        """Return the evidence that it is: JSON with sorted keys. The time makes two runs two pieces of evidence."""
        said = {
            "schema": "loractl.scan/1",
            "content": version.digest,
            "kind": self.kind,
            "passed": self.passed,
            "command": list(self.command),
            "exit_code": self.exit_code,
            "output": self.output.decode("utf-8", "backslashreplace"),
            "output_is_cut": self.is_cut,
            "at": to_text(at),
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def run_scanner(command: Sequence[str], folder: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Scan:
    """Run `command` on `folder` without a shell, and wait for its end.

    It gets an empty folder as its home and to work in, the path to find programs, and none of our other variables.

    Raises:
        ScannerError: It could not be started.
    """
    argv = tuple(word.replace(FOLDER, str(folder)) for word in command)
    if not any(FOLDER in word for word in command):
        argv = (*argv, str(folder))
    with tempfile.TemporaryDirectory(prefix="loractl-scan-", ignore_cleanup_errors=True) as work:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8"}
        try:
            process = subprocess.Popen(
                argv,
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ScannerError(argv[0], getattr(error, "strerror", None) or str(error)) from error
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        with process.stdout as stream:
            head = _Head(stream)
            exit_code = _ended(process, timeout_s)
            head.join(_GRACE_S)
        return Scan(argv, exit_code, bytes(head.data), head.is_cut)


class _Head(threading.Thread):
    """Reads a stream to its end and keeps its beginning, so that nobody who writes much has to wait."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="loractl-scan-output", daemon=True)
        self.data = bytearray()
        self.is_cut = False
        self._handle = os.dup(stream.fileno())
        self.start()

    def run(self) -> None:
        try:
            while chunk := os.read(self._handle, _CHUNK):
                room = MAX_OUTPUT_BYTES - len(self.data)
                self.data += chunk[:room]
                self.is_cut = self.is_cut or len(chunk) > room
        finally:
            os.close(self._handle)


def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Wait for `process`, and end whatever it has started."""
    exit_code: int | None = None
    try:
        exit_code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return exit_code
