"""Where loractl's own log lines go, and log files that only their owner may read."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO, cast

ROOT = "loractl"
_LINE = "loractl %(levelname)s %(message)s"
_MAX_BYTES = 10 * 1024 * 1024
_KEPT_FILES = 3


class _PrivateRotatingFileHandler(RotatingFileHandler):
    """Rotates by size and creates every file with mode 0600, whatever the umask."""

    def _open(self) -> TextIO:  # type: ignore[override]
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)
        return cast("TextIO", os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line: a full disk must neither stop the server nor fill the terminal with tracebacks."""


def private_log_file(path: Path, *, max_bytes: int = _MAX_BYTES, kept_files: int = _KEPT_FILES) -> logging.Handler:
    """Return a handler that appends bare lines to `path`, mode 0600, rotated at `max_bytes`.

    Creates the folder, mode 0700. `kept_files` older files stay beside it as ``.1``, ``.2``, ...
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = _PrivateRotatingFileHandler(path, maxBytes=max_bytes, backupCount=kept_files, delay=True)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send what loractl logs in this process to stderr, one ``loractl LEVEL message`` line a record.

    Idempotent, and apart from the root logger, so that an engine that configures logging for itself changes nothing.
    """
    logger = logging.getLogger(ROOT)
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_LINE))
        logger.addHandler(handler)
