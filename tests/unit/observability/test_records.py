"""Records are kept or counted as lost, and nobody waits for either."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from loractl.observability.errors import RecordsUnreadableError
from loractl.observability.outcomes import DropReason, Outcome
from loractl.observability.records import RecordLimits, RecordWriter
from loractl.observability.records_database import RecordsDatabase
from loractl.observability.requests_query import RequestFilter, find_request, find_requests

FAST = {"interval_s": 0.01, "lock_timeout_s": 0.02, "patience_s": 0.1, "trim_interval_s": 0.0}
ALL = RequestFilter(limit=None)
WAIT_S = 10.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "requests.db"


@pytest.fixture
def open_writer(path, counters, clock):
    writers = []

    def open_one(**limits):
        writer = RecordWriter(path, counters=counters, limits=RecordLimits(**(FAST | limits)), clock=clock.utc)
        writer.start()
        writers.append(writer)
        return writer

    yield open_one
    for writer in writers:
        writer.close()


def ids(path):
    return [record.id for record in find_requests(path, ALL)]


def locked(path):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return closing(connection)


def test_record_comes_back_as_it_was(path, open_writer, record_of, counters):
    whole = record_of(
        1,
        outcome=Outcome.TIMED_OUT,
        adapter_digest="sha256:aa",
        base_digest="sha256:bb",
        statement_digest="sha256:cc",
        is_cold=True,
        queue_s=0.5,
        first_token_s=1.5,
        busy_s=2.5,
        total_s=3.0,
        input_tokens=4,
        output_tokens=5,
    )
    bare = record_of(2, version=None, adapter="_base")
    writer = open_writer()

    assert writer.put(whole)
    assert writer.put(bare)
    assert writer.flush(timeout_s=WAIT_S)

    assert find_requests(path, ALL) == [bare, whole]
    assert find_request(path, "request-1") == whole
    assert find_request(path, "request-9") is None
    assert (counters.written, counters.dropped.total()) == (2, 0)


def test_file_and_folder_are_the_owners_alone(path, open_writer, record_of):
    writer = open_writer()
    writer.put(record_of(1))
    writer.flush(timeout_s=WAIT_S)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_content_is_kept_only_by_a_writer_that_is_told_to(path, open_writer, record_of):
    open_writer().put(record_of(1, content='{"prompt": "secret"}'))
    open_writer(keeps_content=True, max_content_chars=10).put(record_of(2, content='{"prompt": "secret"}'))
    wait_for(path, 2)

    assert find_request(path, "request-1").content is None
    assert find_request(path, "request-2").content == '{"prompt":'
    assert b"secret" not in b"".join(each.read_bytes() for each in path.parent.iterdir())


def wait_for(path, count):
    deadline = time.monotonic() + WAIT_S
    while len(ids(path)) != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_text_and_numbers_that_sqlite_cannot_take_are_stored_nevertheless(path, open_writer, record_of, counters):
    writer = open_writer()
    writer.put(record_of(1, tenant="\ud800", input_tokens=2**70))
    assert writer.flush(timeout_s=WAIT_S)

    (found,) = find_requests(path, ALL)
    assert (found.tenant, found.input_tokens) == ("\\ud800", 2**63 - 1)
    assert counters.written == 1


def test_record_that_cannot_be_stored_stops_no_other(path, open_writer, record_of, counters):
    writer = open_writer()
    writer.put(record_of(1, tenant=object()))
    writer.flush(timeout_s=WAIT_S)
    writer.put(record_of(2))
    writer.flush(timeout_s=WAIT_S)

    assert ids(path) == ["request-2"]
    assert counters.dropped == {DropReason.DATABASE: 1}


def test_old_records_are_forgotten(path, open_writer, record_of, clock):
    writer = open_writer(max_age=timedelta(hours=1))
    for number in (0, 1000, 3000):
        writer.put(record_of(number))
    writer.flush(timeout_s=WAIT_S)
    clock.seconds += 3600 + 1000

    wait_for(path, 2)
    assert ids(path) == ["request-3000", "request-1000"]


def test_oldest_records_beyond_the_bound_are_forgotten(path, open_writer, record_of):
    writer = open_writer(max_rows=10)
    for number in range(50):
        writer.put(record_of(number))
    writer.flush(timeout_s=WAIT_S)

    wait_for(path, 10)
    assert ids(path) == [f"request-{number}" for number in range(49, 39, -1)]


def test_same_request_is_kept_once(path, open_writer, record_of):
    writer = open_writer()
    for _ in range(3):
        writer.put(record_of(1))
        writer.flush(timeout_s=WAIT_S)

    assert ids(path) == ["request-1"]


def test_put_never_waits_and_what_has_no_room_is_counted(path, open_writer, record_of, counters):
    writer = open_writer(max_waiting=20, patience_s=60.0, lock_timeout_s=5.0)
    writer.put(record_of(0))
    writer.flush(timeout_s=WAIT_S)
    took = []
    with locked(path):
        for number in range(1, 500):
            begun = time.perf_counter()
            writer.put(record_of(number))
            took.append(time.perf_counter() - begun)
    assert writer.flush(timeout_s=WAIT_S)

    assert sorted(took)[len(took) // 2] < 100e-6
    assert counters.dropped[DropReason.QUEUE_FULL] >= 400
    assert counters.settled == 500
    assert len(ids(path)) == counters.written


def test_content_takes_no_more_memory_than_it_may(open_writer, record_of, path, counters):
    writer = open_writer(keeps_content=True, max_waiting_bytes=50_000, interval_s=5.0)
    puts = [writer.put(record_of(number, content="x" * 9_000)) for number in range(100)]

    assert sum(puts) == 6
    assert counters.dropped == {DropReason.QUEUE_FULL: 94}


def test_lock_that_is_released_in_time_loses_nothing(path, open_writer, record_of, counters):
    writer = open_writer(patience_s=60.0)
    writer.put(record_of(0))
    writer.flush(timeout_s=WAIT_S)
    with locked(path):
        writer.put(record_of(1))
        assert not writer.flush(timeout_s=0.3)
    assert writer.flush(timeout_s=WAIT_S)

    assert (ids(path), counters.dropped.total()) == (["request-1", "request-0"], 0)


def test_lock_that_stays_drops_records_and_counts_them(path, open_writer, record_of, counters):
    writer = open_writer()
    writer.put(record_of(0))
    writer.flush(timeout_s=WAIT_S)
    with locked(path):
        writer.put(record_of(1))
        assert writer.flush(timeout_s=WAIT_S)
    writer.put(record_of(2))
    writer.flush(timeout_s=WAIT_S)

    assert counters.dropped == {DropReason.LOCKED: 1}
    assert ids(path) == ["request-2", "request-0"]


@pytest.mark.parametrize("also_folder", [False, True], ids=["file", "folder"])
def test_deleted_database_is_begun_anew(path, open_writer, record_of, counters, also_folder):
    writer = open_writer()
    writer.put(record_of(1))
    writer.flush(timeout_s=WAIT_S)
    for each in list(path.parent.iterdir()) if also_folder else [path]:
        each.unlink()
    if also_folder:
        path.parent.rmdir()
    writer.put(record_of(2))
    writer.flush(timeout_s=WAIT_S)

    assert ids(path) == ["request-2"]
    assert (counters.written, counters.dropped.total()) == (2, 0)


def test_batch_whose_database_is_deleted_meanwhile_is_written_again(
    path, open_writer, record_of, counters, monkeypatch
):
    append = RecordsDatabase.append
    left = [path]

    def append_and_lose(self, rows):
        append(self, rows)
        if left:
            left.pop().unlink()

    monkeypatch.setattr(RecordsDatabase, "append", append_and_lose)
    writer = open_writer()
    writer.put(record_of(1))
    writer.flush(timeout_s=WAIT_S)

    assert (ids(path), counters.written) == (["request-1"], 1)


def test_database_that_is_deleted_again_and_again_breaks_nothing(path, open_writer, record_of, counters):
    writer = open_writer()
    for number in range(200):
        writer.put(record_of(number))
        if number % 7 == 0:
            path.unlink(missing_ok=True)
            time.sleep(0.005)
    assert writer.flush(timeout_s=WAIT_S)
    writer.put(record_of(1000))
    assert writer.flush(timeout_s=WAIT_S)

    assert counters.settled == 201
    assert "request-1000" in ids(path)


def test_file_that_is_no_database_drops_records_and_counts_them(path, open_writer, record_of, counters):
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)
    writer = open_writer()
    writer.put(record_of(1))
    writer.flush(timeout_s=WAIT_S)
    with pytest.raises(RecordsUnreadableError, match="not a database"):
        find_requests(path, ALL)
    path.unlink()
    writer.put(record_of(2))
    writer.flush(timeout_s=WAIT_S)

    assert counters.dropped == {DropReason.DATABASE: 1}
    assert ids(path) == ["request-2"]


def test_database_of_another_version_is_left_alone(path, open_writer, record_of, counters):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    writer = open_writer()
    writer.put(record_of(1))
    writer.flush(timeout_s=WAIT_S)

    assert counters.dropped == {DropReason.DATABASE: 1}
    with pytest.raises(RecordsUnreadableError, match="schema 99"):
        find_requests(path, ALL)


def test_link_in_place_of_the_database_is_not_followed(path, open_writer, record_of, counters, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    writer = open_writer()
    writer.put(record_of(1))
    writer.flush(timeout_s=WAIT_S)

    assert not (tmp_path / "elsewhere").exists()
    assert counters.dropped == {DropReason.DISK: 1}


def test_closed_writer_takes_nothing_and_says_so(path, open_writer, record_of, counters):
    writer = open_writer(interval_s=60.0)
    writer.put(record_of(1))
    writer.close()

    assert not writer.put(record_of(2))
    assert (counters.written, counters.dropped) == (1, {DropReason.CLOSED: 1})
    assert ids(path) == ["request-1"]


def test_writer_that_never_started_counts_what_it_was_given(path, counters, record_of):
    writer = RecordWriter(path, counters=counters)
    writer.put(record_of(1))
    writer.close()

    assert counters.dropped == {DropReason.CLOSED: 1}


def test_records_of_many_threads_are_all_kept(path, open_writer, record_of, counters):
    writer = open_writer()

    def put(start):
        for number in range(start, start + 250):
            writer.put(record_of(number))

    threads = [threading.Thread(target=put, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush(timeout_s=WAIT_S)

    assert len(ids(path)) == counters.written == 1000


FULL_DISK = """
import resource, sys, time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from loractl.observability.outcomes import DropReason, Outcome
from loractl.observability.record import RequestRecord
from loractl.observability.records import RecordLimits, RecordWriter
from loractl.observability.requests_query import RequestFilter, find_requests

class Counters:
    written = 0
    dropped = Counter()
    def records_written(self, count): self.written += count
    def records_dropped(self, reason, count): self.dropped[reason] += count

soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
path, counters = Path(sys.argv[1]), Counters()
limits = RecordLimits(interval_s=0.01, patience_s=0.05, keeps_content=True)
writer = RecordWriter(path, counters=counters, limits=limits)
writer.start()

def put(count, size):
    global total
    slowest = 0.0
    for _ in range(count):
        begun = time.perf_counter()
        writer.put(RequestRecord(f"r{total}", datetime.now(UTC), "t", "a", 1, Outcome.OK, content="x" * size))
        slowest = max(slowest, time.perf_counter() - begun)
        total += 1
        if total % 10 == 0:
            writer.flush(timeout_s=10)
    writer.flush(timeout_s=10)

total = 0
put(200, 5_000)
assert counters.dropped[DropReason.DISK] > 0, counters.dropped
assert counters.written + counters.dropped.total() == 200
kept = len(find_requests(path, RequestFilter(limit=None)))
assert kept == counters.written > 0, (kept, counters.written)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
dropped = counters.dropped.total()
put(10, 10)
assert counters.dropped.total() == dropped
assert len(find_requests(path, RequestFilter(limit=None))) == counters.written == kept + 10
writer.close()
"""


def test_full_disk_drops_records_counts_them_and_heals(path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", FULL_DISK, str(path)]

    done = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Traceback") == 0


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from loractl.observability.metrics import Metrics
from loractl.observability.outcomes import Outcome
from loractl.observability.record import RequestRecord
from loractl.observability.records import RecordWriter

writer = RecordWriter(Path(sys.argv[1]), counters=Metrics())
writer.start()
for number in range(100):
    writer.put(RequestRecord(f"request-{number}", datetime.now(UTC), "t", "a", 1, Outcome.OK))
writer.flush(timeout_s=10)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_records_outlive_the_server_that_is_killed(path, open_writer, record_of):
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    found = ids(path)
    writer = open_writer()
    writer.put(record_of(1000))
    writer.flush(timeout_s=WAIT_S)

    assert found == [f"request-{number}" for number in range(99, -1, -1)]
    assert ids(path) == ["request-1000", *found]
