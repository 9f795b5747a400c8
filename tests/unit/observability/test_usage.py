"""Usage adds up, and both files say the same."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loractl.observability.outcomes import Outcome
from loractl.observability.record import RequestRecord, to_row
from loractl.observability.records_database import RecordsDatabase
from loractl.observability.usage import UsageBy, UsageRow, usage, usage_csv, usage_payload


def write(path, records):
    database = RecordsDatabase(path, timeout_s=1.0)
    database.append(map(to_row, records))
    database.close()


@pytest.fixture
def path(tmp_path, record_of):
    path = tmp_path / "requests.db"
    write(
        path,
        [
            record_of(0, busy_s=3.0, input_tokens=10, output_tokens=20),
            record_of(1, busy_s=3.0, input_tokens=1, output_tokens=2, outcome=Outcome.ENGINE, tenant="globex"),
            record_of(2, busy_s=2.0, adapter="sql-bot"),
            record_of(3, outcome=Outcome.REFUSED_QUOTA, adapter="sql-bot"),
        ],
    )
    return path


def test_usage_by_adapter_is_busiest_first(path):
    assert usage(path, by=UsageBy.ADAPTER) == [
        UsageRow("support-bot", 2, 1, 0, 11, 22, 6.0, 0.75),
        UsageRow("sql-bot", 2, 0, 1, 0, 0, 2.0, 0.25),
    ]


def test_usage_by_tenant_since_a_time_shares_that_time_alone(path, record_of):
    assert usage(path, by=UsageBy.TENANT, since=record_of(1).at) == [
        UsageRow("globex", 1, 1, 0, 1, 2, 3.0, 0.6),
        UsageRow("acme", 2, 0, 1, 0, 0, 2.0, 0.4),
    ]


def test_nothing_recorded_is_no_usage(tmp_path):
    assert usage(tmp_path / "none.db", by=UsageBy.ADAPTER) == []


def test_only_idle_requests_share_nothing(tmp_path, record_of):
    write(tmp_path / "requests.db", [record_of(1)])

    assert [row.share for row in usage(tmp_path / "requests.db", by=UsageBy.TENANT)] == [0.0]


def test_csv_and_json_say_the_same(path):
    rows = usage(path, by=UsageBy.ADAPTER)

    from_csv = [
        {key: value if key == "name" else json.loads(value) for key, value in row.items()}
        for row in csv.DictReader(io.StringIO(usage_csv(rows)))
    ]
    assert from_csv == json.loads(json.dumps(usage_payload(rows))) == usage_payload(rows)


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["acme", "globex", "initech"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(list(Outcome)),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.integers(0, 1000),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=40)
@given(requests=REQUESTS)
def test_usage_of_all_is_the_sum_of_all_requests(tmp_path_factory, requests):
    start = datetime(2026, 1, 31, tzinfo=UTC)

    path = tmp_path_factory.mktemp("usage") / "requests.db"
    write(
        path,
        [
            RequestRecord(
                str(i), start, tenant, adapter, 1, outcome, busy_s=busy, input_tokens=taken, output_tokens=given
            )
            for i, (tenant, adapter, outcome, busy, taken, given) in enumerate(requests)
        ],
    )
    for by in UsageBy:
        rows = usage(path, by=by)
        assert sum(row.requests for row in rows) == len(requests)
        assert sum(row.errors for row in rows) == sum(each[2].is_error for each in requests)
        assert sum(row.refused for row in rows) == sum(each[2].is_refusal for each in requests)
        assert sum(row.busy_s for row in rows) == sum(each[3] for each in requests)
        assert sum(row.input_tokens for row in rows) == sum(each[4] for each in requests)
        assert sum(row.output_tokens for row in rows) == sum(each[5] for each in requests)
        assert sum(row.share for row in rows) == pytest.approx(float(any(each[3] for each in requests)))
