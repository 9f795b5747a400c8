"""Keeping counters on disk: what comes back, how often it is written, and a disk that does not take it."""

import asyncio
import logging
import sqlite3

import pytest
from unit.quotas.quota_parts import HandClock, grant, opened, remaining, tenant

from loractl.quotas import CounterFile, CounterSaving, CountersUnusableError, Quotas
from loractl_registry.tenancy import Limits

pytestmark = pytest.mark.anyio
ONE = tenant(
    requests_per_minute=10, tokens_per_minute=100, tokens_per_day=1000, adapters={"bot": Limits(tokens_per_day=500)}
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "quotas.db"


@pytest.fixture
def clock():
    return HandClock()


def reopened(path, clock):
    file = CounterFile.open(path)
    saved = file.load()
    file.close()
    return Quotas([ONE], clocks=clock.clocks(), saved=saved)


async def test_counters_come_back_after_a_stop(path, clock):
    quotas = opened(clock, ONE)
    saving = CounterSaving(quotas, CounterFile.open(path))
    saving.start()
    grant(quotas, 30)
    grant(quotas, 20, adapter="other").settle(7)
    before = remaining(quotas)

    await saving.stop()

    assert (
        remaining(reopened(path, clock))
        == before
        == {
            "requests_per_minute": 8,
            "tokens_per_minute": 63,
            "tokens_per_day": 470,
        }
    )


async def test_new_file_holds_nothing(path):
    file = CounterFile.open(path)

    assert file.load() is None
    file.close()
    file.close()


async def test_requests_on_their_way_end_with_the_process(path, clock):
    quotas = opened(clock, tenant(concurrent=1))
    saving = CounterSaving(quotas, CounterFile.open(path))
    grant(quotas)
    await saving.stop()

    restarted = reopened(path, clock)
    restarted.replace([tenant(concurrent=1)])

    assert remaining(restarted) == {"concurrent": 1}


async def test_disk_is_written_once_an_interval_and_not_without_need(path, clock):
    quotas, file = opened(clock, ONE), CounterFile.open(path)
    written, save = [], file.save
    file.save = lambda saved: (written.append(saved), save(saved))
    saving = CounterSaving(quotas, file, interval_s=0.1)
    saving.start()
    for _ in range(50):
        grant(quotas, 0, adapter="other") if remaining(quotas)["requests_per_minute"] else None
        await asyncio.sleep(0.01)
    busy = len(written)
    await asyncio.sleep(0.5)

    assert 1 <= busy <= 7
    assert len(written) <= busy + 1
    await saving.stop()


async def test_traffic_does_not_wait_for_a_slow_disk(path, clock):
    quotas, file = opened(clock, tenant()), CounterFile.open(path)
    loop, save = asyncio.get_running_loop(), file.save

    def slow(saved):
        import time

        time.sleep(0.3)
        save(saved)

    file.save = slow
    saving = CounterSaving(quotas, file, interval_s=0.05)
    saving.start()
    longest = 0.0
    for _ in range(50):
        begun = loop.time()
        grant(quotas)
        await asyncio.sleep(0.01)
        longest = max(longest, loop.time() - begun)
    await saving.stop()

    assert longest < 0.2
    assert len(reopened(path, clock)) == 1


async def test_full_disk_stops_no_traffic_and_loses_nothing(path, clock, caplog):
    quotas, file = opened(clock, ONE), CounterFile.open(path)
    save = file.save

    def refuse(saved):
        raise CountersUnusableError(path, "database or disk is full")

    file.save = refuse
    saving = CounterSaving(quotas, file, interval_s=0.02)
    saving.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            grant(quotas, 1)
            await asyncio.sleep(0.03)
    assert "full" in saving.trouble()
    assert len(caplog.records) == 1
    file.save = save
    await asyncio.sleep(0.1)

    assert saving.trouble() is None
    before = remaining(quotas)
    await saving.stop()
    assert remaining(reopened(path, clock)) == before


async def test_saving_that_broke_says_so(path, clock):
    quotas, file = opened(clock, ONE), CounterFile.open(path)
    file.close()
    saving = CounterSaving(quotas, file, interval_s=0.01)
    grant(quotas)
    saving.start()
    await asyncio.sleep(0.1)

    assert "not being saved" in saving.trouble()
    with pytest.raises(sqlite3.ProgrammingError):
        await saving.stop()


async def test_counters_that_say_nothing_leave_the_file(path, clock):
    quotas, file = opened(clock, ONE), CounterFile.open(path)
    grant(quotas, 5).settle(0)
    file.save(quotas.take_unsaved())
    clock.advance(90)
    file.save(quotas.forget_idle())

    assert file.load().counters == ()
    file.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE counters SET requests = '[[1, -5]]'",
        "UPDATE counters SET requests = '[[1e999, 5]]'",
        "UPDATE counters SET requests = '[[1]]'",
        "UPDATE counters SET tokens = '{}x'",
        "UPDATE counters SET tokens = '7'",
        "UPDATE counters SET day = '2026-99-99'",
        "UPDATE counters SET day_tokens = -1",
        "UPDATE latest SET today = 'tomorrow!!'",
        "DROP TABLE latest",
        "PRAGMA user_version = 2",
    ],
)
async def test_file_that_somebody_edited_is_refused(path, clock, statement):
    quotas, file = opened(clock, ONE), CounterFile.open(path)
    grant(quotas, 5)
    file.save(quotas.take_unsaved())
    file.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()

    with pytest.raises(CountersUnusableError, match=r"quotas\.db"):
        reopened(path, clock)


@pytest.mark.parametrize("content", [b"no database at all, just some text" * 100, b"\0" * 5000])
async def test_file_that_is_no_database_is_refused(path, content):
    path.write_bytes(content)

    with pytest.raises(CountersUnusableError) as caught:
        CounterFile.open(path)

    assert str(path) in caught.value.hint


async def test_database_of_another_program_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()

    with pytest.raises(CountersUnusableError, match="another program"):
        CounterFile.open(path)


async def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CountersUnusableError, match="absent"):
        CounterFile.open(tmp_path / "absent" / "quotas.db")


async def test_failed_save_leaves_what_was_there(path, clock):
    quotas, file = opened(clock, ONE), CounterFile.open(path)
    grant(quotas, 5)
    file.save(quotas.take_unsaved())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON latest BEGIN SELECT RAISE (ABORT, 'full'); END")
    other.close()
    grant(quotas, 5)

    with pytest.raises(CountersUnusableError, match="full"):
        file.save(quotas.take_unsaved())

    file.close()
    assert remaining(reopened(path, clock))["tokens_per_minute"] == 95


async def test_idle_counters_are_forgotten_as_it_runs(path, clock, monkeypatch):
    monkeypatch.setattr("loractl.quotas.saving._FORGET_EVERY", 2)
    quotas = opened(clock, ONE)
    saving = CounterSaving(quotas, CounterFile.open(path), interval_s=0.02)
    saving.start()
    grant(quotas, 5).settle(0)
    await asyncio.sleep(0.01)
    clock.advance(90)
    await asyncio.sleep(0.15)
    await saving.stop()

    assert len(quotas) == 0
    assert len(reopened(path, clock)) == 0
