"""Saving the counters while requests go on, so that a killed server forgets its last second at most."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from loractl.quotas.counter_file import CounterFile
from loractl.quotas.errors import CountersUnusableError
from loractl.quotas.limiter import Quotas, Saved

INTERVAL_S = 0.5
"""From the start of one save to the start of the next; the rest of a second is for tokens on their way to the counters,
and for writing, even when busy."""

_FORGET_EVERY = 100  # saves
_logger = logging.getLogger(__name__)


class CounterSaving:
    """Reads the counters off on the event loop and writes them beside it. Traffic never waits for the disk.

    Args:
        quotas: Whose counters.
        file: Closed by `stop`.
    """

    def __init__(self, quotas: Quotas, file: CounterFile, *, interval_s: float = INTERVAL_S) -> None:
        self._quotas, self._file, self._interval_s = quotas, file, interval_s
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="loractl-quotas")
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    def start(self) -> None:
        """Begin; to be called on the event loop that the quotas are used from."""
        self._task = asyncio.create_task(self._save_again_and_again())

    async def stop(self) -> None:
        """Save once more, then close the file."""
        self._stopping.set()
        try:
            if self._task is not None:
                await self._task
            await self._save()
        finally:
            self._writer.shutdown()
            self._file.close()

    def trouble(self) -> str | None:
        """Return why the counters on disk are older than a second, None if they are not."""
        if self._task is not None and self._task.done() and not self._stopping.is_set():
            return "counters are not being saved any more"
        return self._trouble

    async def _save_again_and_again(self) -> None:
        loop, saves = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            begun, saves = loop.time(), saves + 1
            await self._save()
            if saves % _FORGET_EVERY == 0:
                await self._forget()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(0.0, self._interval_s - (loop.time() - begun)))

    async def _save(self) -> None:
        changed = self._quotas.take_unsaved()
        if changed is None:
            return
        is_saved = False
        try:
            is_saved = await self._write(changed)
        finally:
            if not is_saved:
                self._quotas.put_back(changed)

    async def _forget(self) -> None:
        # A row that could not be deleted is idle, so the next start forgets it anyway.
        idle = self._quotas.forget_idle()
        if idle.forgotten:
            await self._write(idle)

    async def _write(self, saved: Saved) -> bool:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._file.save, saved)
        except CountersUnusableError as error:
            if self._trouble is None:
                _logger.warning("quotas go on, and a restart would forget what is used from now on: %s", error)
            self._trouble = str(error)
            return False
        if self._trouble is not None:
            _logger.warning("the counters of quotas are saved again")
            self._trouble = None
        return True
