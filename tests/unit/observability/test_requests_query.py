"""Finding requests by what they were."""

import sqlite3
from contextlib import closing
from datetime import timedelta, timezone

import pytest

from loractl.observability.errors import RecordsUnreadableError
from loractl.observability.outcomes import Outcome
from loractl.observability.record import to_row
from loractl.observability.records_database import RecordsDatabase
from loractl.observability.requests_query import RequestFilter, find_request, find_requests


@pytest.fixture
def path(tmp_path, record_of):
    path = tmp_path / "requests.db"
    records = [
        record_of(0),
        record_of(1, tenant="globex"),
        record_of(2, adapter="sql-bot", outcome=Outcome.ENGINE),
        record_of(3, version=4),
        record_of(-100, tenant="globex", outcome=Outcome.REFUSED_QUOTA),
    ]
    database = RecordsDatabase(path, timeout_s=1.0)
    database.append(map(to_row, records))
    database.close()
    return path


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        pytest.param({}, [-100, 3, 2, 1, 0], id="all-newest-first"),
        pytest.param({"limit": 2}, [-100, 3], id="limit"),
        pytest.param({"limit": 0}, [], id="none"),
        pytest.param({"tenant": "globex"}, [-100, 1], id="tenant"),
        pytest.param({"adapter": "sql-bot"}, [2], id="adapter"),
        pytest.param({"version": 3}, [-100, 2, 1, 0], id="version"),
        pytest.param({"outcome": Outcome.OK}, [3, 1, 0], id="outcome"),
        pytest.param({"tenant": "globex", "outcome": Outcome.OK}, [1], id="both"),
        pytest.param({"tenant": "' OR 1=1 --"}, [], id="injection"),
    ],
)
def test_filter_finds_what_it_says(path, wanted, numbers):
    found = find_requests(path, RequestFilter(**wanted))

    assert [record.id for record in found] == [f"request-{number}" for number in numbers]


def test_since_is_a_time_of_arrival(path, record_of):
    found = find_requests(path, RequestFilter(since=record_of(1).at))

    assert [record.id for record in found] == ["request-3", "request-2", "request-1"]


def test_since_understands_other_time_zones(path, record_of):
    since = record_of(2).at.astimezone(timezone(timedelta(hours=-7)))

    assert len(find_requests(path, RequestFilter(since=since))) == 2


def test_no_database_means_no_requests(tmp_path):
    assert find_requests(tmp_path / "none.db", RequestFilter()) == []
    assert find_request(tmp_path / "none.db", "x") is None


def test_empty_file_means_no_requests(tmp_path):
    (tmp_path / "empty.db").touch()

    assert find_requests(tmp_path / "empty.db", RequestFilter()) == []


def test_row_that_no_version_wrote_is_an_error_of_ours(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE requests SET outcome = 'mystery'")
        connection.commit()

    with pytest.raises(RecordsUnreadableError, match="mystery") as caught:
        find_requests(path, RequestFilter())
    assert str(path) in caught.value.hint


def test_reading_leaves_the_file_as_it_was(path):
    before = path.read_bytes()
    find_requests(path, RequestFilter())

    assert path.read_bytes() == before
