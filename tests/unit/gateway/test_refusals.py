"""The audit log hears of every refusal, whatever happens to the database in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from support.gateway import ref_of, until

from loractl.gateway.refusals import RefusalLog
from loractl_registry import NotFoundError, ServingSnapshot, VersionRef

pytestmark = pytest.mark.anyio


class Journal:
    """Takes refusals unless told otherwise."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.failures: list[Exception] = []

    def changes(self) -> int:
        raise AssertionError

    def snapshot(self, base: str) -> ServingSnapshot:
        raise AssertionError

    def record_refusal(self, ref: VersionRef, *, actor: str, reason: str, detail: Mapping[str, object]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(f"{actor} {ref} {reason} {dict(detail)}")

    def close(self) -> None:
        pass


async def test_refusals_are_written_in_order_after_any_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loractl.gateway.refusals._RETRY_S", 0.01)
    journal = Journal()
    journal.failures = [OSError("locked"), OSError("locked")]
    log = RefusalLog(lambda: journal, "server")
    log.add(ref_of("a@1"), reason="r", detail={"x": 1})
    log.add(ref_of("b@1"), reason="r", detail={})
    await until(lambda: len(journal.written) == 2)
    await log.close()

    assert journal.written == ["server a@1 r {'x': 1}", "server b@1 r {}"]


async def test_version_that_the_registry_does_not_know_any_more_is_let_go() -> None:
    journal = Journal()
    journal.failures = [NotFoundError("no such version")]
    log = RefusalLog(lambda: journal, "server")
    log.add(ref_of("gone@1"), reason="r", detail={})
    log.add(ref_of("b@1"), reason="r", detail={})
    await until(lambda: len(journal.written) == 1)
    await log.close()

    assert journal.written == ["server b@1 r {}"]


async def test_closing_waits_for_what_is_being_written_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loractl.gateway.refusals._RETRY_S", 0.05)
    journal = Journal()
    journal.failures = [OSError("locked")] * 1000
    log = RefusalLog(lambda: journal, "server")
    log.add(ref_of("a@1"), reason="r", detail={})

    await asyncio.wait_for(log.close(), 2)
    assert journal.written == []
