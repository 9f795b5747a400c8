"""The loop that makes the engine hold exactly what the registry says may answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from loractl.engine.errors import EngineError
from loractl.engine.ports import EngineAdapter, EnginePort
from loractl.gateway.controls import Controls
from loractl.gateway.flights import Flights, end_service
from loractl.gateway.holdings import Holdings
from loractl.gateway.integrity import Examination, Verify, examine, signature_of, still_has
from loractl.gateway.notices import Notices
from loractl.gateway.refusals import RefusalLog
from loractl.gateway.table import RefusalOf, ServingTable
from loractl.gateway.watch import RegistrySource, RegistryWatch, Sight, Trace, trace_of
from loractl_registry import AdapterVersion, ExpertLayout, ServingSnapshot, VersionRef, utc_now

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReconcilerTimes:
    """How long the loop waits for what.

    Attributes:
        poll_s: Between two glances at the registry's files and at stored files.
        look_s: Between two looks into the registry while a glance at its files shows no change.
        grace_s: How long the last known table goes on answering while the registry cannot be read; after it, only the
            base answers.
        drain_s: How long requests that the engine has aborted may take to say goodbye before they are cut off.
        retry_s: Between two attempts at what failed: letting go of an adapter, hashing damaged files again.
    """

    poll_s: float = 0.1
    look_s: float = 0.5
    grace_s: float = 5.0
    drain_s: float = 0.3
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ServedRegistry:
    """The registry that a server follows.

    Attributes:
        open: Opens it; called in the thread that reads it, at start and whenever it was lost. It must not create one.
        database: Its database file; a file of another identity is opened anew, a missing one cannot be read.
        base: The base that is served.
        actor: Who the audit log shall say refused a version.
        clock: Tells when something expires.
    """

    open: Callable[[], RegistrySource]
    database: Path
    base: str
    actor: str
    clock: Callable[[], datetime] = utc_now


P = ParamSpec("P")
T = TypeVar("T")
_SLOW_LOOK_S = 1.0
_FILES_A_LOOK = 16


class Reconciler:
    """Follows one registry and keeps one engine in step with it.

    Three things never wait for each other: refusing a name (the table is swapped as soon as the registry was read),
    letting go of what is not wanted, and bringing in what is. A new live version takes its name over only once the
    engine holds it. While the registry cannot be read, the last known table answers for `grace_s`, then only the base.
    All methods belong to one event loop.
    """

    def __init__(
        self,
        *,
        engine: EnginePort,
        registry: ServedRegistry,
        refusal_of: RefusalOf,
        verify: Verify,
        controls: Controls,
        times: ReconcilerTimes | None = None,
    ) -> None:
        self.engine = engine
        self.flights = Flights()
        self._registry = registry
        self._refusal_of = refusal_of
        self._verify = verify
        self._controls = controls
        self._times = times or ReconcilerTimes()
        self._watch = RegistryWatch(registry.open, registry.database, registry.base, registry.clock)
        self._refusals = RefusalLog(registry.open, registry.actor)
        self._notices = Notices()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="loractl-registry")
        self._hashers = ThreadPoolExecutor(2, thread_name_prefix="loractl-verify")
        self._tasks: list[asyncio.Task[None]] = []
        self._evictions: dict[VersionRef, asyncio.Task[None]] = {}
        self._rechecks: dict[VersionRef, asyncio.Task[None]] = {}
        self._retry_at: dict[VersionRef, float] = {}
        self._admitting: VersionRef | None = None
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._unread_since: float | None = None
        self._trace: Trace = ()
        self._looked_at = 0.0
        self._next_file = -1
        self._is_closed = False

    async def start(self) -> None:
        """Read the registry, bring in what is wanted, and begin to follow.

        Returns once everything that can be served is. Raises what the registry raises if it cannot be read.
        """
        sight = await self._in_thread(self._reader, self._watch.poll)
        snapshot = sight.snapshot
        if snapshot is None or sight.callers is None:
            raise RuntimeError("a reconciler can be started only once")
        self._controls.adopt(sight.callers)
        self._controls.serves(snapshot, snapshot)
        self._holdings = Holdings(snapshot, self._refusal_of)
        self._table = ServingTable.base_only(snapshot.base)
        self._tell_refused(snapshot)
        self._refresh()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._admit_for_ever())]
        await self._is_idle.wait()

    async def stop(self) -> None:
        """Stop following; the engine keeps what it holds."""
        tasks = [*self._tasks, *self._evictions.values(), *self._rechecks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._refusals.close()
        self._hashers.shutdown(wait=False, cancel_futures=True)
        self._reader.submit(self._watch.close)
        self._reader.shutdown(wait=False)

    @property
    def table(self) -> ServingTable:
        """What each name means now."""
        return self._table

    @property
    def snapshot(self) -> ServingSnapshot:
        """What the registry said last."""
        return self._holdings.snapshot

    def is_unchanged(self, ref: VersionRef) -> bool:
        """Whether the files of a held version are those that were hashed. Takes microseconds."""
        held = self._holdings.holding(ref)
        return held is not None and still_has(held.version.path, held.signature)

    async def recheck(self, ref: VersionRef) -> None:
        """Hash the files of a held version again; on return the table has lost it if they are not what was approved."""
        await asyncio.shield(self._recheck_soon(ref))

    def trouble(self) -> str | None:
        """Return why the server is not as it should be, or None."""
        if self._is_closed:
            return "the registry cannot be read, so only the base answers"
        if (distrust := self._holdings.snapshot.distrust) is not None:
            return f"the registry cannot be trusted, so only the base answers: {distrust}"
        if (trouble := self._controls.door.callers.trouble) is not None:
            return trouble
        if self._retry_at:
            stuck = ", ".join(sorted(map(str, self._retry_at)))
            return f"the engine has not let go of {stuck}, which is refused all the same"
        return None

    async def _follow(self) -> None:
        look: asyncio.Future[Sight] | None = None
        while True:
            try:
                self._look_at_files()
                look = await self._look(look)
                self._let_go()
            except Exception:
                _logger.exception("following the registry failed; trying again")
                self._unread("an internal error")
                look = None
            await asyncio.sleep(self._times.poll_s)

    async def _look(self, look: asyncio.Future[Sight] | None) -> asyncio.Future[Sight] | None:
        """Take in one look at the registry if one is due; return it if it is still going on, as the only one at a time.

        Each look wakes a thread, for which the event loop stands still while the machine is busy, so there are few.
        """
        if look is None:
            trace, now = trace_of(self._registry.database), self._now()
            if trace == self._trace and now - self._looked_at < self._times.look_s and self._unread_since is None:
                return None
            self._trace, self._looked_at = trace, now
            look = self._in_thread(self._reader, self._watch.look)
        await asyncio.wait({look}, timeout=self._times.poll_s)
        if not look.done():
            if self._now() - self._looked_at > _SLOW_LOOK_S:
                self._unread("it does not answer")
            return look
        self._take_in(look.result())
        return None

    def _look_at_files(self) -> None:
        """Compare the files of some versions, all in turn; each request compares those of its own as well."""
        held = self._holdings.held()
        for _ in range(min(_FILES_A_LOOK, len(held))):
            self._next_file = (self._next_file + 1) % len(held)
            one = held[self._next_file]
            if not still_has(one.version.path, one.signature):
                self._recheck_soon(one.version.ref)
        due = self._now() - self._times.retry_s
        for damaged in self._holdings.damaged():
            if damaged.looked_at < due and signature_of(damaged.version.path) != damaged.signature:
                self._holdings.look_again(damaged.version.ref)
                self._refresh()

    def _take_in(self, sight: Sight) -> None:
        if sight.error is not None:
            self._unread(sight.error)
        elif self._unread_since is not None:
            _logger.info("the registry can be read again")
            self._unread_since, self._is_closed = None, False
            self._refresh()
        if sight.callers is not None:
            self._controls.adopt(sight.callers)
        if sight.snapshot is not None:
            self._controls.serves(sight.snapshot, self._holdings.snapshot)
            self._holdings.adopt(sight.snapshot)
            self._refresh()
            self._tell_refused(sight.snapshot)

    def _tell_refused(self, snapshot: ServingSnapshot) -> None:
        """Say what is not as it was signed; what one row says goes into the audit log as well."""
        self._notices.distrust(snapshot)
        for ref, reason in self._notices.unsigned(snapshot):
            self._refusals.add(ref, reason="it is not what was signed", detail={"objection": reason})

    def _unread(self, why: str) -> None:
        now = self._now()
        if self._unread_since is None:
            self._unread_since = now
            _logger.warning("cannot read the registry: %s; what is served stays so for %g s", why, self._times.grace_s)
        if not self._is_closed and now - self._unread_since > self._times.grace_s:
            self._is_closed = True
            _logger.error("the registry could not be read for %g s: only the base answers now", self._times.grace_s)
            self._refresh()

    def _refresh(self) -> None:
        """Swap the table first, so that a name is refused before anything slower begins."""
        before, snapshot = self._table, self._holdings.snapshot
        self._table = ServingTable.base_only(snapshot.base) if self._is_closed else self._holdings.table()
        self._notices.meaning(before, self._table)
        self._notices.refusals(snapshot, self._holdings, self._table)
        self._let_go()
        self._is_idle.clear()
        self._has_work.set()

    def _let_go(self) -> None:
        now = self._now()
        for ref in self._holdings.unwanted(self.engine.admitted() | self._retry_at.keys()):
            if ref not in self._evictions and ref != self._admitting and self._retry_at.get(ref, now) <= now:
                self._holdings.left(ref)
                self._evictions[ref] = asyncio.create_task(self._evict(ref))

    async def _evict(self, ref: VersionRef) -> None:
        try:
            await end_service(ref, engine=self.engine, flights=self.flights, drain_s=self._times.drain_s)
        except Exception as error:
            if not isinstance(error, EngineError):
                _logger.exception("the engine failed while it let go of %s", ref)
            _logger.error("%s is refused, but the engine has not let go of it: %s", ref, error)  # noqa: TRY400
            self._retry_at[ref] = self._now() + self._times.retry_s
        else:
            self._retry_at.pop(ref, None)
            _logger.info("%s is out of the engine", ref)
        finally:
            del self._evictions[ref]
            self._has_work.set()

    async def _admit_for_ever(self) -> None:
        while True:
            self._has_work.clear()
            while (version := self._holdings.waiting(self._evictions)) is not None:
                self._admitting = version.ref
                try:
                    await self._admit(version)
                finally:
                    self._admitting = None
                self._refresh()
            if not self._evictions:
                self._is_idle.set()
            await self._has_work.wait()

    async def _admit(self, version: AdapterVersion) -> None:
        examination = await self._in_thread(self._hashers, examine, version, self._verify)
        if examination.signature is None or examination.damage is not None:
            self._found_damaged(version, examination)
            return
        if not self._holdings.is_wanted(version):
            return
        is_fused = version.facts.experts is ExpertLayout.FUSED
        try:
            await self.engine.admit(EngineAdapter(version.ref, version.path, is_fused=is_fused))
        except Exception as error:
            if not isinstance(error, EngineError):
                _logger.exception("the engine failed while it loaded %s", version.ref)
            self._holdings.found_refused(version, f"the engine would not load it: {error}")
            self._refusals.add(version.ref, reason="the engine would not load it", detail={"error": str(error)})
            return
        self._retry_at.pop(version.ref, None)
        self._holdings.admitted(version, examination.signature)
        if not self.is_unchanged(version.ref):
            self._found_damaged(version, replace(examination, damage="its files changed while the engine read them"))

    def _recheck_soon(self, ref: VersionRef) -> asyncio.Task[None]:
        if ref not in self._rechecks:
            task = self._rechecks[ref] = asyncio.create_task(self._recheck(ref))
            task.add_done_callback(lambda _: self._rechecks.pop(ref, None))
        return self._rechecks[ref]

    async def _recheck(self, ref: VersionRef) -> None:
        held = self._holdings.holding(ref)
        if held is None:
            return
        examination = await self._in_thread(self._hashers, examine, held.version, self._verify)
        if self._holdings.holding(ref) is not held:
            return
        if examination.damage is None and examination.signature is not None:
            self._holdings.admitted(held.version, examination.signature)
            _logger.info("the files of %s were touched and are intact", ref)
            return
        self._found_damaged(held.version, examination)
        self._refresh()

    def _found_damaged(self, version: AdapterVersion, examination: Examination) -> None:
        damage = examination.damage or "its files are missing"
        self._holdings.found_damaged(version, examination.signature, now=self._now())
        _logger.error("refusing %s: %s; the other versions go on", version.ref, damage)
        self._refusals.add(
            version.ref,
            reason="its stored files are not what was approved",
            detail={"digest": version.digest, "damage": damage},
        )

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def _in_thread(
        executor: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(executor, partial(function, *args, **kwargs))
