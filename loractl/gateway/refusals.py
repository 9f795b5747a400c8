"""Writing refusals into the audit log, beside everything else: a locked database delays them and nothing more."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from loractl.gateway.watch import RegistrySource
from loractl_registry import NotFoundError, VersionRef

_logger = logging.getLogger(__name__)
_RETRY_S = 1.0


class RefusalLog:
    """Hands each refusal to the registry, again and again until it is written."""

    def __init__(self, open_registry: Callable[[], RegistrySource], actor: str) -> None:
        self._open_registry = open_registry
        self._actor = actor
        self._waiting: deque[tuple[VersionRef, str, Mapping[str, object]]] = deque()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="loractl-audit")
        self._task: asyncio.Task[None] | None = None

    def add(self, ref: VersionRef, *, reason: str, detail: Mapping[str, object]) -> None:
        """Write one audit event ``adapter.refused`` soon."""
        self._waiting.append((ref, reason, detail))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def close(self) -> None:
        """Give what is waiting one more chance, then stop."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_RETRY_S)
            self._task.cancel()
        self._writer.shutdown(wait=False, cancel_futures=True)

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            try:
                await loop.run_in_executor(self._writer, self._write, *self._waiting[0])
            except NotFoundError:
                self._waiting.popleft()  # the registry was replaced by one that has no such version
            except Exception as error:  # noqa: BLE001  # whatever the registry has, the refusal itself stands
                _logger.warning("cannot write to the audit log yet that %s was refused: %s", self._waiting[0][0], error)
                await asyncio.sleep(_RETRY_S)
            else:
                self._waiting.popleft()

    def _write(self, ref: VersionRef, reason: str, detail: Mapping[str, object]) -> None:
        registry = self._open_registry()
        try:
            registry.record_refusal(ref, actor=self._actor, reason=reason, detail=detail)
        finally:
            registry.close()
