"""A progress bar on stderr for what takes longer than a moment."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID
    from rich.status import Status

# Most files are done before this, and then neither a bar flickers nor rich has to be imported.
_PATIENCE_S = 0.4


class Bar:
    """Counts bytes for the registry; appears after a moment and disappears when it is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._label, self._total, self._counted = "", 0, 0
        self._show_at = 0.0
        self._shown: tuple[Progress, TaskID] | None = None

    def start(self, label: str, total_bytes: int) -> None:
        """Begin `label`, which will process `total_bytes`."""
        self.done()
        self._label, self._total, self._counted = label, total_bytes, 0
        self._show_at = time.monotonic() + _PATIENCE_S

    def advance(self, num_bytes: int) -> None:
        """Count `num_bytes` more; worker threads may call it."""
        with self._lock:
            self._counted += num_bytes
            if self._shown is None and time.monotonic() >= self._show_at:
                self._shown = _show(self._label, self._total)
            if self._shown is not None:
                progress, task = self._shown
                progress.update(task, completed=self._counted)

    def done(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._shown is not None:
                self._shown[0].stop()
            self._shown = None


class Working:
    """A spinner for what takes long and cannot say how long; appears after a moment and disappears at the end."""

    def __init__(self, label: str) -> None:
        self._lock = threading.Lock()
        self._label = label
        self._timer = threading.Timer(_PATIENCE_S, self._show)
        self._status: Status | None = None
        self._is_over = False

    def __enter__(self) -> Working:
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._status is not None:
                self._status.stop()

    def _show(self) -> None:
        from rich.console import Console
        from rich.text import Text

        # As text, because a file's name may look like markup.
        status = Console(stderr=True).status(Text(self._label))
        with self._lock:
            if not self._is_over:
                status.start()
                self._status = status


def _show(label: str, total: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    detail = (TransferSpeedColumn(), TimeRemainingColumn()) if console.width >= 70 else ()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), DownloadColumn(), *detail)
    progress = Progress(*columns, console=console, transient=True)
    progress.start()
    return progress, progress.add_task(label, total=total or None)
