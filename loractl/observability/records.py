"""Keeping a record of every request, on a thread of its own that no answer waits for."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from loractl.observability.outcomes import DropReason
from loractl.observability.record import RequestRecord, to_row
from loractl.observability.records_database import RecordsDatabase, drop_reason
from loractl_registry.clock import utc_now

_logger = logging.getLogger(__name__)
_ROW_BYTES = 512


class RecordCounters(Protocol):
    """Who is told what became of records; `Metrics` is one."""

    def records_written(self, count: int) -> None:
        """Count records that were kept."""
        ...

    def records_dropped(self, reason: DropReason, count: int) -> None:
        """Count records that were lost."""
        ...


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """What is kept, and how much may wait to be written.

    Attributes:
        keeps_content: Whether what was asked and answered is kept too.
        max_content_chars: Of which no more than this of each request.
        max_age: Older records are forgotten.
        max_rows: So are the oldest beyond this many.
        max_waiting: Records that may wait; beyond it they are dropped.
        max_waiting_bytes: Memory that they may take, roughly.
        patience_s: How long a batch that cannot be written is tried again before it is dropped.
        lock_timeout_s: How long one try waits for another process that has the database.
        interval_s: Time between two batches: what ``kill -9`` can lose.
        trim_interval_s: Time between two looks for what is too old or too much.
    """

    keeps_content: bool = False
    max_content_chars: int = 64 * 1024
    max_age: timedelta = timedelta(days=30)
    max_rows: int = 1_000_000
    max_waiting: int = 10_000
    max_waiting_bytes: int = 32 * 2**20
    patience_s: float = 10.0
    lock_timeout_s: float = 0.5
    interval_s: float = 0.25
    trim_interval_s: float = 60.0


class RecordWriter:
    """Writes records to a database in the background.

    Whatever is wrong with the disk or the file, `put` returns at once; records that cannot be kept are counted as
    dropped. A database that is deleted while the server runs is begun anew.

    Args:
        counters: Is told, from the writer's thread or the caller's, what became of each record exactly once.
        clock: The time that ages are measured by.
    """

    def __init__(
        self,
        path: Path,
        *,
        counters: RecordCounters,
        limits: RecordLimits | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._path = path
        self._counters = counters
        self._limits = limits or RecordLimits()
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[RequestRecord] = deque()
        self._waiting_bytes = 0
        self._wake = threading.Event()
        self._idle = threading.Condition(self._lock)
        self._is_closing = False
        self._is_broken = False
        self._batch: list[RequestRecord] = []
        self._batch_since = 0.0
        self._trim_at = 0.0
        self._database: RecordsDatabase | None = None
        self._thread = threading.Thread(target=self._run, name="loractl-records", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, record: RequestRecord) -> bool:
        """Let `record` be written some time soon; return whether there was room for it. Never waits."""
        limits = self._limits
        content = record.content if limits.keeps_content else None
        if content is not None:
            content = content[: limits.max_content_chars]
        if content is not record.content:
            record = replace(record, content=content)
        with self._lock:
            is_closing = self._is_closing
            has_room = len(self._waiting) < limits.max_waiting and self._waiting_bytes < limits.max_waiting_bytes
            if has_room and not is_closing:
                self._waiting.append(record)
                self._waiting_bytes += _size(record)
                return True
        self._counters.records_dropped(DropReason.CLOSED if is_closing else DropReason.QUEUE_FULL, 1)
        return False

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until everything that was put is written or dropped; return whether that came true in time."""
        self._wake.set()
        with self._idle:
            return self._idle.wait_for(lambda: not self._waiting and not self._batch, timeout_s)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Write what waits and stop; what is not written by then is dropped."""
        with self._lock:
            self._is_closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._lock:
            left = len(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
        if left:
            self._counters.records_dropped(DropReason.CLOSED, left)

    def _run(self) -> None:
        while not self._is_finished():
            if not self._is_closing:
                self._wake.wait(self._limits.interval_s)
                self._wake.clear()
            try:
                self._write()
                self._trim()
            except Exception:
                # The thread must outlive whatever happens: without it every later record would be lost.
                _logger.exception("cannot write records of requests")
                self._settle(DropReason.DATABASE)
        self._reset()

    def _is_finished(self) -> bool:
        with self._lock:
            return self._is_closing and not self._waiting and not self._batch

    def _write(self) -> None:
        self._take()
        if not self._batch:
            return
        reason = self._try_to_write() and self._try_to_write()
        is_patient = time.monotonic() - self._batch_since < self._limits.patience_s and not self._is_closing
        if reason is None or not is_patient:
            self._settle(reason)

    def _take(self) -> None:
        with self._lock:
            if not self._batch and self._waiting:
                self._batch = list(self._waiting)
                self._batch_since = time.monotonic()
                self._waiting.clear()
                self._waiting_bytes = 0

    def _try_to_write(self) -> DropReason | None:
        """Write the batch; return None if that succeeded."""
        try:
            if self._database is not None and not self._database.is_current():
                self._reset()
            if self._database is None:
                self._database = RecordsDatabase(self._path, timeout_s=self._limits.lock_timeout_s)
            self._database.append(map(to_row, self._batch))
            if self._database.is_current():
                return None
        except (sqlite3.Error, OSError) as error:
            self._reset()
            self._tell(error)
            return drop_reason(error)
        return DropReason.DATABASE

    def _settle(self, reason: DropReason | None) -> None:
        with self._idle:
            count = len(self._batch)
            self._batch = []
            self._idle.notify_all()
        if reason is not None:
            self._counters.records_dropped(reason, count)
            return
        self._counters.records_written(count)
        if self._is_broken:
            self._is_broken = False
            _logger.info("records of requests are written again")

    def _tell(self, error: Exception) -> None:
        # Once for each time that it breaks: a full disk is not helped by a line every quarter of a second.
        if not self._is_broken:
            self._is_broken = True
            _logger.warning("cannot write records of requests to %s: %s", self._path, error)

    def _trim(self) -> None:
        now = time.monotonic()
        if self._database is None or now < self._trim_at:
            return
        try:
            gone = self._database.trim(now=self._clock(), max_age=self._limits.max_age, max_rows=self._limits.max_rows)
        except sqlite3.Error as error:
            _logger.debug("cannot trim records of requests: %s", error)
            gone = 0
        # While there is more than goes at once, the next batch is followed by the next part.
        self._trim_at = now if gone else now + self._limits.trim_interval_s

    def _reset(self) -> None:
        if self._database is not None:
            database, self._database = self._database, None
            try:
                database.close()
            except sqlite3.Error as error:
                _logger.debug("cannot close records of requests: %s", error)


def _size(record: RequestRecord) -> int:
    return _ROW_BYTES + (len(record.content) if record.content else 0)
